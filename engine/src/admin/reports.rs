//! What the `dmarc reports` command does, with the engine running or not.
//!
//! Beside a running engine that sends reports its task is asked, which looks every address up;
//! otherwise the file with the rows says what waits.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use fsmtp_rt::UnixTime;

use super::{StoreAdmin, refused};
use crate::control::{AdminError, AdminErrorKind, AdminReply, PAGE_ENTRIES_MAX, ReportEntry};
use crate::dmarc::collect::{Waiting, stored};
use crate::dmarc::send::{Ask, Door};

/// How long the task may take to answer; less than a client of the control socket waits.
const PATIENCE: Duration = Duration::from_secs(8);

/// Who knows what waits.
#[derive(Debug)]
pub(crate) enum Rows {
    /// Nobody: the engine sends no reports.
    Nobody,
    /// The task that sends them.
    Task(Door),
    /// The file in a data folder that no engine runs on.
    Folder(PathBuf),
}

impl StoreAdmin {
    /// With the way to what waits to be reported.
    pub(crate) fn with_reports(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// Says what waits, or sends it.
    pub(super) fn reports(&self, send: bool) -> Result<AdminReply, AdminError> {
        let mut entries = match &self.rows {
            Rows::Nobody => {
                let text = "no reports are sent: dmarc.reports is false, or the log says why";
                return Err(AdminError::new(AdminErrorKind::Invalid, text));
            }
            Rows::Folder(_) if send => {
                let text = "no engine runs that could send reports";
                return Err(AdminError::new(AdminErrorKind::Invalid, text));
            }
            Rows::Folder(data) => {
                let waiting = stored(data).map_err(|error| refused(&error))?;
                waiting.into_iter().map(entry).collect()
            }
            Rows::Task(door) => ask(door, send)?,
        };
        entries.truncate(PAGE_ENTRIES_MAX);
        Ok(AdminReply::Reports { entries })
    }
}

fn ask(door: &Door, really: bool) -> Result<Vec<ReportEntry>, AdminError> {
    let (reply, answer) = channel();
    door.put(Ask { really, reply });
    answer.recv_timeout(PATIENCE).map_err(|_| {
        let text = "it takes longer: what was asked for goes on, and the log says how";
        AdminError::new(AdminErrorKind::Busy, text)
    })
}

fn entry(waiting: Waiting) -> ReportEntry {
    let Waiting { day, domain, rows } = waiting;
    let day = UnixTime::from_ms(u64::from(day) * 86_400_000).rfc3339().to_string();
    let day = day.split('T').next().unwrap_or_default().to_owned();
    ReportEntry { day, domain, rows, ..ReportEntry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Admin as _, AdminRequest};
    use fsmtp_cluster::node::NodeMailboxes;
    use fsmtp_store::mailbox::{Embedded, Options};

    #[test]
    fn who_cannot_send_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (mailboxes, keeper) = Embedded::open(folder.path(), Options::new(1)).unwrap();
        let admin =
            || StoreAdmin::online(NodeMailboxes::alone(mailboxes.clone()), "us.example", None);
        let ask = |admin: &StoreAdmin, send| admin.execute(AdminRequest::DmarcReports { send });
        let error = ask(&admin(), false).unwrap_err();
        assert!(error.message.contains("dmarc.reports is false"), "{error}");
        let offline = admin().with_reports(Rows::Folder(folder.path().to_owned()));
        assert_eq!(ask(&offline, false), Ok(AdminReply::Reports { entries: Vec::new() }));
        let error = ask(&offline, true).unwrap_err();
        assert!(error.message.contains("no engine runs"), "{error}");
        keeper.close().unwrap();
    }

    #[test]
    fn the_task_answers() {
        let door = Door::default();
        let asked = door.clone();
        let task = std::thread::spawn(move || {
            let Ask { really, reply } = fsmtp_store::mailbox::wait(asked.take());
            let waiting = Waiting { day: 9, domain: "d.example".to_owned(), rows: 2 };
            reply.send(vec![entry(waiting)]).unwrap();
            really
        });
        let entries = ask(&door, true).unwrap();
        assert_eq!((&*entries[0].day, entries[0].rows), ("1970-01-10", 2));
        assert!(task.join().unwrap());
    }
}
