//! Small pieces of the hot path, each as a value that can be run again and again.
//!
//! Two instruments measure the same table: `cargo bench -p bench` the time (criterion), and
//! `cargo run --profile fast -p bench --bin icount` the instructions (callgrind), which do not
//! depend on what else the machine does and are held to `bench/baseline.csv`. A case does the same
//! work on each call, asks neither clock nor operating system for anything that could make it vary,
//! and stops the program when its work is not done: a figure of a failure would be worth nothing.

mod cases;

pub use cases::{CASES, Case};
