//! Simulated disks: flat folders of paged files whose operations take time and can be cut short.
//!
//! A submitted write, create, rename or remove belongs to the world: it takes effect also when the
//! task that asked for it is gone. When its host is killed first, its effect is drawn from the
//! seed: for a write each page is old or new. A failed write leaves the same choice behind, as the
//! trait says. A read sees, for pages that are being written, either state.
//!
//! A disk may be shared by several hosts. Reads beyond a file's end come short; a write there is
//! misuse, and so is a write over one that is in flight.

use core::task::{Poll, Waker};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::random::Random;
use super::trace::{What, sum};
use super::{Core, Crash, Due, Shared, SimRuntime, World};
use crate::{Block, Disk, File, Instant, IoError, IoKind, PAGE_BYTES, Runtime};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOENT: i32 = 2;

/// When a write that resolved too early becomes stable: at most so many nanoseconds later.
const EARLY_NS_MAX: u64 = 20_000_000;

/// Names a disk of a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskId(usize);

type Page = Box<[u8; PAGE_BYTES]>;

#[derive(Clone, Default)]
struct Inode {
    bytes: u64,
    /// What was never written is zero.
    pages: BTreeMap<u64, Page>,
}

#[derive(Default)]
pub(super) struct DiskState {
    files: BTreeMap<String, usize>,
    inodes: Vec<Inode>,
    ops: BTreeMap<u64, Op>,
    ops_made: u64,
    /// All writes fail until the power was off.
    broken: bool,
}

struct Op {
    host: usize,
    kind: OpKind,
    /// Set when the task may go on.
    result: Option<Result<(), i32>>,
    /// Whether it has taken effect.
    applied: bool,
    /// Nobody waits for the result.
    abandoned: bool,
    waker: Option<Waker>,
}

enum OpKind {
    Write { inode: usize, at: u64, block: Option<Block>, copy: Vec<u8> },
    Create { name: String, bytes: u64, inode: usize },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl OpKind {
    fn data(&self) -> &[u8] {
        match self {
            Self::Write { block: Some(block), .. } => block.bytes(),
            Self::Write { copy, .. } => copy,
            _ => &[],
        }
    }
}

impl Inode {
    fn put(&mut self, page: u64, bytes: &[u8]) {
        let mut fresh: Page = Box::new([0; PAGE_BYTES]);
        fresh.copy_from_slice(bytes);
        self.pages.insert(page, fresh);
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let end = at.saturating_add(bytes as u64).min(self.bytes);
        let mut out = vec![0; usize::try_from(end.saturating_sub(at)).unwrap_or(0)];
        let first = at / PAGE_BYTES as u64;
        for (page, content) in self.pages.range(first..end.div_ceil(PAGE_BYTES as u64)) {
            lay_over(&mut out, at, page * PAGE_BYTES as u64, content.as_slice());
        }
        out
    }
}

/// Copies the part of `bytes`, which lie at `from`, that overlaps `out`, which lies at `at`.
fn lay_over(out: &mut [u8], at: u64, from: u64, bytes: &[u8]) {
    let start = at.max(from);
    let end = (at + out.len() as u64).min(from + bytes.len() as u64);
    if start < end {
        let target = (start - at) as usize..(end - at) as usize;
        let source = (start - from) as usize..(end - from) as usize;
        out[target].copy_from_slice(&bytes[source]);
    }
}

impl DiskState {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|inode| self.inodes[*inode].bytes).sum()
    }

    /// Writes the pages of `data` for which `wanted` holds.
    fn write(&mut self, inode: usize, at: u64, data: &[u8], mut wanted: impl FnMut() -> bool) {
        for (index, page) in data.chunks_exact(PAGE_BYTES).enumerate() {
            if wanted() {
                self.inodes[inode].put(at / PAGE_BYTES as u64 + index as u64, page);
            }
        }
    }

    /// Applies `kind` wholly; says whether that was possible.
    fn apply(&mut self, kind: &OpKind) -> Result<(), i32> {
        match kind {
            OpKind::Write { inode, at, .. } => self.write(*inode, *at, kind.data(), || true),
            OpKind::Create { name, inode, .. } => {
                self.files.insert(name.clone(), *inode);
            }
            OpKind::Rename { from, to } => {
                let inode = self.files.remove(from).ok_or(ENOENT)?;
                self.files.insert(to.clone(), inode);
            }
            OpKind::Remove { name } => {
                self.files.remove(name).ok_or(ENOENT)?;
            }
        }
        Ok(())
    }

    /// Applies `kind` as a crash or an error in its middle may leave it.
    fn apply_partly(&mut self, kind: &OpKind, random: &mut Random) {
        match kind {
            OpKind::Write { inode, at, .. } => {
                self.write(*inode, *at, kind.data(), || random.coin());
            }
            OpKind::Create { name, bytes, inode } if random.coin() => {
                // There, but with any number of its pages.
                let pages = random.below(bytes / PAGE_BYTES as u64 + 1);
                self.inodes[*inode].bytes =
                    if random.coin() { *bytes } else { pages * PAGE_BYTES as u64 };
                self.files.insert(name.clone(), *inode);
            }
            OpKind::Rename { .. } | OpKind::Remove { .. } if random.coin() => {
                // Atomic; that it was possible is checked when it is done.
                let _ = self.apply(kind);
            }
            _ => {}
        }
    }
}

