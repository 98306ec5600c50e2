//! The thread of the bridge: takes requests out of the queue and has them answered.
//!
//! Called by [`Bridge::start`](super::Bridge::start). One runtime on one thread; a task for each
//! request, 512 at one time. A task that panics leaves its request without an answer, which is an
//! error to who asked.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use fsmtp_store::StoreError;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::{Clock, Copy, Request, Shared, UNDER_WAY_MAX};
use crate::cassandra::{ClusterError, Terms, connect, there};
use crate::directory::Book;
use crate::duty;
use crate::follow::{change_all, follow};
use crate::keyspace::KeyspaceError;
use crate::mail::Mail;
use crate::redis::{Cache, RedisTerms};
use crate::schema;

/// How often a node that has begun without its cluster tries to reach it.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What the thread works with.
pub(crate) struct Desk {
    pub(crate) mail: Arc<Mail>,
    /// One change of the directory, or look at it, at a time.
    pub(crate) book: Mutex<Book>,
    pub(crate) clock: Clock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cache: Option<Cache>,
}

/// What it takes to begin.
struct Plan {
    terms: Terms,
    node: String,
    copy: Option<Copy>,
}

/// Starts the thread; returns when it has connected and prepared its statements.
pub(super) fn start(
    shared: &Arc<Shared>,
    terms: &Terms,
    node: &str,
    copy: Option<Copy>,
) -> Result<JoinHandle<()>, KeyspaceError> {
    let (ready, is_ready) = mpsc::sync_channel(1);
    let (shared, terms, node) = (Arc::clone(shared), terms.clone(), node.to_owned());
    let plan = Plan { terms, node, copy };
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(live(&shared, &plan, &ready)),
            Err(error) => {
                let _ = ready.send(Err(ClusterError::Runtime(error.to_string()).into()));
            }
        }
        shared.stopped.store(true, Ordering::SeqCst);
        shared.drain();
    };
    let failed = |error: std::io::Error| ClusterError::Runtime(error.to_string());
    let thread = std::thread::Builder::new().name("bridge".into()).spawn(run).map_err(failed)?;
    let ended = || Err(ClusterError::Runtime("the bridge has ended".into()).into());
    is_ready.recv().unwrap_or_else(|_| ended())?;
    Ok(thread)
}

async fn live(
    shared: &Arc<Shared>,
    plan: &Plan,
    ready: &mpsc::SyncSender<Result<(), KeyspaceError>>,
) {
    let is_patient = plan.copy.as_ref().is_some_and(|copy| copy.is_patient);
    let begun = match Box::pin(begin(shared, plan)).await {
        Err(KeyspaceError::Cluster(error)) if is_patient => {
            shared.complain(format!("this node has begun without its cluster: {error}"));
            // Who has started it waits for this.
            let _ = ready.send(Ok(()));
            Box::pin(later(shared, plan)).await
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
        Ok(desk) => {
            let _ = ready.send(Ok(()));
            Some(desk)
        }
    };
    if let Some(desk) = begun {
        if let Some(copy) = &plan.copy {
            duty::begin(&desk, &copy.local);
        }
        serve(shared, &desk, plan.terms.timeout).await;
    }
}

/// Connects, and brings the copy of the directory up to what all nodes share.
async fn begin(shared: &Arc<Shared>, plan: &Plan) -> Result<Arc<Desk>, KeyspaceError> {
    let Plan { terms, node, copy } = plan;
    let clock = &shared.clock;
    let session = Arc::new(connect(terms).await?);
    let found = there(&session, &terms.keyspace).await?;
    if let Some(problem) = schema::problems(&found).into_iter().next() {
        return Err(problem.into());
    }
    let book = Book::prepare(Arc::clone(&session), &terms.keyspace).await?.into();
    let start = |redis: RedisTerms| Cache::start(redis, &terms.keyspace, shared);
    let cache = terms.redis.clone().map(start);
    let clock = Arc::clone(clock);
    let mail = Mail::prepare(session, terms, node, (Arc::clone(&clock), cache.clone())).await?;
    let (mail, shared) = (Arc::new(mail), Arc::clone(shared));
    let desk = Arc::new(Desk { mail, book, clock, shared, cache });
    if let Some(copy) = copy {
        follow(&desk, &copy.local).await.map_err(|error| match error {
            StoreError::Io(error) => ClusterError::Unavailable(error.to_string()),
            error => ClusterError::Refused(error.to_string()),
        })?;
    }
    Ok(desk)
}

/// Tries again and again, until it is to stop. Whoever asks for something meanwhile hears at once
/// that there is no way.
async fn later(shared: &Arc<Shared>, plan: &Plan) -> Option<Arc<Desk>> {
    let mut again = Instant::now() + RETRY_EVERY;
    loop {
        shared.drain();
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        let rung = tokio::time::timeout_at(again, shared.bell.notified()).await;
        if rung.is_err() {
            match Box::pin(begin(shared, plan)).await {
                Ok(desk) => return Some(desk),
                Err(KeyspaceError::Problem(problem)) => shared.complain(problem.to_string()),
                // It is known that it is away.
                Err(KeyspaceError::Cluster(_)) => {}
            }
            again = Instant::now() + RETRY_EVERY;
        }
    }
}

async fn serve(shared: &Shared, desk: &Arc<Desk>, timeout: Duration) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX as usize));
    loop {
        let Ok(slot) = Arc::clone(&under_way).acquire_owned().await else { break };
        let Some(request) = next(shared).await else { break };
        let desk = Arc::clone(desk);
        tokio::spawn(async move {
            answer(&desk, request).await;
            drop(slot);
        });
    }
    shared.stopped.store(true, Ordering::SeqCst);
    shared.drain();
    // Whoever is later than that gets no answer.
    let _ = tokio::time::timeout(timeout * 2, under_way.acquire_many(UNDER_WAY_MAX)).await;
    let _ = tokio::time::timeout(timeout, duty::write_all(desk)).await;
    desk.mail.end_visits(timeout).await;
}

