//! The way to Cassandra: a thread with a runtime of its own, and handles to it for all others.
//!
//! A [`Bridge`] puts what is to be done into a bounded lock-free queue and awaits the answer on
//! whatever runs it; nothing here blocks a shard. Limits: 512 are under way, 4,096 wait, then
//! [`StoreError::Busy`]. Failure: what Cassandra does not do in time is an error of the way there;
//! everything can be asked again.

use core::fmt;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use fsmtp_rt::{IoError, IoKind, UnixTime};
use fsmtp_store::mailbox::{Delivery, Embedded, Message, Usage};
use fsmtp_store::seal::WindowRecord;
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId, StoreError};
use futures_channel::oneshot;
use tokio::sync::{Notify, Semaphore};

use crate::cassandra::{ClusterError, Terms, connect, there};
use crate::directory::Book;
use crate::follow::follow;
use crate::keyspace::KeyspaceError;
use crate::mail::{Lease, Mail, RENEW_EVERY};
use crate::schema;

/// What may wait to be begun.
const WAITING_MAX: usize = 4096;
/// What may be under way at one time.
const UNDER_WAY_MAX: usize = 512;
/// How long the end waits for what is under way.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is kept of what went wrong.
const COMPLAINTS_MAX: usize = 100;

/// How often a node that has begun without its cluster tries to reach it.
const RETRY_EVERY: Duration = Duration::from_secs(5);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Job = Box<dyn FnOnce(Arc<Desk>) -> Work + Send>;

/// The wall clock.
pub type Clock = fn() -> UnixTime;

/// A node's copy of the directory, which the thread keeps up to what all nodes share.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Where it lies.
    pub local: Embedded,
    /// Whether the node may begin without the cluster, because it has been in it before.
    pub is_patient: bool,
}

/// What the thread has.
pub(crate) struct Desk {
    pub(crate) mail: Arc<Mail>,
    /// One change or look at a time.
    pub(crate) book: tokio::sync::Mutex<Book>,
    pub(crate) clock: Clock,
}

struct Shared {
    jobs: ArrayQueue<Job>,
    bell: Notify,
    stop: AtomicBool,
    stopped: AtomicBool,
    /// Numbers leases, so that no two of this node are alike.
    leases_count: AtomicU64,
    /// Who holds them.
    node: String,
    complaints: Mutex<Vec<String>>,
}

impl Shared {
    fn post(&self, job: Job) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(gone());
        }
        self.jobs.push(job).map_err(|_| StoreError::Busy)?;
        self.bell.notify_one();
        if self.stopped.load(Ordering::SeqCst) {
            // The thread may have drained the queue before the push.
            while self.jobs.pop().is_some() {}
        }
        Ok(())
    }
}

fn gone() -> StoreError {
    StoreError::Io(IoError::new(IoKind::Closed, "ask", "the cluster: there is no way there"))
}

/// A handle to the way; cheap to clone, good on every thread.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bridge({}, {} wait)", self.shared.node, self.shared.jobs.len())
    }
}

/// Owns the thread. Dropping it lets what is under way finish, for 5 s at most, and ends it.
pub struct BridgeKeeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for BridgeKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BridgeKeeper({})", self.shared.node)
    }
}

impl Drop for BridgeKeeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// A mailbox of the cluster that one session has for itself, on all nodes: what was in it when it
/// was opened. Dropping it frees the mailbox.
pub struct Visit {
    mailbox: MailboxId,
    messages: Vec<Message>,
    bridge: Bridge,
    /// None once it was given back.
    lease: Option<Arc<Lease>>,
    mark: QueueId,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visit({:?}, {} messages)", self.mailbox, self.messages.len())
    }
}

impl Visit {
    /// The messages, by their names; 24 bytes each.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whose it is.
    #[must_use]
    pub const fn mailbox(&self) -> MailboxId {
        self.mailbox
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // When nobody takes it, the lease ends by itself.
        let _ = self.bridge.shared.post(Box::new(move |desk| {
            Box::pin(async move {
                let _ = desk.mail.release(&lease).await;
            })
        }));
    }
}