impl Core {
    fn disk_latency(&mut self) -> u64 {
        let options = &self.options.disk;
        let mut latency = self.random.within(options.latency_ns);
        if self.random.chance(options.stalls) {
            latency += options.stall_ns;
        }
        latency
    }

    fn submit(&mut self, host: usize, disk: usize, kind: OpKind) -> u64 {
        let early = matches!(kind, OpKind::Write { .. })
            && self.random.chance(self.options.bugs.early_writes);
        let mut at_ns = self.now_ns + self.disk_latency();
        let state = &mut self.disks[disk];
        state.ops_made += 1;
        let op = state.ops_made;
        let counts = &mut self.hosts[host].counts;
        match &kind {
            OpKind::Write { at, .. } => {
                counts.writes += 1;
                counts.written_bytes += kind.data().len() as u64;
                let value = sum(kind.data()) ^ at.rotate_left(32);
                self.note(What::Write, host, op, value);
            }
            OpKind::Create { name, .. } | OpKind::Remove { name } => {
                counts.names += 1;
                let value = sum(name.as_bytes());
                self.note(What::Name, host, op, value);
            }
            OpKind::Rename { from, to } => {
                counts.names += 1;
                let value = sum(from.as_bytes()) ^ sum(to.as_bytes()).rotate_left(1);
                self.note(What::Name, host, op, value);
            }
        }
        let kind = match kind {
            OpKind::Write { inode, at, block, .. } if early => {
                let copy = block.as_ref().map_or_else(Vec::new, |block| block.bytes().to_vec());
                OpKind::Write { inode, at, block, copy }
            }
            kind => kind,
        };
        if early {
            self.set_timer(at_ns, Due::DiskEarly { disk, op });
            at_ns += self.random.below(EARLY_NS_MAX);
        }
        self.set_timer(at_ns, Due::DiskDone { disk, op });
        let fresh = Op { host, kind, result: None, applied: false, abandoned: false, waker: None };
        self.disks[disk].ops.insert(op, fresh);
        op
    }

    /// The planted bug: the task is told that its write is stable, and it is not.
    pub(super) fn disk_early(&mut self, disk: usize, op: u64) {
        if let Some(op) = self.disks[disk].ops.get_mut(&op) {
            op.result = Some(Ok(()));
            if let Some(waker) = op.waker.take() {
                waker.wake();
            }
        }
    }