/// The next request; none when the thread is to end.
async fn next(shared: &Shared) -> Option<Request> {
    loop {
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if let Some(request) = shared.requests.pop() {
            return Some(request);
        }
        // A ring between the look and this is kept.
        shared.bell.notified().await;
    }
}

/// Who has asked may be gone by now: then nobody is told, and a visit is given back.
async fn answer(desk: &Arc<Desk>, request: Request) {
    let mail = &desk.mail;
    match request {
        Request::Chunk { id, number, data, charge, reply } => {
            let done = mail.put_chunk(id, number, data).await;
            drop(charge);
            let _ = reply.send(done);
        }
        Request::Deliver { delivery, charge, reply } => {
            let done = mail.deliver(*delivery).await;
            drop(charge);
            let _ = reply.send(done);
        }
        Request::Open { mailbox, reply } => drop(reply.send(mail.open(mailbox).await)),
        Request::Close { visit, deletions, reply } => {
            drop(reply.send(mail.close(*visit, deletions).await));
        }
        Request::Find { mailbox, id, reply } => drop(reply.send(mail.find(mailbox, id).await)),
        Request::Fetch { id, number, reply } => drop(reply.send(mail.fetch(id, number).await)),
        Request::Rewrap { windows, reply } => drop(reply.send(mail.rewrap(&windows).await)),
        Request::Usage { mailbox, reply } => drop(reply.send(mail.usage(mailbox).await)),
        Request::Purge { mailbox, reply } => drop(reply.send(mail.purge(mailbox).await)),
        Request::CopyPiece { id, number, data, charge, reply } => {
            let done = mail.copy_piece(id, number, data).await;
            drop(charge);
            let _ = reply.send(done);
        }
        Request::Copy { node, transit, charge, reply } => {
            let done = mail.copy(node, *transit).await;
            drop(charge);
            let _ = reply.send(done);
        }
        Request::FindCopy { node, id, reply } => drop(reply.send(mail.find_copy(node, id).await)),
        Request::FetchCopy { id, number, reply } => {
            drop(reply.send(mail.fetch_copy(id, number).await));
        }
        Request::CopiedEnvelope { id, reply } => drop(reply.send(mail.copied_envelope(id).await)),
        Request::Change { local, change, reply } => {
            drop(reply.send(change_all(desk, &local, *change).await));
        }
    }
}
