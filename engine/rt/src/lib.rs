//! The seam to the machine. Everything above asks the world through these traits only.
//!
//! Two back ends: `glommio` (one pinned executor per core, and a ring of our own for sockets and
//! files) and `sim` (one thread, one seed, virtual time, a network and a disk that fail on
//! purpose). The same store and engine code runs on both.
//!
//! A [`Runtime`] handle belongs to one shard and one thread: nothing here is `Send`. A waker of a
//! task may be woken from any thread.
#![allow(async_fn_in_trait)] // WHY: shards share nothing, so no future here needs to be Send

pub mod block;
pub mod error;
pub mod glommio;
pub mod helpers;
pub mod sim;
#[allow(unsafe_code)] // WHY: see there; nothing else in the workspace may
mod sys;

use core::net::{IpAddr, SocketAddr};

pub use block::{Block, PAGE_BYTES};
pub use error::{IoError, IoKind};
pub use fsmtp_proto::time::{Instant, UnixTime};

/// The largest number of unread bytes that a connection's window can hold.
///
/// Must exceed the longest line that a protocol accepts, or a session could never make progress.
pub const WINDOW_BYTES_MAX: usize = 16 * 1024;

/// What a task is for; each class has its own queue and its own share of the core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Taking new connections.
    Accept,
    /// Protocol sessions.
    Session,
    /// Log writes that sessions wait for.
    Spool,
    /// What nobody waits for: compaction, reclaim, checks.
    Background,
}

/// One shard's view of the machine.
pub trait Runtime: Clone + 'static {
    /// An accepted or opened stream.
    type Conn: Conn;
    /// The shard's files.
    type Disk: Disk;

    /// Monotonic time; may be as old as the last time the shard looked for events.
    fn now(&self) -> Instant;
    /// The same, looked up now: for measurements, since it costs a look at the clock each time.
    fn now_exact(&self) -> Instant {
        self.now()
    }
    /// Wall-clock time; may step in either direction.
    fn unix(&self) -> UnixTime;
    /// Fills `into` with random bytes (predictable in the simulator).
    fn random(&self, into: &mut [u8]);
    /// Starts a task on this shard. It is dropped, wherever it stands, when the shard ends.
    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static);
    /// Resolves at or soon after `at`.
    async fn sleep_until(&self, at: Instant);
    /// Lets every other ready task of the shard run once.
    async fn yield_now(&self);
    /// An empty buffer from the shard's pool, for replies.
    fn buffer(&self) -> Vec<u8>;
    /// Gives a buffer back to the pool. (One that was sent returns by itself.)
    fn recycle(&self, buffer: Vec<u8>);
}

/// A runtime that opens connections, too.
pub trait Dial: Runtime {
    /// Opens a connection to `to`, from any port of `from` or from where the system likes.
    ///
    /// # Errors
    /// [`IoKind::Refused`] when nobody listens there, [`IoKind::TimedOut`] at the deadline,
    /// [`IoKind::Exhausted`] when descriptors or source ports have run out.
    async fn dial(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        deadline: Instant,
    ) -> Result<Self::Conn, IoError>;
}

/// A runtime that exchanges datagrams, too.
pub trait Datagrams: Runtime {
    /// A socket for datagrams.
    type Udp: Udp;

    /// A socket that exchanges datagrams with `to` and nobody else, from a port that is drawn anew
    /// each time: whoever wants to answer in the place of `to` has to guess it.
    ///
    /// # Errors
    /// [`IoKind::Exhausted`] when descriptors or ports have run out; anything else when there is no
    /// way to `to`.
    fn udp(&self, to: SocketAddr) -> Result<Self::Udp, IoError>;
}

/// The longest datagram that is received whole; a longer one is cut.
pub const DATAGRAM_BYTES_MAX: usize = WINDOW_BYTES_MAX;

/// A socket for datagrams, connected to one address.
///
/// A datagram may be lost, come twice, or after one that was sent later; what comes is whole.
pub trait Udp: 'static {
    /// The other side's address.
    fn peer(&self) -> SocketAddr;
    /// Sends one datagram. One for which the system has no room now is lost like any other.
    ///
    /// # Errors
    /// When the system knows that it will not arrive, also of one before: [`IoKind::Refused`] when
    /// nobody takes datagrams there.
    fn send(&mut self, bytes: &[u8]) -> Result<(), IoError>;
    /// Waits for the next datagram. It may be empty.
    ///
    /// # Errors
    /// [`IoKind::TimedOut`] at the deadline, after which one may go on; [`IoKind::Refused`] when
    /// nobody takes datagrams there.
    async fn receive(&mut self, deadline: Instant) -> Result<&[u8], IoError>;
}

/// Where new connections come from.
pub trait Listener: 'static {
    /// What it yields.
    type Conn: Conn;

    /// The next connection. An error does not end the listener unless its kind says so.
    async fn accept(&mut self) -> Result<Self::Conn, IoError>;
}

/// A stream with a receive window.
///
/// The window belongs to the connection: the bytes that [`filled`](Conn::filled) shows lie where
/// the kernel (or the TLS layer) put them, and stay there until [`consume`](Conn::consume).
pub trait Conn: 'static {
    /// The other side's address.
    fn peer(&self) -> SocketAddr;
    /// Our own address.
    fn local(&self) -> SocketAddr;
    /// Bytes that have arrived and were not consumed.
    fn filled(&self) -> &[u8];
    /// Drops `bytes` bytes from the front of the window.
    ///
    /// # Panics
    /// When fewer are filled.
    fn consume(&mut self, bytes: usize);
    /// Waits until at least one more byte has arrived; says how many did, 0 at the end of the
    /// stream.
    ///
    /// # Errors
    /// [`IoKind::TimedOut`] at the deadline, [`IoKind::Closed`] after a reset.
    async fn fill(&mut self, deadline: Instant) -> Result<usize, IoError>;
    /// Sends all of `bytes`. May return before the bytes have left; at most one buffer is under
    /// way, so a second call waits for the first. The buffer returns to the runtime's pool.
    ///
    /// # Errors
    /// Those of this call or of the one before it.
    async fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError>;
    /// Waits until everything has been sent, then closes both directions.
    async fn close(&mut self, deadline: Instant);
}

/// A folder of flat files.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: File;

    /// Makes a file of exactly `bytes` bytes, all zero; its name and length are on stable storage
    /// when this resolves. Replaces an older file of that name.
    async fn create(&self, name: &str, bytes: u64) -> Result<Self::File, IoError>;
    /// Opens an existing file.
    async fn open(&self, name: &str) -> Result<Self::File, IoError>;
    /// Renames, durably, replacing `to`.
    async fn rename(&self, from: &str, to: &str) -> Result<(), IoError>;
    /// Removes a file, durably.
    async fn remove(&self, name: &str) -> Result<(), IoError>;
    /// Names and lengths of all files, sorted by name.
    async fn list(&self) -> Result<Vec<(String, u64)>, IoError>;
    /// Bytes that can still be written to the file system.
    fn free_bytes(&self) -> Result<u64, IoError>;
}

/// An open file; clones are handles to the same file.
pub trait File: Clone + 'static {
    /// Writes the whole block at `at`; on success it is on stable storage. The block comes back
    /// either way. `at` and the block's length must be multiples of [`PAGE_BYTES`].
    ///
    /// After an error nothing is known about the range: it may hold the old bytes, the new ones, or
    /// a mixture in units of pages.
    async fn write_durable(&self, at: u64, block: Block) -> (Block, Result<(), IoError>);
    /// Reads up to `bytes` bytes at `at`; fewer only at the end of the file.
    async fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, IoError>;
}
