//! One io_uring per shard, with a safe interface: whatever an operation points to is kept here
//! until the kernel is done with it.
//!
//! Made for one thread (`SINGLE_ISSUER`, `DEFER_TASKRUN`): completions are worked off inside
//! [`Ring::enter`] only, many at a time, and no interrupt of the shard's thread is needed for them.

use core::fmt;
use core::mem::ManuallyDrop;
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use slab::Slab;
use socket2::SockAddr;

use super::buffers::{BODY_BYTES, Buffers, GROUP, Lease};
use crate::block::Block;

/// Submission queue entries; a full queue is submitted early, so this is no limit on operations.
const ENTRIES: u32 = 512;
/// Completion queue entries; the kernel keeps what does not fit, so this is no limit either.
const COMPLETIONS: u32 = 4096;

/// Names an operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpId(usize);

impl OpId {
    /// The number, for a caller's own table. Numbers are small and are used again.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// What an operation owns while it is under way, and hands back when it is done.
#[derive(Debug)]
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// Nothing; the result is the descriptor of an accepted connection.
    Listener,
    /// The address of a connect.
    #[expect(dead_code, reason = "held for the kernel; nobody wants it back")]
    Address(Box<SockAddr>),
    /// The bytes of a send or read.
    Bytes(Vec<u8>),
    /// The block of a write.
    Block(Block),
}

/// An operation is done.
#[derive(Debug)]
pub(crate) struct Completion {
    /// Which operation.
    pub(crate) op: OpId,
    /// Its result: not negative on success, else a negated error number.
    pub(crate) result: i32,
    /// The received bytes.
    pub(crate) lease: Option<Lease>,
    /// Whether more bytes wait in the socket (a hint).
    pub(crate) nonempty: bool,
    /// The accepted connection.
    pub(crate) socket: Option<OwnedFd>,
    /// What the operation owned.
    pub(crate) held: Held,
}

/// The shard's ring.
pub(crate) struct Ring {
    uring: ManuallyDrop<IoUring>,
    held: ManuallyDrop<Slab<Held>>,
    buffers: ManuallyDrop<Rc<Buffers>>,
    unsubmitted: usize,
}

const NO_OP: u64 = u64::MAX;

