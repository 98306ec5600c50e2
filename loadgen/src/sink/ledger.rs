//! The file that says what the sink has received: a line `id sum octets` for each message.
//!
//! A thread writes it; cores hand over whole lines, [`BATCH_BYTES`] at a time, of which at most
//! [`BATCHES_MAX`] wait; then the cores wait after all. A disk that fails is reported at the end,
//! by [`Ledger::close`].

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// What a core gathers before it hands it over.
pub(super) const BATCH_BYTES: usize = 64 * 1024;
/// 16 MiB; arbitrary.
const BATCHES_MAX: usize = 256;

/// A ledger that is being written.
#[derive(Debug)]
pub(super) struct Ledger {
    sender: SyncSender<Vec<u8>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Ledger {
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let mut file = File::create(path).map_err(|e| format!("{name}: {e}"))?;
        let (sender, batches) = sync_channel::<Vec<u8>>(BATCHES_MAX);
        let write = move || {
            let mut batches = batches.iter().take_while(|lines| !lines.is_empty());
            batches.try_for_each(|lines| file.write_all(&lines)).map_err(|e| format!("{name}: {e}"))
        };
        let thread = std::thread::Builder::new().name("loadgen-ledger".into()).spawn(write);
        Ok(Self { sender, thread: thread.map_err(|e| e.to_string())? })
    }

    /// Where lines go.
    pub(super) fn sender(&self) -> SyncSender<Vec<u8>> {
        self.sender.clone()
    }

    /// Waits until all is written that was handed over before. A shard may end with tasks that are
    /// never dropped, and their senders with them, so an empty batch says that it is over.
    ///
    /// # Errors
    /// When something could not be written.
    pub(super) fn close(self) -> Result<(), String> {
        // The writer is gone only when the disk has failed.
        let _ = self.sender.send(Vec::new());
        self.thread.join().unwrap_or_else(|_| Err("the ledger's writer has panicked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_though_a_sender_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        let left = ledger.sender();
        left.send(b"a line\n".to_vec()).unwrap();
        ledger.close().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a line\n");
        drop(left);
        assert!(Ledger::open(folder.path()).is_err());
    }
}
