//! The thread of the bridge: takes requests out of the queue and has them answered.
//!
//! Called by [`Bridge::start`](super::Bridge::start). One runtime on one thread; a task for each
//! request, 512 at one time. A task that panics leaves its request without an answer, which is an
//! error to who asked.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::Semaphore;

use super::{Clock, Request, Shared, UNDER_WAY_MAX};
use crate::cassandra::{Cassandra, ClusterError, Terms};
use crate::keyspace::KeyspaceError;
use crate::mail::Mail;
use crate::schema;

/// Starts the thread; returns when it has connected and prepared its statements.
pub(super) fn start(
    shared: &Arc<Shared>,
    terms: &Terms,
    node: &str,
    clock: Clock,
) -> Result<JoinHandle<()>, KeyspaceError> {
    let (ready, is_ready) = mpsc::sync_channel(1);
    let (shared, terms, node) = (Arc::clone(shared), terms.clone(), node.to_owned());
    let run = move || match connect(&terms, &node, clock) {
        Ok((runtime, mail)) => {
            let _ = ready.send(Ok(()));
            runtime.block_on(serve(&shared, &mail, terms.timeout));
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    };
    let failed = |error: std::io::Error| ClusterError::Runtime(error.to_string());
    let thread = std::thread::Builder::new().name("bridge".into()).spawn(run).map_err(failed)?;
    let ended = || Err(ClusterError::Runtime("the bridge has ended".into()).into());
    is_ready.recv().unwrap_or_else(|_| ended())?;
    Ok(thread)
}

fn connect(
    terms: &Terms,
    node: &str,
    clock: Clock,
) -> Result<(tokio::runtime::Runtime, Arc<Mail>), KeyspaceError> {
    let cassandra = Cassandra::connect(terms)?;
    let there = cassandra.there(&terms.keyspace)?;
    if let Some(problem) = schema::problems(&there).into_iter().next() {
        return Err(problem.into());
    }
    let (runtime, session) = cassandra.into_parts();
    let mail = runtime.block_on(Mail::prepare(session, terms, node, clock))?;
    Ok((runtime, Arc::new(mail)))
}

async fn serve(shared: &Shared, mail: &Arc<Mail>, timeout: Duration) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX as usize));
    loop {
        let Ok(slot) = Arc::clone(&under_way).acquire_owned().await else { break };
        let Some(request) = next(shared).await else { break };
        let mail = Arc::clone(mail);
        tokio::spawn(async move {
            answer(&mail, request).await;
            drop(slot);
        });
    }
    shared.stopped.store(true, Ordering::SeqCst);
    shared.drain();
    // Whoever is later than that gets no answer.
    let _ = tokio::time::timeout(timeout * 2, under_way.acquire_many(UNDER_WAY_MAX)).await;
    mail.end_visits(timeout).await;
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
async fn answer(mail: &Arc<Mail>, request: Request) {
    match request {
        Request::Chunk { id, number, data, charge, reply } => {
            let done = mail.put_chunk(id, number, &data).await;
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
    }
}
