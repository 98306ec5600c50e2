//! Where mail goes: the store of a node, with its engine running or not.
//!
//! Called by `import-cassandra`. A running engine is called anew for each request, so that other
//! commands come in between. Limits: those of a request at the control socket.

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::{Engine, checks};
use crate::config::Config;
use crate::control::{
    self, Admin, AdminError, AdminErrorKind, AdminReply, AdminRequest, MailEntry, MailName,
    MailOutcome,
};
use crate::dirlock::{self, DirError, DirLock, DirState};

/// Bytes of a message in one request: 60,000 in base64, and there is room for the rest.
pub(super) const PART_BYTES_MAX: usize = 45_000;
/// Names in one request: each has some 60 bytes, and an address of 320 at most.
pub(super) const NAMES_MAX: usize = 150;
/// What a message takes beside its bytes and its address.
const ENTRY_BYTES: usize = 150;
/// How long the cluster may take nothing before it is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A store.
pub(super) enum Target {
    /// None was made yet, and none will be.
    Nothing,
    /// An engine runs on this folder.
    Running(PathBuf),
    /// This command has it.
    Own(Box<dyn Admin>),
}

impl Target {
    /// # Errors
    /// Why it cannot be opened.
    pub(super) fn open(
        config: &Config,
        engine: &dyn Engine,
        dry_run: bool,
    ) -> Result<Self, String> {
        let folder = &config.data;
        if dry_run && matches!(dirlock::inspect(folder), Ok(DirState::Fresh)) {
            return Ok(Self::Nothing);
        }
        let socket = |error| format!("cannot reach the engine on {}: {error}", folder.display());
        if control::call(folder).map_err(socket)?.is_some() {
            return Ok(Self::Running(folder.clone()));
        }
        match DirLock::take(folder) {
            Ok(lock) => {
                let mut config = config.clone();
                checks::take_descriptors(&mut config)?;
                checks::take_locked_memory().map_err(|why| format!("locked memory: {why}"))?;
                engine.open_to_import(&config, lock).map(Self::Own)
            }
            Err(error @ DirError::InUse { .. }) => {
                Err(format!("{error}, which takes no commands: it starts or stops"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn execute(&mut self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let failed = |text: String| AdminError::new(AdminErrorKind::Failed, text);
        match self {
            Self::Nothing => Err(failed("there is no store".to_owned())),
            Self::Own(admin) => admin.execute(request),
            Self::Running(folder) => {
                let called = control::call(folder).map_err(|error| failed(error.to_string()))?;
                let mut client =
                    called.ok_or_else(|| failed("the engine has stopped".to_owned()))?;
                client.execute(&request)
            }
        }
    }

    /// The domains that are there.
    pub(super) fn domains(&mut self) -> Result<BTreeSet<String>, String> {
        self.list(
            |after| AdminRequest::DomainList { after },
            |reply| match reply {
                AdminReply::Domains { domains, more } => Some((domains, more)),
                _ => None,
            },
        )
    }

    /// The accounts that are there.
    pub(super) fn accounts(&mut self) -> Result<BTreeSet<String>, String> {
        self.list(
            |after| AdminRequest::UserList { after },
            |reply| match reply {
                AdminReply::Users { users, more } => {
                    Some((users.into_iter().map(|user| user.address).collect(), more))
                }
                _ => None,
            },
        )
    }

    fn list(
        &mut self,
        request: impl Fn(Option<String>) -> AdminRequest,
        page: impl Fn(AdminReply) -> Option<(Vec<String>, bool)>,
    ) -> Result<BTreeSet<String>, String> {
        let mut all = BTreeSet::new();
        if matches!(self, Self::Nothing) {
            return Ok(all);
        }
        let mut after = None;
        loop {
            let reply = self.execute(request(after)).map_err(|error| error.to_string())?;
            let (names, more) = page(reply).ok_or_else(odd)?;
            after = names.last().cloned();
            all.extend(names);
            if !more || after.is_none() {
                return Ok(all);
            }
        }
    }

    /// For each message whether it was taken over before.
    pub(super) fn known(&mut self, names: &[MailName]) -> Result<Vec<bool>, String> {
        if matches!(self, Self::Nothing) {
            return Ok(vec![false; names.len()]);
        }
        let mut all = Vec::with_capacity(names.len());
        for some in names.chunks(NAMES_MAX) {
            let request = AdminRequest::MailKnown { mails: some.to_vec() };
            match self.execute(request).map_err(|error| error.to_string())? {
                AdminReply::MailKnown { known } if known.len() == some.len() => all.extend(known),
                _ => return Err(odd()),
            }
        }
        Ok(all)
    }

    /// Sends all of a message but what fits into one request, which is given back.
    pub(super) fn parts<'b>(
        &mut self,
        of: &MailName,
        mut bytes: &'b [u8],
    ) -> Result<&'b [u8], String> {
        let mut offset = 0;
        while let Some((part, rest)) = bytes.split_at_checked(PART_BYTES_MAX)
            && !rest.is_empty()
        {
            let data = STANDARD.encode(part);
            let request = AdminRequest::MailPart { name: of.name.clone(), offset, data };
            self.execute(request).map_err(|error| error.to_string())?;
            offset += part.len() as u64;
            bytes = rest;
        }
        Ok(bytes)
    }

    /// What became of messages.
    pub(super) fn import(&mut self, batch: Batch) -> Result<Vec<MailOutcome>, String> {
        let count = batch.mails.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let request = AdminRequest::MailImport { mails: batch.mails };
        match self.execute(request).map_err(|error| error.to_string())? {
            AdminReply::MailImported { outcomes } if outcomes.len() == count => Ok(outcomes),
            _ => Err(odd()),
        }
    }

    /// Waits until the cluster has what was taken, if there is one; how many messages wait still.
    pub(super) fn settle(&mut self) -> Result<Option<usize>, String> {
        // A running engine sees to it.
        let Self::Own(_) = self else { return Ok(None) };
        let (mut fewest, mut since) = (usize::MAX, Instant::now());
        loop {
            let reply = self.execute(AdminRequest::MailWaiting);
            let count = match reply.map_err(|error| error.to_string())? {
                AdminReply::MailWaiting { count: 0 } => return Ok(None),
                AdminReply::MailWaiting { count } => count,
                _ => return Err(odd()),
            };
            if count < fewest {
                (fewest, since) = (count, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return Ok(Some(count));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn odd() -> String {
    "the engine answers something else: it is of another version".to_owned()
}

/// Messages for one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) mails: Vec<MailEntry>,
    bytes: usize,
}

impl Batch {
    /// Whether a message of this length goes into it. One that is sent in parts goes alone.
    pub(super) fn has_room(&self, of: &MailName, message_bytes: usize) -> bool {
        self.mails.is_empty() || self.bytes + Self::takes(of, message_bytes) <= PART_BYTES_MAX
    }

    pub(super) fn push(&mut self, of: MailName, received_ms: u64, bytes: &[u8]) {
        self.bytes += Self::takes(&of, bytes.len());
        self.mails.push(MailEntry { of, received_ms, data: STANDARD.encode(bytes) });
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.mails.iter().map(|mail| mail.of.address.as_str())
    }

    fn takes(of: &MailName, message_bytes: usize) -> usize {
        message_bytes + of.address.len() + ENTRY_BYTES
    }
}
