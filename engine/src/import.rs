//! Mail of the older program on its way into a shard's log.
//!
//! The task of the first shard takes it from `admin::import`, which keeps the journal: it names the
//! messages, waits until their names are in the journal, and then makes them durable one after the
//! other, so that they lie in the mailbox in this order. Each goes the way of all mail: sealed
//! where its owner has keys, and in a cluster from the spool to where the mailboxes are. Failure: a
//! sentence for each message that was not stored.

use std::rc::Rc;
use std::sync::mpsc::Sender;

use fsmtp_rt::{Runtime, UnixTime};
use fsmtp_store::envelope::{BodyFlags, Envelope, EnvelopeRecipient, Notify};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::spool::Incoming;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use crate::latest::Latest;
use crate::seals;
use crate::shard::Shard;
use crate::windows::Held;

/// The longest line (RFC 5322 §2.1.1).
const LINE_BYTES_MAX: usize = 1000;

/// A message that is to be stored as it stands.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) mailbox: MailboxId,
    /// Whose mailbox it is.
    pub(crate) address: String,
    pub(crate) received: UnixTime,
    /// Header and body.
    pub(crate) bytes: Vec<u8>,
}

/// Messages, and the talk about them.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) letters: Vec<Letter>,
    /// Where their names go; none for one that cannot be stored.
    pub(crate) named: Sender<Vec<Option<QueueId>>>,
    /// Whether they are to be stored now.
    pub(crate) go: Latest<bool>,
    /// Where it goes what became of them.
    pub(crate) done: Sender<Vec<Result<(), String>>>,
}

/// The way to the shard.
pub(crate) type Door = Latest<Ask>;

/// A message that needs only its commit.
struct Ready<R: Runtime> {
    incoming: Incoming<R>,
    /// What stands where a trace header does with other mail: a reader wants something there.
    head: Vec<u8>,
    envelope: Envelope,
    held: Option<Rc<Held>>,
}

/// Stores what comes through the door, for as long as the shard lives.
pub(crate) async fn serve<R: Runtime, M: Mailboxes>(shard: Rc<Shard<R, M>>, door: Door) {
    loop {
        let Ask { letters, named, go, done } = door.take().await;
        let mut all = Vec::with_capacity(letters.len());
        for letter in letters {
            all.push(prepare(&shard, letter).await.map_err(|why| why.to_string()));
        }
        let names = all.iter().map(|one| one.as_ref().ok().map(|ready| ready.incoming.id()));
        // Who has asked may have lost patience, and says so with `go`.
        let _ = named.send(names.collect());
        if !go.take().await {
            continue;
        }
        let mut outcomes = Vec::with_capacity(all.len());
        for ready in all {
            outcomes.push(match ready {
                Ok(ready) => commit(&shard, ready).await.map_err(|why| why.to_string()),
                Err(why) => Err(why),
            });
        }
        let _ = done.send(outcomes);
    }
}

async fn prepare<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    letter: Letter,
) -> Result<Ready<R>, StoreError> {
    // The account may have been made just now.
    shard.directory.replace(shard.mailboxes.directory());
    let held = seals::held(shard, &[letter.mailbox]).await;
    let held = held.map_err(|why| StoreError::Invalid(why.to_string()))?;
    let (_, held) =
        held.into_iter().next().ok_or_else(|| StoreError::NotFound(letter.address.clone()))?;
    let mut incoming = shard.spool.incoming()?;
    if held.is_some() {
        incoming.seal(&mut |bytes| shard.rt.random(bytes))?;
    }
    let (head, rest) = letter.bytes.split_at(first_line(&letter.bytes));
    incoming.push(rest).await?;
    let envelope = Envelope {
        received: letter.received,
        body: BodyFlags { eight_bit: !letter.bytes.is_ascii(), ..BodyFlags::default() },
        recipients: vec![EnvelopeRecipient {
            mailbox: letter.mailbox,
            address: letter.address.into_bytes(),
            notify: Notify::default(),
            orcpt: None,
        }],
        ..Envelope::default()
    };
    Ok(Ready { incoming, head: head.to_vec(), envelope, held })
}

async fn commit<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    ready: Ready<R>,
) -> Result<(), StoreError> {
    let Ready { incoming, mut head, envelope, held } = ready;
    let id = incoming.id();
    match incoming.content_key() {
        None => incoming.commit(&head, envelope).await?,
        Some(content) => {
            let keys = seals::keys(shard, held.iter(), content, id)?;
            incoming.commit_sealed(&mut head, envelope, keys).await?
        }
    };
    Ok(())
}

/// Where the first line ends, or some of it.
fn first_line(bytes: &[u8]) -> usize {
    let some = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    some.iter().position(|byte| *byte == b'\n').map_or(some.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_front_is_a_line_or_some_of_it() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        for (bytes, end) in
            [(&b""[..], 0), (b"a", 1), (b"\r\nb", 2), (b"a\r\nb\r\n", 3), (&long, LINE_BYTES_MAX)]
        {
            assert_eq!(first_line(bytes), end);
        }
    }
}
