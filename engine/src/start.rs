//! Making one shard: its spool, its listeners, and the tasks that keep it going.
//!
//! Called on the shard's own thread by `run.rs`, and by the simulator on its one thread.

use core::cell::RefCell;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::{Class, Runtime};
use fsmtp_store::directory::Directory;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::RsaBits;
use fsmtp_store::spool::{SegmentFiles, Sink, Spool, SpoolConfig};
use fsmtp_store::{Lsn, ShardId, StoreError};
use zeroize::Zeroizing;

use crate::budget::Budget;
use crate::config;
use crate::filters::{Filters, Plan};
use crate::log::{Event, Log};
use crate::relay::{self, Census, Outbound, QueueKeys};
use crate::shard::{CLOSE_TIMEOUT, Counters, Offload, PasswordCheck, Shard};
use crate::signin::Gate;
use crate::strangers::Strangers;
use crate::upload::{Tap, Uploads};
use crate::verify;
use crate::windows::{Begin, Windows};

/// How often gathered log lines are written out.
const LOG_FLUSH: Duration = Duration::from_millis(200);
/// How often space is looked for when the last look found none.
const COMPACTION_PAUSE: Duration = Duration::from_secs(5);

/// How often segment files that nobody reads any more are closed (until then, one that was given
/// back takes its space), and keys whose time is over are let go.
const FILES_SWEEP: Duration = Duration::from_secs(5);

/// What a shard is made of, beside its log.
pub struct Parts<R: Runtime, M: Mailboxes> {
    /// The machine.
    pub rt: R,
    /// Where the segments of all shards are.
    pub disk: R::Disk,
    /// The mailbox index.
    pub mailboxes: M,
    /// Who has an account now.
    pub directory: Arc<Directory>,
    /// Checks passwords.
    pub check_password: PasswordCheck,
    /// Does what takes too long for a shard.
    pub helpers: Offload,
    /// Who may try a password now; of all shards.
    pub gate: Arc<Gate>,
    /// What hosts may do that nobody knows; of all shards.
    pub strangers: Arc<Strangers>,
    /// Begins the windows that seal to mailboxes.
    pub begin: Begin,
    /// How mail travels on.
    pub sending: relay::Plan,
    /// The connections to other servers, of all shards.
    pub census: Arc<Census>,
    /// The secret of the data folder.
    pub secret: Zeroizing<[u8; 32]>,
    /// The secret that the nodes of a cluster share, where their outgoing mail has copies.
    pub shared_secret: Option<Zeroizing<[u8; 32]>>,
    /// The length of RSA keys of accounts that get some; none: mail lies in clear.
    pub sealing: Option<RsaBits>,
    /// What holds for mail that users send.
    pub submission: config::Submission,
    /// How mail of strangers is checked; none: it is not.
    pub verify: Option<Arc<verify::Settings>>,
    /// The filters that are asked about mail.
    pub filters: Vec<Plan>,
    /// Whether own domains are for those who have signed in, and nodes.
    pub own_domains_closed: bool,
    /// Whether the magic recipients of `--dev` exist.
    pub magic: bool,
    /// The node's host name.
    pub node: Box<str>,
    /// The domain of user names without one, and of the magic recipients.
    pub domain: Box<str>,
    /// The shard's log of events.
    pub log: Log,
}

impl<R: Runtime, M: Mailboxes> core::fmt::Debug for Parts<R, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Parts")
    }
}

/// Reads the log of `config.shard` and starts everything but the listeners.
///
/// # Errors
/// What the spool says when its files cannot be used.
pub async fn start<R: Runtime, M: Mailboxes + 'static>(
    parts: Parts<R, M>,
    config: SpoolConfig,
    applied: Lsn,
) -> Result<Rc<Shard<R, M>>, StoreError> {
    let id = config.shard;
    let uploads = Rc::default();
    let keys = QueueKeys::new(&parts.secret, parts.shared_secret.as_deref());
    let spool = open(&parts, config, applied, &uploads).await?;
    let shard = Rc::new(Shard {
        rt: parts.rt,
        id,
        files: SegmentFiles::new(parts.disk.clone()),
        disk: parts.disk,
        spool,
        mailboxes: parts.mailboxes,
        directory: RefCell::new(parts.directory),
        check_password: parts.check_password,
        helpers: parts.helpers,
        gate: parts.gate,
        strangers: parts.strangers,
        windows: Windows::new(parts.begin),
        dkim: RefCell::default(),
        trust: RefCell::default(),
        resolver: RefCell::default(),
        connector: RefCell::default(),
        reports: RefCell::default(),
        outbound: Outbound::new(parts.sending, &parts.node, keys, (id, parts.census)),
        uploads,
        sealing: parts.sealing,
        submission: parts.submission,
        results: parts.verify.as_ref().map_or(&*parts.node, |verify| &verify.name).into(),
        verify: parts.verify,
        checks: Budget::default(),
        filters: Filters::new(&parts.filters),
        own_domains_closed: parts.own_domains_closed,
        magic: parts.magic,
        node: parts.node,
        domain: parts.domain,
        drain: Rc::default(),
        log: parts.log,
        counters: Counters::default(),
    });
    let inner = Rc::clone(&shard);
    shard.rt.spawn(Class::Background, compact(inner));
    let inner = Rc::clone(&shard);
    shard.rt.spawn(Class::Background, async move {
        loop {
            inner.rt.sleep_until(inner.rt.now() + LOG_FLUSH).await;
            inner.log.flush(inner.rt.unix());
        }
    });
    let inner = Rc::clone(&shard);
    shard.rt.spawn(Class::Background, async move {
        loop {
            inner.rt.sleep_until(inner.rt.now() + FILES_SWEEP).await;
            inner.files.sweep();
            inner.windows.sweep(inner.rt.now());
            inner.gate.sweep(inner.rt.unix());
        }
    });
    Ok(shard)
}