impl Ring {
    /// A ring for the calling thread, with `buffers` receive buffers.
    ///
    /// # Errors
    /// When the kernel refuses io_uring, or is older than 6.1.
    pub(crate) fn new(buffers: u16) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(ENTRIES)?;
        let buffers = Buffers::new(buffers)?;
        let (address, slots) = buffers.registration();
        // WHY: the kernel is told an address.
        // SAFETY: the slots live in a mapping owned by `buffers`, which outlives the ring's file
        // descriptor (see `drop`).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(address, slots, GROUP, 0)?;
        }
        Ok(Self {
            uring: ManuallyDrop::new(uring),
            held: ManuallyDrop::new(Slab::with_capacity(64)),
            buffers: ManuallyDrop::new(buffers),
            unsubmitted: 0,
        })
    }

    /// The receive buffers.
    pub(crate) fn buffers(&self) -> &Rc<Buffers> {
        &self.buffers
    }

    /// Operations that were asked for but not told to the kernel.
    pub(crate) fn unsubmitted(&self) -> usize {
        self.unsubmitted
    }

    /// Takes one connection from a listening socket.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>) -> OpId {
        let (address, length) = (core::ptr::null_mut(), core::ptr::null_mut());
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), address, length)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.start(entry, Held::Listener)
    }

    /// Connects a socket.
    pub(crate) fn connect(&mut self, socket: BorrowedFd<'_>, address: SockAddr) -> OpId {
        let address = Box::new(address);
        let (start, length) = (address.as_ptr().cast(), address.len());
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), start, length).build();
        self.start(entry, Held::Address(address))
    }

    /// Receives once, into a buffer of the pool. `later`: only when the kernel reports data.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, later: bool) -> OpId {
        let priority = if later { 1 } else { 0 }; // IORING_RECVSEND_POLL_FIRST
        let entry = opcode::Recv::new(
            Fd(socket.as_raw_fd()),
            core::ptr::null_mut(),
            u32::try_from(BODY_BYTES).unwrap_or(0),
        )
        .buf_group(GROUP)
        .ioprio(priority)
        .build()
        .flags(Flags::BUFFER_SELECT);
        self.start(entry, Held::Nothing)
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, bytes: Vec<u8>) -> OpId {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // The kernel goes on after a short send by itself (MSG_WAITALL).
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.start(entry, Held::Bytes(bytes))
    }

    /// Writes all of `block` at `offset`.
    pub(crate) fn write(&mut self, file: BorrowedFd<'_>, offset: u64, block: Block) -> OpId {
        let bytes = block.bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry =
            opcode::Write::new(Fd(file.as_raw_fd()), bytes.as_ptr(), length).offset(offset).build();
        self.start(entry, Held::Block(block))
    }

    /// Reads at `offset` into `bytes`, as far as its length reaches. (`u64::MAX` reads where a
    /// stream stands.)
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, offset: u64, mut bytes: Vec<u8>) -> OpId {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), bytes.as_mut_ptr(), length)
            .offset(offset)
            .build();
        self.start(entry, Held::Bytes(bytes))
    }

    /// Closes a descriptor, after the operations asked for before.
    pub(crate) fn close(&mut self, file: OwnedFd) {
        let entry = opcode::Close::new(Fd(file.into_raw_fd())).build().user_data(NO_OP);
        self.push(entry);
    }

    /// Asks the kernel to end an operation early; it completes with an error, or as it would have.
    pub(crate) fn cancel(&mut self, op: OpId) {
        let entry = opcode::AsyncCancel::new(op.0 as u64).build().user_data(NO_OP);
        self.push(entry);
    }

    fn start(&mut self, entry: Entry, held: Held) -> OpId {
        let index = self.held.insert(held);
        self.push(entry.user_data(index as u64));
        OpId(index)
    }

    fn push(&mut self, entry: Entry) {
        // WHY: the queue cannot know what an entry points to.
        // SAFETY: what the entry points to is in `held` until the completion is seen, or in the
        // pool's mapping; moving a box, vector or block into `held` does not move its heap memory.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            // Full. Submitting makes room: the kernel takes all entries that it is shown.
            let _ = self.uring.submit();
            self.unsubmitted = 0;
        }
        self.unsubmitted += 1;
    }

    /// Tells the kernel what was asked for and lets it work off what is done. With `wait`, sleeps
    /// until at least one completion is there, or for that long.
    ///
    /// # Errors
    /// Only when the ring itself is broken.
    pub(crate) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.unsubmitted = 0;
        let done = match wait {
            None => self.uring.submit(),
            Some(Duration::MAX) => self.uring.submit_and_wait(1),
            Some(time) => {
                let time = Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
                let args = SubmitArgs::new().timespec(&time);
                self.uring.submitter().submit_with_args(1, &args)
            }
        };
        match done {
            Ok(_) => Ok(()),
            // The time is over; a signal; or the kernel wants its completions read first.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Moves all completions that are there to `into`.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>) {
        let queue = self.uring.completion();
        for entry in queue {
            if entry.user_data() == NO_OP {
                continue;
            }
            let index = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let lease = cqueue::buffer_select(entry.flags()).map(|id| {
                let bytes = usize::try_from(entry.result()).unwrap_or(0);
                self.buffers.lease(id, bytes)
            });
            let accepted = matches!(self.held.get(index), Some(Held::Listener));
            let socket = (accepted && entry.result() >= 0).then(|| {
                // WHY: the kernel names the new descriptor by number.
                // SAFETY: a non-negative result of an accept is a descriptor that nobody owns yet.
                unsafe { OwnedFd::from_raw_fd(entry.result()) }
            });
            let held = self.held.remove(index);
            into.push(Completion {
                op: OpId(index),
                result: entry.result(),
                lease,
                nonempty: cqueue::sock_nonempty(entry.flags()),
                socket,
                held,
            });
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may go on reading and writing for a moment after its file is closed, so memory
        // of operations under way is left to the end of the process, with the buffer pool.
        // WHY: the order and the leak cannot be expressed otherwise.
        // SAFETY: each field is dropped at most once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        if self.held.is_empty() {
            // SAFETY: as above. WHY: no operation is under way, so nothing points to the pool.
            unsafe { ManuallyDrop::drop(&mut self.held) };
            // SAFETY: as above. WHY: as above; leases keep the pool alive by themselves.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} operations under way)", self.held.len())
    }
}
