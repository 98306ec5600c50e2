//! Files of a shard: durable writes and reads through the ring, everything else on a helper thread.
//!
//! A file is written with `O_DIRECT | O_DSYNC` into blocks that were allocated and zeroed when it
//! was made, so a durable write is one operation: no copy into the page cache, no journal commit,
//! no kernel worker thread. (Measured: docs/decisions/0003-durable-writes.md.) A file system that
//! knows no direct writes (tmpfs of old) gets buffered `O_DSYNC` writes instead. Reads go through
//! the page cache.

use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};

use super::{Shard, Target};
use crate::sys::ring::{Completion, Held, OpId};
use crate::{Block, Disk, File, IoError, IoKind};

/// Descriptors that an open file takes: one for direct writes, one for reads.
pub const DESCRIPTORS_PER_FILE: u64 = 2;
/// How much is zeroed with one write when a file is made.
const ZERO_BYTES: usize = 1 << 20;

/// A read or write under way.
#[derive(Default)]
pub(super) struct Transfer {
    done: Option<Completion>,
    waker: Option<Waker>,
}

impl Transfer {
    pub(super) fn finish(transfer: &Rc<RefCell<Self>>, completion: Completion) {
        let waker = {
            let mut transfer = transfer.borrow_mut();
            transfer.done = Some(completion);
            transfer.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits for `op` on `file`. When dropped early the operation goes on: the ring keeps its memory,
/// and the table of those who wait keeps the file open.
async fn completion(file: &Rc<FileInner>, op: OpId) -> Completion {
    let transfer = Rc::new(RefCell::new(Transfer::default()));
    let target = Target::File { transfer: Rc::clone(&transfer), _open: Rc::clone(file) };
    file.shard.expect(op, target);
    poll_fn(|cx| {
        let mut transfer = transfer.borrow_mut();
        match transfer.done.take() {
            Some(done) => Poll::Ready(done),
            None => {
                transfer.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// The files of one folder.
#[derive(Clone)]
pub struct GlommioDisk {
    shard: Rc<Shard>,
    folder: Rc<PathBuf>,
}

impl GlommioDisk {
    pub(super) fn new(shard: Rc<Shard>, folder: PathBuf) -> Self {
        Self { shard, folder: Rc::new(folder) }
    }

    /// Runs `job` on a helper thread with the path of file `name`.
    async fn help<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        job: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, IoError> {
        let path = self.folder.join(name);
        let object = path.display().to_string();
        let result = self
            .shard
            .helpers
            .run(move || job(&path))
            .map_err(|_| IoError::new(IoKind::Exhausted, operation, object.clone()))?;
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(IoError::from_io(&e, operation, object)),
            Err(_) => Err(IoError::new(IoKind::Failed, operation, object)),
        }
    }

    fn file(&self, name: &str, (writer, reader): (OwnedFd, OwnedFd)) -> GlommioFile {
        let name = self.folder.join(name).display().to_string();
        let inner = FileInner { shard: Rc::clone(&self.shard), writer, reader, name };
        GlommioFile { inner: Rc::new(inner) }
    }
}

impl core::fmt::Debug for GlommioDisk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GlommioDisk({})", self.folder.display())
    }
}

fn open_both(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let write = OFlags::WRONLY | OFlags::DSYNC | OFlags::CLOEXEC;
    let writer = match rustix::fs::open(path, write | OFlags::DIRECT, Mode::empty()) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::open(path, write, Mode::empty()),
        opened => opened,
    }?;
    let reader = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((writer, reader))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a file whose blocks are allocated and zeroed on disk: a later write changes no metadata.
fn make(path: &Path, bytes: u64) -> io::Result<(OwnedFd, OwnedFd)> {
    drop(fs::File::create(path)?);
    let made = open_both(path).and_then(|files| {
        zero(&files.0, bytes)?;
        sync_folder(path)?;
        Ok(files)
    });
    if made.is_err() {
        // A file of the wrong length would be taken for damage later.
        let _ = fs::remove_file(path);
    }
    made
}

/// Fills a file with zeros that are on stable storage when this returns.
fn zero(file: &OwnedFd, bytes: u64) -> io::Result<()> {
    let mut zeros = Block::new(ZERO_BYTES);
    let fits = zeros.push(&vec![0; ZERO_BYTES]);
    assert!(fits, "the block was made for this");
    // Reserved first, in one piece if there is one, so that a full disk is seen at once.
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        other => other?,
    }
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from((bytes - at).min(ZERO_BYTES as u64)).unwrap_or(0);
        let written = rustix::io::pwrite(file, zeros.bytes().get(..piece).unwrap_or(&[]), at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
    }
    rustix::fs::fsync(file)?;
    Ok(())
}

fn list(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = match entry.metadata() {
            // Another shard has renamed or removed it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            data => data?,
        };
        if let (true, Ok(name)) = (data.is_file(), entry.file_name().into_string()) {
            files.push((name, data.len()));
        }
    }
    files.sort();
    Ok(files)
}

impl Disk for GlommioDisk {
    type File = GlommioFile;

    async fn create(&self, name: &str, bytes: u64) -> Result<GlommioFile, IoError> {
        let files = self.help("create", name, move |path| make(path, bytes)).await?;
        Ok(self.file(name, files))
    }

    async fn open(&self, name: &str) -> Result<GlommioFile, IoError> {
        let files = self.help("open", name, open_both).await?;
        Ok(self.file(name, files))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        let to = self.folder.join(to);
        self.help("rename", from, move |path| {
            fs::rename(path, to)?;
            sync_folder(path)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), IoError> {
        self.help("remove", name, |path| {
            fs::remove_file(path)?;
            sync_folder(path)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, IoError> {
        self.help("list", "", list).await
    }

    fn free_bytes(&self) -> Result<u64, IoError> {
        let object = || self.folder.display().to_string();
        let space = rustix::fs::statvfs(self.folder.as_path()).map_err(|e| {
            IoError::from_errno(e.raw_os_error(), "look at free space of", object())
        })?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

pub(super) struct FileInner {
    shard: Rc<Shard>,
    writer: OwnedFd,
    reader: OwnedFd,
    name: String,
}

/// An open file.
#[derive(Clone)]
pub struct GlommioFile {
    inner: Rc<FileInner>,
}

impl core::fmt::Debug for GlommioFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GlommioFile({})", self.inner.name)
    }
}

impl File for GlommioFile {
    async fn write_durable(&self, at: u64, block: Block) -> (Block, Result<(), IoError>) {
        let inner = &*self.inner;
        let bytes = block.len();
        let op = inner.shard.ring.borrow_mut().write(inner.writer.as_fd(), at, block);
        let done = completion(&self.inner, op).await;
        let result = match usize::try_from(done.result) {
            Ok(written) if written == bytes => Ok(()),
            // A short write to a file of fixed length: the disk is full or failing.
            Ok(_) => Err(IoError::new(IoKind::Failed, "write all to", inner.name.clone())),
            Err(_) => Err(IoError::from_errno(-done.result, "write to", inner.name.clone())),
        };
        match done.held {
            Held::Block(block) => (block, result),
            _ => (Block::new(0), result),
        }
    }

    async fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, IoError> {
        let inner = &*self.inner;
        let buffer = vec![0; bytes];
        let op = inner.shard.ring.borrow_mut().read(inner.reader.as_fd(), at, buffer);
        let done = completion(&self.inner, op).await;
        let read = usize::try_from(done.result)
            .map_err(|_| IoError::from_errno(-done.result, "read", inner.name.clone()))?;
        let Held::Bytes(mut buffer) = done.held else { return Ok(Vec::new()) };
        buffer.truncate(read);
        Ok(buffer)
    }
}