/// Opens a spool and says what was found in it.
async fn open<R: Runtime, M: Mailboxes + 'static>(
    parts: &Parts<R, M>,
    config: SpoolConfig,
    applied: Lsn,
    uploads: &Rc<Uploads>,
) -> Result<Spool<R>, StoreError> {
    let (rt, disk) = (parts.rt.clone(), parts.disk.clone());
    let sink = sink(&parts.mailboxes, uploads);
    let (spool, recovery) = Spool::open(rt, disk, config, applied, sink).await?;
    parts.log.event(
        parts.rt.unix(),
        Event::ShardRecovered,
        &[("replayed", &recovery.replayed_count), ("cut", &recovery.cut.is_some())],
    );
    parts.log.flush(parts.rt.unix());
    Ok(spool)
}

/// Who is told of messages that are durable.
fn sink<M: Mailboxes>(mailboxes: &M, uploads: &Rc<Uploads>) -> Rc<dyn Sink> {
    let mailboxes = mailboxes.clone();
    if mailboxes.is_clustered() {
        Rc::new(Tap { mailboxes, uploads: Rc::clone(uploads) })
    } else {
        Rc::new(mailboxes)
    }
}

/// The log of a shard that this configuration has no core for: its messages go to the index, and
/// its space is given back as they are deleted. Nothing is ever added to it.
///
/// # Errors
/// What the spool says when its files cannot be used.
pub async fn adopt<R: Runtime, M: Mailboxes + 'static>(
    shard: &Rc<Shard<R, M>>,
    config: SpoolConfig,
    applied: Lsn,
) -> Result<(), StoreError> {
    let (rt, disk) = (shard.rt.clone(), shard.disk.clone());
    let sink = sink(&shard.mailboxes, &shard.uploads);
    let (spool, _) = Spool::open(rt, disk, config, applied, sink).await?;
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        compact_spool(&inner, &spool).await;
    });
    Ok(())
}

async fn compact<R: Runtime, M: Mailboxes + 'static>(shard: Rc<Shard<R, M>>) {
    compact_spool(&shard, &shard.spool).await;
}

/// Gives space back for as long as the shard lives.
async fn compact_spool<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, spool: &Spool<R>) {
    loop {
        let passed = spool.compact(&shard.mailboxes).await;
        let freed = match passed {
            Ok(done) => {
                let freed = done.recycled_count + done.rewritten_count;
                if freed > 0 {
                    let fields: [(&str, &dyn core::fmt::Display); 3] = [
                        ("segments", &freed),
                        ("moved", &done.moved_count),
                        ("moved-bytes", &done.moved_bytes),
                    ];
                    shard.log.event(shard.rt.unix(), Event::SegmentFreed, &fields);
                }
                freed
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                shard.log.event(shard.rt.unix(), Event::MessageDamaged, &[("why", &error)]);
                0
            }
            // The index or the log says the same to everybody else, and louder.
            Err(_) => 0,
        };
        if freed == 0 {
            shard.rt.sleep_until(shard.rt.now() + COMPACTION_PAUSE).await;
        } else {
            shard.rt.yield_now().await;
        }
    }
}

/// Ends a shard's sessions: idle ones at once, others when their transaction is done, all after
/// `patience`. Those are told so as far as they read, for [`CLOSE_TIMEOUT`]; one that is in the
/// middle of a reply then is cut without a word, for what came next would be taken for a part of
/// the reply.
pub async fn drain<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, patience: Duration) {
    shard.drain.begin();
    finished(shard, patience).await;
    shard.drain.hurry();
    finished(shard, CLOSE_TIMEOUT).await;
    relay::settled(shard, CLOSE_TIMEOUT).await;
    relay::summarize(shard);
    shard.log.flush(shard.rt.unix());
}

/// Waits until all sessions have ended, at most `patience`.
async fn finished<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, patience: Duration) {
    let late = core::pin::pin!(shard.rt.sleep_until(shard.rt.now() + patience));
    first(core::pin::pin!(shard.drain.finished()), late).await;
}

/// Resolves when either does.
pub(crate) async fn first(
    mut one: core::pin::Pin<&mut impl Future<Output = ()>>,
    mut other: core::pin::Pin<&mut impl Future<Output = ()>>,
) {
    core::future::poll_fn(|cx| {
        if one.as_mut().poll(cx).is_ready() {
            core::task::Poll::Ready(())
        } else {
            other.as_mut().poll(cx)
        }
    })
    .await;
}

/// The numbers of the shards that have segments in a folder.
#[must_use]
pub fn shards_on_disk(files: &[String]) -> Vec<ShardId> {
    let number = |name: &String| {
        let (shard, rest) = name.split_once('-')?;
        rest.strip_suffix(".seg")?;
        shard.parse().ok().filter(|&shard| shard <= ShardId::MAX).map(ShardId)
    };
    let mut shards: Vec<ShardId> = files.iter().filter_map(number).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_found_by_their_segments() {
        let files =
            ["000-0000000000.seg", "003-0000000001.seg", "003.spare", "x-1.seg", "9999-1.seg"]
                .map(str::to_owned);
        assert_eq!(shards_on_disk(&files), [ShardId(0), ShardId(3)]);
    }
}
