//! The file that says which messages got their 250: one line each, id, checksum, octets.
//!
//! A thread writes it, so that no core waits for a disk: cores hand over batches, of which at most
//! [`BATCHES_MAX`] wait; then the cores wait after all. A disk that fails is reported at the end,
//! by [`Ledger::close`], and a ledger that is not whole is an error of the run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::executor::Batch;
use super::message::{Templates, id};

/// Some million messages; arbitrary.
const BATCHES_MAX: usize = 1_024;

/// A ledger that is being written.
#[derive(Debug)]
pub(crate) struct Ledger {
    sender: SyncSender<Batch>,
    thread: JoinHandle<Result<(), String>>,
}

impl Ledger {
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn open(path: &Path, run: u32, templates: &Arc<Templates>) -> Result<Self, String> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|e| format!("{name}: {e}"))?;
        let (sender, batches) = sync_channel(BATCHES_MAX);
        let templates = Arc::clone(templates);
        let thread = std::thread::Builder::new()
            .name("loadgen-ledger".into())
            .spawn(move || {
                write(file, run, &templates, &batches).map_err(|e| format!("{name}: {e}"))
            })
            .map_err(|e| e.to_string())?;
        Ok(Self { sender, thread })
    }

    /// Where batches go.
    pub(crate) fn sender(&self) -> SyncSender<Batch> {
        self.sender.clone()
    }

    /// Waits until all is written that was handed over before. A shard may end with tasks that are
    /// never dropped, and their senders with them, so a batch without rows says that it is over.
    ///
    /// # Errors
    /// When something could not be written.
    pub(crate) fn close(self) -> Result<(), String> {
        // The writer is gone only when the disk has failed.
        let _ = self.sender.send(Batch { core: 0, rows: Vec::new() });
        self.thread.join().unwrap_or_else(|_| Err("the ledger's writer has panicked".into()))
    }
}

fn write(
    file: File,
    run: u32,
    templates: &Templates,
    batches: &Receiver<Batch>,
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 16, file);
    for Batch { core, rows } in batches.iter().take_while(|batch| !batch.rows.is_empty()) {
        for (number, template) in rows {
            let template = templates.get(template);
            let (id, octets) = (id(run, core, number), template.octets());
            writeln!(file, "{id} {} {octets}", template.sum)?;
        }
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Sizes;
    use super::*;

    #[test]
    fn every_acknowledged_message_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let sizes = Sizes(vec![(1_000, 1_000, 1.0)]);
        let templates = Arc::new(Templates::new(&sizes, None).unwrap());
        let ledger = Ledger::open(&path, 7, &templates).unwrap();
        let sender = ledger.sender();
        for core in 0..2 {
            sender.send(Batch { core, rows: vec![(0, 0), (1, 0)] }).unwrap();
        }
        ledger.close().unwrap();
        drop(sender);
        let text = std::fs::read_to_string(&path).unwrap();
        let ids: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let expected = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(core, n)| id(7, core, n));
        assert_eq!(ids, expected);
        assert!(text.lines().all(|line| line.ends_with(" 1000")));
        assert!(Ledger::open(folder.path(), 7, &templates).is_err());
    }
}