    /// The time of the operation has come: it takes effect.
    pub(super) fn disk_done(&mut self, disk: usize, number: u64) {
        // Missing when its host was killed meanwhile.
        let Some(mut op) = self.disks[disk].ops.remove(&number) else { return };
        let state = &mut self.disks[disk];
        let mut result = match &op.kind {
            _ if op.result.is_some() => state.apply(&op.kind),
            OpKind::Write { .. } => {
                let options = &self.options.disk;
                state.broken &= options.errors_stick;
                let errno = if state.broken || self.random.chance(options.write_errors) {
                    state.broken = options.errors_stick;
                    Some(EIO)
                } else {
                    self.random.chance(options.write_full).then_some(ENOSPC)
                };
                match errno {
                    Some(errno) => {
                        state.apply_partly(&op.kind, &mut self.random);
                        Err(errno)
                    }
                    None => {
                        if self.random.chance(self.options.bugs.misplaced_writes) {
                            misplace(&mut op.kind, &state.inodes);
                        }
                        state.apply(&op.kind)
                    }
                }
            }
            OpKind::Create { .. } | OpKind::Rename { .. } | OpKind::Remove { .. } => {
                if self.random.chance(self.options.disk.name_errors) {
                    Err(EIO)
                } else {
                    state.apply(&op.kind)
                }
            }
        };
        if result.is_err() && self.random.chance(self.options.bugs.swallowed_errors) {
            result = Ok(());
        }
        self.note(What::Done, op.host, number, u64::from(result.is_ok()));
        op.applied = true;
        if op.abandoned {
            return;
        }
        if op.result.is_none() {
            op.result = Some(result);
        }
        let waker = op.waker.take();
        self.disks[disk].ops.insert(number, op);
        if self.random.chance(self.options.bugs.lost_wakes) {
            self.lost_wakes += 1;
        } else if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Decides what the operations of a killed host leave behind.
    pub(super) fn disk_kill(&mut self, host: usize, crash: Crash) {
        for state in &mut self.disks {
            let mine: Vec<u64> =
                state.ops.iter().filter(|(_, op)| op.host == host).map(|(n, _)| *n).collect();
            for number in mine {
                let Some(op) = state.ops.remove(&number) else { continue };
                let told = op.result.is_some();
                if op.applied {
                    continue;
                }
                // What a lying disk keeps in its cache survives the process, not the power.
                if told && crash == Crash::Process {
                    let _ = state.apply(&op.kind);
                } else {
                    state.apply_partly(&op.kind, &mut self.random);
                }
            }
            if crash == Crash::Power {
                state.broken = false;
            }
        }
    }

    /// Looks at a finished operation.
    fn poll_op(&mut self, disk: usize, number: u64, waker: &Waker) -> Poll<Result<(), i32>> {
        let Some(op) = self.disks[disk].ops.get_mut(&number) else { return Poll::Pending };
        match op.result {
            Some(result) => Poll::Ready(result),
            None => {
                op.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

/// The planted bug: one page further, where the file is long enough.
fn misplace(kind: &mut OpKind, inodes: &[Inode]) {
    let length = kind.data().len() as u64;
    if let OpKind::Write { inode, at, .. } = kind {
        let further = *at + PAGE_BYTES as u64;
        if further + length <= inodes[*inode].bytes {
            *at = further;
        }
    }
}

/// Waits for an operation; when dropped before, the operation goes on alone.
struct Waiting {
    core: Shared,
    disk: usize,
    op: u64,
}

impl Waiting {
    async fn done(&self) -> Result<(), i32> {
        core::future::poll_fn(|cx| self.core.borrow_mut().poll_op(self.disk, self.op, cx.waker()))
            .await
    }

    /// The block of a write that is done.
    fn block(&self) -> Block {
        let mut core = self.core.borrow_mut();
        match core.disks[self.disk].ops.get_mut(&self.op).map(|op| &mut op.kind) {
            Some(OpKind::Write { block, .. }) => block.take().unwrap_or_else(|| Block::new(0)),
            _ => Block::new(0),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        let ops = &mut core.disks[self.disk].ops;
        if let Some(op) = ops.get_mut(&self.op) {
            if op.applied {
                ops.remove(&self.op);
            } else {
                op.abandoned = true;
                op.waker = None;
            }
        }
    }
}

/// A host's handle to a disk.
#[derive(Clone)]
pub struct SimDisk {
    rt: SimRuntime,
    disk: usize,
}

impl SimDisk {
    fn core(&self) -> &Shared {
        &self.rt.core
    }

    /// Checks that the host still lives: a handle of an earlier life does nothing.
    fn check(&self, operation: &'static str, name: &str) -> Result<(), IoError> {
        if self.core().borrow().lives(self.rt.host, self.rt.incarnation) {
            Ok(())
        } else {
            Err(IoError::new(IoKind::Failed, operation, name))
        }
    }

    async fn wait(&self) {
        let at = {
            let mut core = self.core().borrow_mut();
            core.now_ns + core.disk_latency()
        };
        self.rt.sleep_until(Instant::from_ns(at)).await;
    }

    async fn submit(
        &self,
        operation: &'static str,
        name: &str,
        kind: OpKind,
    ) -> Result<(), IoError> {
        self.check(operation, name)?;
        let op = self.core().borrow_mut().submit(self.rt.host, self.disk, kind);
        let waiting = Waiting { core: Rc::clone(self.core()), disk: self.disk, op };
        waiting.done().await.map_err(|errno| IoError::from_errno(errno, operation, name))
    }

    fn file(&self, inode: usize, name: &str) -> SimFile {
        SimFile { disk: self.clone(), inode, name: name.into() }
    }
}

impl core::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SimDisk({} of {:?})", self.disk, self.rt)
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn create(&self, name: &str, bytes: u64) -> Result<SimFile, IoError> {
        let inode = {
            let mut core = self.core().borrow_mut();
            let capacity = core.options.disk.capacity_bytes;
            let state = &mut core.disks[self.disk];
            let old = state.files.get(name).map_or(0, |inode| state.inodes[*inode].bytes);
            if state.used_bytes() - old + bytes > capacity {
                return Err(IoError::from_errno(ENOSPC, "create", name));
            }
            state.inodes.push(Inode { bytes, pages: BTreeMap::new() });
            state.inodes.len() - 1
        };
        let kind = OpKind::Create { name: name.into(), bytes, inode };
        self.submit("create", name, kind).await?;
        Ok(self.file(inode, name))
    }

    async fn open(&self, name: &str) -> Result<SimFile, IoError> {
        self.wait().await;
        let inode = self.core().borrow().disks[self.disk].files.get(name).copied();
        match inode {
            Some(inode) => Ok(self.file(inode, name)),
            None => Err(IoError::from_errno(ENOENT, "open", name)),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        let kind = OpKind::Rename { from: from.into(), to: to.into() };
        self.submit("rename", from, kind).await
    }

    async fn remove(&self, name: &str) -> Result<(), IoError> {
        self.submit("remove", name, OpKind::Remove { name: name.into() }).await
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, IoError> {
        self.wait().await;
        Ok(self.core().borrow().disks[self.disk].list())
    }

    fn free_bytes(&self) -> Result<u64, IoError> {
        let core = self.core().borrow();
        let capacity = core.options.disk.capacity_bytes;
        Ok(capacity.saturating_sub(core.disks[self.disk].used_bytes()))
    }
}

impl DiskState {
    fn list(&self) -> Vec<(String, u64)> {
        let bytes = |inode: &usize| self.inodes[*inode].bytes;
        self.files.iter().map(|(name, inode)| (name.clone(), bytes(inode))).collect()
    }
}

/// An open simulated file. It stays readable after it was renamed, replaced or removed.
#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    inode: usize,
    name: Rc<str>,
}

impl SimFile {
    /// Whether a write of `bytes` at `at` is one that the trait allows.
    fn check_write(&self, at: u64, bytes: u64) -> Result<(), IoError> {
        let mut core = self.disk.core().borrow_mut();
        let state = &core.disks[self.disk.disk];
        let past = at + bytes > state.inodes[self.inode].bytes;
        let over = state.ops.values().any(|op| match &op.kind {
            OpKind::Write { inode, at: other, .. } if op.result.is_none() && !op.applied => {
                let length = op.kind.data().len() as u64;
                *inode == self.inode && at < other + length && *other < at + bytes
            }
            _ => false,
        });
        let page = PAGE_BYTES as u64;
        let crooked = !at.is_multiple_of(page) || !bytes.is_multiple_of(page) || bytes == 0;
        let why = match (past, over, crooked) {
            (true, ..) => "past the end of the file",
            (_, true, _) => "over a write in flight",
            (.., true) => "of something else than whole pages",
            _ => return Ok(()),
        };
        core.complain(format!("write of {bytes} bytes at {at} of {} {why}", self.name));
        Err(IoError::new(IoKind::Failed, "write", &*self.name))
    }
}

impl core::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl File for SimFile {
    async fn write_durable(&self, at: u64, block: Block) -> (Block, Result<(), IoError>) {
        if let Err(error) = self.disk.check("write", &self.name) {
            return (block, Err(error));
        }
        if let Err(error) = self.check_write(at, block.len() as u64) {
            return (block, Err(error));
        }
        let (core, disk) = (self.disk.core(), self.disk.disk);
        let kind = OpKind::Write { inode: self.inode, at, block: Some(block), copy: Vec::new() };
        let op = core.borrow_mut().submit(self.disk.rt.host, disk, kind);
        let waiting = Waiting { core: Rc::clone(core), disk, op };
        let result = waiting.done().await;
        let result = result.map_err(|errno| IoError::from_errno(errno, "write", &*self.name));
        (waiting.block(), result)
    }

    async fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, IoError> {
        self.disk.check("read", &self.name)?;
        self.disk.wait().await;
        let mut core = self.disk.core().borrow_mut();
        let Core { disks, random, options, .. } = &mut *core;
        if random.chance(options.disk.read_errors) {
            return Err(IoError::from_errno(EIO, "read", &*self.name));
        }
        let state = &disks[self.disk.disk];
        let mut out = state.inodes[self.inode].read(at, bytes);
        for op in state.ops.values().filter(|op| !op.applied) {
            match &op.kind {
                OpKind::Write { inode, at: from, .. } if *inode == self.inode => {
                    for (index, page) in op.kind.data().chunks_exact(PAGE_BYTES).enumerate() {
                        if op.result.is_some() || random.coin() {
                            lay_over(&mut out, at, from + (index * PAGE_BYTES) as u64, page);
                        }
                    }
                }
                _ => {}
            }
        }
        let host = self.disk.rt.host;
        let counts = &mut core.hosts[host].counts;
        counts.reads += 1;
        counts.read_bytes += out.len() as u64;
        // Not the bytes: they follow from what was noted before, and starts read a great many.
        core.note(What::Read, host, self.inode as u64, out.len() as u64 ^ at.rotate_left(32));
        Ok(out)
    }
}

impl SimRuntime {
    /// This host's handle to `disk`.
    #[must_use]
    pub fn disk(&self, disk: DiskId) -> SimDisk {
        SimDisk { rt: self.clone(), disk: disk.0 }
    }
}

impl World {
    /// Adds an empty disk.
    pub fn disk(&mut self) -> DiskId {
        let mut core = self.core.borrow_mut();
        core.disks.push(DiskState::default());
        DiskId(core.disks.len() - 1)
    }

    /// Names and lengths of the files on `disk`.
    #[must_use]
    pub fn files(&self, disk: DiskId) -> Vec<(String, u64)> {
        self.core.borrow().disks[disk.0].list()
    }

    /// What a file holds on stable storage; writes in flight are not seen.
    #[must_use]
    pub fn contents(&self, disk: DiskId, name: &str) -> Option<Vec<u8>> {
        let core = self.core.borrow();
        let state = &core.disks[disk.0];
        let inode = &state.inodes[*state.files.get(name)?];
        Some(inode.read(0, usize::try_from(inode.bytes).ok()?))
    }

    /// Flips bits of one byte at rest; false when the file has no such byte.
    pub fn flip(&mut self, disk: DiskId, name: &str, at: u64, bits: u8) -> bool {
        let mut core = self.core.borrow_mut();
        let state = &mut core.disks[disk.0];
        let Some(inode) = state.files.get(name) else { return false };
        let inode = &mut state.inodes[*inode];
        if at >= inode.bytes {
            return false;
        }
        let page = at / PAGE_BYTES as u64;
        let content = inode.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
        content[(at % PAGE_BYTES as u64) as usize] ^= bits;
        true
    }

    /// Flips one bit in a page that was ever written, drawn from the seed; says where.
    pub fn flip_any(&mut self, disk: DiskId) -> Option<(String, u64)> {
        let (name, at, bit) = {
            let mut core = self.core.borrow_mut();
            let Core { disks, random, .. } = &mut *core;
            let state = &disks[disk.0];
            let pages: Vec<(&String, u64)> = state
                .files
                .iter()
                .flat_map(|(name, inode)| {
                    state.inodes[*inode].pages.keys().map(move |page| (name, *page))
                })
                .collect();
            let (name, page) = *pages.get(random.index(pages.len()))?;
            let at = page * PAGE_BYTES as u64 + random.below(PAGE_BYTES as u64);
            (name.clone(), at, random.below(8))
        };
        self.flip(disk, &name, at, 1 << bit).then_some((name, at))
    }
}