impl Bridge {
    /// Starts the thread, connects, looks whether the keyspace is one for this program, and brings
    /// `copy` up to what all nodes share. Blocks until that is done; a patient one goes on without
    /// it when the cluster cannot be reached. `node` is the name that leases show.
    ///
    /// # Errors
    /// The reason, in a line.
    pub fn start(
        terms: &Terms,
        node: &str,
        clock: Clock,
        copy: Option<Copy>,
    ) -> Result<(Self, BridgeKeeper), KeyspaceError> {
        let shared = Arc::new(Shared {
            jobs: ArrayQueue::new(WAITING_MAX),
            bell: Notify::new(),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            leases_count: AtomicU64::new(0),
            node: node.to_owned(),
            complaints: Mutex::default(),
        });
        let (ready, started) = mpsc::channel();
        let (inner, terms) = (Arc::clone(&shared), terms.clone());
        let thread = std::thread::Builder::new()
            .name("bridge".into())
            .spawn(move || {
                run(&inner, &terms, clock, copy.as_ref(), &ready);
                inner.stopped.store(true, Ordering::SeqCst);
                while inner.jobs.pop().is_some() {}
            })
            .map_err(|error| ClusterError::Runtime(error.to_string()))?;
        let keeper = BridgeKeeper { shared: Arc::clone(&shared), thread: Some(thread) };
        let ended = || ClusterError::Runtime("its thread has ended".into());
        started.recv().map_err(|_| ended())??;
        Ok((Self { shared }, keeper))
    }

    /// Has something done on the thread.
    pub(crate) async fn hand<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Desk>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.shared.post(Box::new(move |desk| {
            Box::pin(async move {
                // Nobody may be waiting any more.
                let _ = reply.send(work(desk).await);
            })
        }))?;
        answer.await.unwrap_or_else(|oneshot::Canceled| Err(gone()))
    }

    async fn ask<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Mail>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.hand(move |desk| work(Arc::clone(&desk.mail))).await
    }

    /// Notes what an operator should know of; kept until somebody [takes](Self::take_complaints)
    /// it, at most [`COMPLAINTS_MAX`].
    pub(crate) fn complain(&self, what: String) {
        let mut all = self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < COMPLAINTS_MAX {
            all.push(what);
        }
    }

    /// What went wrong where nobody waited for an answer: sentences for a log.
    #[must_use]
    pub fn take_complaints(&self) -> Vec<String> {
        let mut all = self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut all)
    }

    /// Puts a further piece of a message, at most 256 KiB.
    ///
    /// # Errors
    /// [`StoreError::Busy`]; what Cassandra says. It may be there nevertheless.
    pub async fn put_piece(
        &self,
        id: QueueId,
        number: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.ask(move |mail| async move { mail.put_piece(id, number, data).await }).await
    }

    /// Puts a message into mailboxes; its further pieces are there by now.
    ///
    /// # Errors
    /// As [`Self::put_piece`].
    pub async fn deliver(&self, delivery: Delivery) -> Result<(), StoreError> {
        self.ask(move |mail| async move { mail.deliver(delivery).await }).await
    }

    /// Opens a mailbox for one session.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another session on any node has it; as [`Self::put_piece`].
    pub async fn open(&self, mailbox: MailboxId) -> Result<Visit, StoreError> {
        let count = self.shared.leases_count.fetch_add(1, Ordering::Relaxed);
        let holder = format!("{} {} {count}", self.shared.node, std::process::id());
        let bridge = self.clone();
        self.ask(move |mail| async move {
            let lease = mail.take(&format!("mailbox/{}", mailbox.0), holder).await?;
            let lease = Arc::new(lease);
            // From here on dropping it gives the lease back.
            let (messages, mark) = (Vec::new(), QueueId(0));
            let kept = Some(Arc::clone(&lease));
            let mut visit = Visit { mailbox, messages, bridge, lease: kept, mark };
            (visit.messages, visit.mark) = mail.list(mailbox).await?;
            let (weak, mail) = (Arc::downgrade(&lease), Arc::clone(&mail));
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(RENEW_EVERY).await;
                    let Some(lease) = weak.upgrade() else { break };
                    // Tried again before it ends by itself.
                    let _ = mail.renew(&lease).await;
                }
            });
            Ok(visit)
        })
        .await
    }

    /// Removes messages from a mailbox, durably, and gives it back.
    ///
    /// # Errors
    /// As [`Self::put_piece`]; some may be removed then.
    pub async fn close(&self, mut visit: Visit, gone: Vec<Message>) -> Result<(), StoreError> {
        let lease = visit.lease.take();
        self.ask(move |mail| async move {
            let removed = match gone.is_empty() {
                true => Ok(()),
                false => mail.remove(visit.mailbox, &visit.messages, &gone, visit.mark).await,
            };
            if let Some(lease) = lease {
                // Else it ends by itself.
                let _ = mail.release(&lease).await;
            }
            removed
        })
        .await
    }

    /// What opens a message of a mailbox; none when it lies in clear.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the mailbox has it no more; as [`Self::put_piece`].
    pub async fn find(
        &self,
        mailbox: MailboxId,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        self.ask(move |mail| async move { mail.find(mailbox, id).await }).await
    }

    /// A piece of a message.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not there; as [`Self::put_piece`].
    pub async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        self.ask(move |mail| async move { mail.fetch(id, number).await }).await
    }

    /// Keeps windows of a mailbox in the form that its own key opens.
    ///
    /// # Errors
    /// As [`Self::put_piece`].
    pub async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        self.ask(move |mail| async move { mail.rewrap(mailbox, windows).await }).await
    }

    /// How much is in a mailbox; reads all of its rows.
    ///
    /// # Errors
    /// As [`Self::put_piece`].
    pub async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        self.ask(move |mail| async move {
            let (messages, _) = mail.list(mailbox).await?;
            Ok(Usage {
                messages_count: messages.len() as u64,
                octets: messages.iter().map(|message| message.octets).sum(),
            })
        })
        .await
    }

    /// Removes all mail of a mailbox whose account is gone.
    ///
    /// # Errors
    /// As [`Self::put_piece`]; some may be removed then.
    pub async fn purge(&self, mailbox: MailboxId) -> Result<(), StoreError> {
        self.ask(move |mail| async move { mail.purge(mailbox).await }).await
    }
}

