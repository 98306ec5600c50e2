//! Receive buffers that the kernel picks from (`IORING_REGISTER_PBUF_RING`).
//!
//! A buffer has one owner at a time: the kernel (it lies in the ring), a [`Lease`] (a connection
//! reads from it), or the free stack. Idle connections own none. Only a few buffers lie in the ring
//! at once and the stack is last in, first out, so a lightly loaded shard keeps to a few warm ones.
//!
//! Each buffer has room in front of the part that the kernel fills: what is left of a line when the
//! next piece arrives is copied there, so a line that was cut is whole again without moving the
//! larger part.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};
use std::io;
use std::rc::Rc;

use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes that one receive can bring.
pub(crate) const BODY_BYTES: usize = 16 * 1024;
/// Bytes in front of them for the rest of a cut line; must exceed the longest line, 2,048 bytes.
pub(crate) const HEAD_BYTES: usize = 4 * 1024;
/// How many buffers lie in the ring at once: more than the receives that complete in one turn.
const OFFERED_MAX: u16 = 64;
/// Ring slots; a power of two, at least [`OFFERED_MAX`].
const SLOTS: u16 = 64;
/// The group number under which the ring is registered.
pub(crate) const GROUP: u16 = 1;

const BUFFER_BYTES: usize = HEAD_BYTES + BODY_BYTES;

/// An anonymous mapping, unmapped on drop.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        // WHY: the ring must be page-aligned, and untouched buffers shall cost no memory.
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // WHY: there is no safe way to give a mapping back.
        // SAFETY: `start` and `bytes` are those of a mapping made in `new`, and nothing borrows
        // from it any more: leases hold the pool, and the ring was closed before (see `Ring`).
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// All receive buffers of one shard.
pub(crate) struct Buffers {
    slots: Mapping,
    memory: Mapping,
    tail: Cell<u16>,
    offered: Cell<u16>,
    free: RefCell<Vec<u16>>,
}

impl Buffers {
    /// Maps `count` buffers; none is touched before it is used.
    ///
    /// # Errors
    /// When the kernel has no address space for them.
    pub(crate) fn new(count: u16) -> io::Result<Rc<Self>> {
        let slots = Mapping::new(usize::from(SLOTS) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * BUFFER_BYTES)?;
        let free: Vec<u16> = (0..count).rev().collect();
        let pool =
            Self { slots, memory, tail: Cell::new(0), offered: Cell::new(0), free: free.into() };
        pool.refill();
        Ok(Rc::new(pool))
    }

    /// Address and slot count, for registration with the kernel.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.slots.start.as_ptr() as u64, SLOTS)
    }

    /// How many buffers the kernel has to fill.
    pub(crate) fn available(&self) -> u16 {
        self.offered.get()
    }

    /// Takes over buffer `id`, which the kernel filled with `bytes` bytes.
    ///
    /// Called by the ring only, once for each completion that names a buffer.
    pub(super) fn lease(self: &Rc<Self>, id: u16, bytes: usize) -> Lease {
        assert!(bytes <= BODY_BYTES, "the kernel cannot fill more than it was given");
        self.offered.set(self.offered.get() - 1);
        self.refill();
        Lease { pool: Rc::clone(self), id, start: HEAD_BYTES, end: HEAD_BYTES + bytes }
    }

    fn refill(&self) {
        while self.offered.get() < OFFERED_MAX {
            let Some(id) = self.free.borrow_mut().pop() else { return };
            self.offer(id);
        }
    }

    fn offer(&self, id: u16) {
        let tail = self.tail.get();
        let slot = usize::from(tail & (SLOTS - 1));
        let body = self.address(id).as_ptr() as u64 + HEAD_BYTES as u64;
        let base = self.slots.start.cast::<BufRingEntry>();
        // WHY: the ring is memory shared with the kernel; only raw writes reach it.
        // SAFETY: `slot` < SLOTS entries lie in the mapping; the kernel does not read a slot before
        // the tail below covers it, and OFFERED_MAX <= SLOTS keeps the tail from lapping the head.
        let entry = unsafe { &mut *base.as_ptr().add(slot) };
        entry.set_addr(body);
        entry.set_len(u32::try_from(BODY_BYTES).unwrap_or(0));
        entry.set_bid(id);
        // WHY: the tail is published to the kernel, so it must be an atomic store.
        // SAFETY: the mapping is page-aligned and zeroed, the tail lies in its first entry, and it
        // is aligned for u16; every access to it is atomic.
        let shared = unsafe { &*BufRingEntry::tail(base.as_ptr()).cast::<AtomicU16>() };
        shared.store(tail.wrapping_add(1), Ordering::Release);
        self.tail.set(tail.wrapping_add(1));
        self.offered.set(self.offered.get() + 1);
    }

    fn give_back(&self, id: u16) {
        if self.offered.get() < OFFERED_MAX {
            self.offer(id);
        } else {
            self.free.borrow_mut().push(id);
        }
    }

    fn address(&self, id: u16) -> NonNull<u8> {
        let offset = usize::from(id) * BUFFER_BYTES;
        assert!(offset + BUFFER_BYTES <= self.memory.bytes, "a buffer id out of range");
        // WHY: buffers are parts of one mapping, whose memory the kernel writes too.
        // SAFETY: the offset was checked to lie in the mapping.
        unsafe { self.memory.start.add(offset) }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffers({} offered, {} free)", self.offered.get(), self.free.borrow().len())
    }
}

/// A filled buffer, owned by one connection; goes back to the pool on drop.
pub(crate) struct Lease {
    pool: Rc<Buffers>,
    id: u16,
    start: usize,
    end: usize,
}

impl Lease {
    /// The unread bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let base = self.pool.address(self.id);
        // WHY: the memory is the kernel's to write while the buffer is offered, so it is no slice.
        // SAFETY: while the lease lives the buffer is not offered, so nobody writes to it; start <=
        // end <= BUFFER_BYTES by construction; the mapping is zeroed, hence initialised.
        unsafe { core::slice::from_raw_parts(base.add(self.start).as_ptr(), self.end - self.start) }
    }

    /// Drops `bytes` bytes from the front.
    ///
    /// # Panics
    /// When fewer are there.
    pub(crate) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "more consumed than was filled");
        self.start += bytes;
    }

    /// Puts `rest` in front of the unread bytes; false, and nothing happens, without room for it.
    pub(crate) fn put_back(&mut self, rest: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(rest.len()) else { return false };
        let base = self.pool.address(self.id);
        // WHY: see `bytes`.
        // SAFETY: [start, self.start) lies in this buffer, which only this lease may touch, and
        // `rest`, a safe slice, cannot overlap memory that no slice covers.
        unsafe {
            core::ptr::copy_nonoverlapping(rest.as_ptr(), base.add(start).as_ptr(), rest.len());
        }
        self.start = start;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease(buffer {}, {} bytes)", self.id, self.end - self.start)
    }
}
