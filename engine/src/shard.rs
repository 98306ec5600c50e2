//! One shard: what its sessions share, all of it owned by one thread.
//!
//! Generic over the runtime and the mailbox back end, so the simulator runs the same code. Made by
//! `run.rs` on a real machine and by the simulator's world.

use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::smtp::ext::su::Keys;
use fsmtp_rt::Runtime;
use fsmtp_store::ShardId;
use fsmtp_store::directory::{Account, Directory, Opened};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::RsaBits;
use fsmtp_store::spool::{SegmentFiles, Spool};
use futures_channel::oneshot;
use zeroize::Zeroizing;

use crate::budget::Budget;
use crate::config;
use crate::dkim::DkimKeys;
use crate::dmarc::collect::Collector;
use crate::drain::Drain;
use crate::filters::Filters;
use crate::log::Log;
use crate::relay::Outbound;
use crate::resolver::Resolver;
use crate::signin::Gate;
use crate::strangers::Strangers;
use crate::tls::Connector;
use crate::upload::Uploads;
use crate::verify;
use crate::windows::Windows;

/// How long a connection that we close may take to hear it.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries a password on an account's lock, off the shard; no account means no such user, and takes
/// as long. `Err`: too many checks wait.
pub type PasswordCheck = Rc<dyn Fn(Option<Arc<Account>>, Zeroizing<Vec<u8>>) -> Checked>;

/// What becomes of a check.
pub type Checked = Pin<Box<dyn Future<Output = Result<Opened, Overload>>>>;

/// Has work done on a helper thread. `Err`: too much waits there.
pub type Offload = Rc<dyn Fn(Box<dyn FnOnce() + Send>) -> Result<(), Overload>>;

/// The helper threads have too much to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overload;

/// What is counted on a shard.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections taken.
    pub connections: Cell<u64>,
    /// Connections refused for a limit.
    pub connections_refused: Cell<u64>,
    /// Sessions that ended by a panic.
    pub sessions_panicked: Cell<u64>,
    /// Messages answered with 250.
    pub messages_stored: Cell<u64>,
    /// Messages refused after their end.
    pub messages_refused: Cell<u64>,
    /// Recipients elsewhere whose server has taken a message.
    pub recipients_sent: Cell<u64>,
    /// Recipients elsewhere who get no message.
    pub recipients_failed: Cell<u64>,
    /// Attempts after which a message has to wait.
    pub legs_deferred: Cell<u64>,
    /// Messages and recipients of strangers that were too many for now.
    pub strangers_deferred: Cell<u64>,
    /// Messages whose hosts shall come again.
    pub messages_greylisted: Cell<u64>,
    /// Clients that did not wait for the greeting.
    pub talkers: Cell<u64>,
    /// Copies of messages that went to a mailbox Junk.
    pub messages_junked: Cell<u64>,
    /// Reports to senders that were stored.
    pub reports: Cell<u64>,
    /// Senders refused because they are somebody else's.
    pub senders_refused: Cell<u64>,
    /// Recipients refused.
    pub recipients_refused: Cell<u64>,
    /// Of these, beyond what a user may name in an hour.
    pub recipients_deferred: Cell<u64>,
    /// Sign-ins accepted.
    pub sign_ins: Cell<u64>,
    /// Handshakes that came to nothing.
    pub handshakes_failed: Cell<u64>,
    /// Sign-ins refused.
    pub sign_ins_refused: Cell<u64>,
    /// Tokens of SU that were not right.
    pub nodes_denied: Cell<u64>,
    /// Messages given out over POP3.
    pub messages_retrieved: Cell<u64>,
}

/// Adds one.
pub fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What the sessions of a shard share.
pub struct Shard<R: Runtime, M: Mailboxes> {
    /// The machine.
    pub rt: R,
    /// Which shard this is.
    pub id: ShardId,
    /// Where the segments of all shards are.
    pub disk: R::Disk,
    /// Those of them that POP3 sessions read.
    pub files: Rc<SegmentFiles<R::Disk>>,
    /// This shard's log.
    pub spool: Spool<R>,
    /// The mailbox index.
    pub mailboxes: M,
    /// Who has an account; replaced as a whole when that changes.
    pub directory: RefCell<Arc<Directory>>,
    /// Checks passwords.
    pub check_password: PasswordCheck,
    /// Does what takes too long for a shard.
    pub helpers: Offload,
    /// Who may try a password now; of all shards.
    pub gate: Arc<Gate>,
    /// What hosts may do that nobody knows; of all shards.
    pub strangers: Arc<Strangers>,
    /// What seals to mailboxes for the time being.
    pub windows: Windows,
    /// What signs mail of the domains that have keys; replaced as a whole on SIGHUP.
    pub dkim: RefCell<DkimKeys>,
    /// What the nodes of one owner share; replaced with them.
    pub trust: RefCell<Keys>,
    /// Looks names up, once mail may be sent.
    pub resolver: RefCell<Option<Resolver<R>>>,
    /// How TLS to other servers is made, once mail may be sent.
    pub(crate) connector: RefCell<Option<Connector>>,
    /// Counts judged messages for reports, where reports are sent.
    pub reports: RefCell<Option<Collector>>,
    /// Mail that is to travel on.
    pub outbound: Outbound,
    /// Mail that is to be put into the cluster.
    pub(crate) uploads: Rc<Uploads>,
    /// The length of RSA keys of accounts that get some; none: mail lies in clear.
    pub sealing: Option<RsaBits>,
    /// What holds for mail that users send.
    pub submission: config::Submission,
    /// How mail of strangers is checked; none: it is not.
    pub verify: Option<Arc<verify::Settings>>,
    /// What header sections take that are checked.
    pub checks: Budget,
    /// The filters that are asked about mail.
    pub filters: Filters,
    /// The name under which results of checks are written.
    pub results: Rc<str>,
    /// Whether own domains are for those who have signed in, and nodes.
    pub own_domains_closed: bool,
    /// Whether the magic recipients of `--dev` exist.
    pub magic: bool,
    /// The node's host name.
    pub node: Box<str>,
    /// The domain of user names without one, and of the magic recipients.
    pub domain: Box<str>,
    /// Who shall end, and when.
    pub drain: Rc<Drain>,
    /// The shard's log of events.
    pub log: Log,
    /// What was done.
    pub counters: Counters,
}

impl<R: Runtime, M: Mailboxes> Shard<R, M> {
    /// Runs `job` on a helper thread.
    ///
    /// # Errors
    /// [`Overload`] when too much waits there.
    pub async fn offload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overload> {
        let (done, outcome) = oneshot::channel();
        (self.helpers)(Box::new(move || {
            // Nobody may be waiting any more.
            let _ = done.send(job());
        }))?;
        outcome.await.map_err(|_| Overload)
    }
}

impl<R: Runtime, M: Mailboxes> core::fmt::Debug for Shard<R, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Shard({})", self.id.0)
    }
}