fn run(
    shared: &Arc<Shared>,
    terms: &Terms,
    clock: Clock,
    copy: Option<&Copy>,
    ready: &mpsc::Sender<Result<(), KeyspaceError>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(ClusterError::Runtime(error.to_string()).into()));
            return;
        }
    };
    runtime.block_on(async {
        let bridge = Bridge { shared: Arc::clone(shared) };
        let begun = match (begin(&bridge, terms, clock, copy).await, copy) {
            (Err(KeyspaceError::Cluster(error)), Some(copy)) if copy.is_patient => {
                bridge.complain(format!("this node has begun without its cluster: {error}"));
                // Who has started it waits for this.
                let _ = ready.send(Ok(()));
                later(&bridge, terms, clock, copy).await
            }
            (Err(error), _) => {
                let _ = ready.send(Err(error));
                return;
            }
            (Ok(desk), _) => {
                let _ = ready.send(Ok(()));
                Some(desk)
            }
        };
        if let Some(desk) = begun {
            serve(shared, &desk).await;
        }
    });
}

/// Connects, and brings the copy of the directory up to what all nodes share.
async fn begin(
    bridge: &Bridge,
    terms: &Terms,
    clock: Clock,
    copy: Option<&Copy>,
) -> Result<Arc<Desk>, KeyspaceError> {
    let desk = Arc::new(open(terms, clock).await?);
    if let Some(copy) = copy {
        let followed = follow(bridge, &copy.local, &desk).await;
        followed.map_err(|error| match error {
            StoreError::Io(error) => ClusterError::Unavailable(error.to_string()),
            error => ClusterError::Refused(error.to_string()),
        })?;
    }
    Ok(desk)
}

/// Tries again and again, until it is to stop. Whoever asks for something meanwhile hears at once
/// that there is no way.
async fn later(bridge: &Bridge, terms: &Terms, clock: Clock, copy: &Copy) -> Option<Arc<Desk>> {
    let shared = &bridge.shared;
    let mut again = tokio::time::Instant::now() + RETRY_EVERY;
    loop {
        while shared.jobs.pop().is_some() {}
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        let rung = tokio::time::timeout_at(again, shared.bell.notified()).await;
        if rung.is_err() {
            match begin(bridge, terms, clock, Some(copy)).await {
                Ok(desk) => return Some(desk),
                // What keeps it from working is said once more when it is another thing.
                Err(KeyspaceError::Problem(problem)) => bridge.complain(problem.to_string()),
                Err(KeyspaceError::Cluster(_)) => {}
            }
            again = tokio::time::Instant::now() + RETRY_EVERY;
        }
    }
}

async fn open(terms: &Terms, clock: Clock) -> Result<Desk, KeyspaceError> {
    let session = Arc::new(connect(terms).await?);
    let found = there(&session, &terms.keyspace).await?;
    if let Some(problem) = schema::problems(&found).into_iter().next() {
        return Err(problem.into());
    }
    let book = Book::prepare(Arc::clone(&session), &terms.keyspace).await?.into();
    let mail = Arc::new(Mail::prepare(session, &terms.keyspace, clock).await?);
    Ok(Desk { mail, book, clock })
}

async fn serve(shared: &Shared, desk: &Arc<Desk>) {
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    while !shared.stop.load(Ordering::SeqCst) {
        shared.bell.notified().await;
        // The place first: what waits in the queue is what is bounded.
        while !shared.jobs.is_empty() {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let Some(job) = shared.jobs.pop() else { break };
            let work = job(Arc::clone(desk));
            tokio::spawn(async move {
                work.await;
                drop(place);
            });
        }
    }
    let all = u32::try_from(UNDER_WAY_MAX).unwrap_or(u32::MAX);
    // What is not done by then may be done again after the next start.
    let _ = tokio::time::timeout(FAREWELL, room.acquire_many(all)).await;
}
