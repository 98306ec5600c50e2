//! The only place of the workspace where `unsafe` stands: memory that the kernel reads and writes.
//!
//! Two small types with safe interfaces: [`ring::Ring`] keeps everything that an operation under
//! way points to, and [`buffers::Buffers`] lends receive buffers to the kernel and to connections,
//! one owner at a time. Each block says why safe code cannot do it and why it is sound.

pub(crate) mod buffers;
pub(crate) mod ring;
