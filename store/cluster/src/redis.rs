//! Redis: what nodes tell each other beside Cassandra, so that it is quicker; it may vanish.
//!
//! Runs on the thread of the bridge, over one connection. Nodes hear of changes of the directory at
//! once, share what their limits have counted, and keep a mirror of the directory's names and of
//! open mailboxes for other programs. Nobody waits for it: what is said to it goes into a bounded
//! queue, and what it says back is a hint to look, or a number that is capped. There are no
//! secrets in it. See `docs/decisions/0014-what-redis-is-for.md`.
//!
//! Limits: 4,096 things to say wait, further ones are dropped; 10,000 counts are exchanged each
//! second. Failure: a Redis that does not answer in time, or answers something odd,
//! is left alone for a second, then longer, half a minute at most.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, PoisonError};

use fsmtp_store::MailboxId;
use fsmtp_store::directory::Edit;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisResult,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bridge::{Complaint, Shared};

/// What waits to be said.
const WORDS_MAX: usize = 4096;
/// What is said in one go.
const WORDS_AT_ONCE: usize = 256;
/// Counts that are exchanged in one go.
const COUNTS_MAX: usize = 10_000;
/// How often counts are exchanged.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// For how long it is left alone after a failure, at first and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A mailbox that nobody gives back is not shown as open for longer.
const OPEN_SECONDS: u64 = 60;

/// Takes from a bucket that all nodes share: when it will be full again, in microseconds. It keeps
/// nothing that is over, nor for longer than an hour.
const TAKE: &str = "local now, cost = tonumber(ARGV[1]), tonumber(ARGV[2]) \
     local most = tonumber(ARGV[3]) \
     local full = tonumber(redis.call('GET', KEYS[1]) or '0') or 0 \
     full = math.min(math.max(full, now), now + most) + cost \
     full = math.min(full, now + most) \
     local left = math.max(math.ceil((full - now) / 1000), 1) \
     redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', left) \
     return string.format('%.0f', full)";

/// How it is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisTerms {
    /// Servers with their ports; the first one that answers is used.
    pub contacts: Vec<String>,
    /// Name and password.
    pub login: Option<(String, String)>,
    /// How long connecting and each answer may take.
    pub timeout: Duration,
}

impl RedisTerms {
    /// Asks whether it is there; blocks.
    ///
    /// # Errors
    /// Why it is not, in a sentence.
    pub fn ping(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(connect(self, None::<fn()>)).map(drop)
    }
}

impl fmt::Debug for RedisTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisTerms({})", self.contacts.join(", "))
    }
}

/// What was taken from a bucket since it was asked last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The bucket's name: the same on all nodes, and no other one's.
    pub name: String,
    /// How much, in microseconds until it is full again.
    pub cost_us: u64,
    /// The most that a bucket takes to be full.
    pub most_us: u64,
}

/// What a node counts and others are to know.
pub trait Counts: Send + Sync {
    /// What was taken, at most `count_max`.
    fn taken(&self, count_max: usize) -> Vec<Taken>;
    /// When a bucket will be full again, all nodes considered; in microseconds since 1970. To be
    /// believed as far as the node's own limit allows only.
    fn learn(&self, name: &str, full_at_us: u64);
}

/// Something to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// This key has this value, for so many seconds when that is said.
    Put(String, String, Option<u64>),
    /// There is no such key.
    Drop(String),
    /// The directory was changed.
    Changed,
}

/// The way there, for the thread of the bridge.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    keyspace: Arc<str>,
    words: mpsc::Sender<Word>,
}

impl Cache {
    /// Begins; ends with the runtime.
    pub(crate) fn start(terms: RedisTerms, keyspace: &str, shared: &Arc<Shared>) -> Self {
        let (words, heard) = mpsc::channel(WORDS_MAX);
        let keyspace: Arc<str> = keyspace.into();
        let line = Line { terms, keyspace: Arc::clone(&keyspace), shared: Arc::clone(shared) };
        tokio::spawn(line.run(heard));
        Self { keyspace, words }
    }

    /// Says something, unless too much waits to be said already.
    fn say(&self, word: Word) {
        let _ = self.words.try_send(word);
    }

    /// The directory was changed.
    pub(crate) fn changed(&self, edit: &Edit) {
        if let Some(word) = mirrored(&self.keyspace, edit) {
            self.say(word);
        }
        self.say(Word::Changed);
    }

    /// A session of this node has a mailbox, or goes on to have it.
    pub(crate) fn opened(&self, mailbox: MailboxId, node: &str) {
        let key = format!("{}:open:{}", self.keyspace, mailbox.0);
        self.say(Word::Put(key, node.to_owned(), Some(OPEN_SECONDS)));
    }

    /// It has it no more.
    pub(crate) fn closed(&self, mailbox: MailboxId) {
        self.say(Word::Drop(format!("{}:open:{}", self.keyspace, mailbox.0)));
    }
}

/// The key of a domain, an account or an alias.
pub(crate) fn key(keyspace: &str, kind: &str, name: &str) -> String {
    format!("{keyspace}:{kind}:{name}")
}

/// What the mirror says of targets: one in a line.
pub(crate) fn targets(all: &[String]) -> String {
    all.join("\n")
}

/// What an edit is in the mirror.
fn mirrored(keyspace: &str, edit: &Edit) -> Option<Word> {
    let key = |kind, name: &str| key(keyspace, kind, name);
    Some(match edit {
        Edit::PutDomain(name) => Word::Put(key("domain", name), "1".to_owned(), None),
        Edit::DropDomain(name) => Word::Drop(key("domain", name)),
        Edit::PutAccount(account, _) => {
            Word::Put(key("account", &account.address), account.mailbox.0.to_string(), None)
        }
        Edit::DropAccount { address, .. } => Word::Drop(key("account", address)),
        Edit::PutAlias(alias) => {
            Word::Put(key("alias", &alias.address), targets(&alias.targets), None)
        }
        Edit::DropAlias(address) => Word::Drop(key("alias", address)),
        Edit::NextMailbox(_) => return None,
    })
}

/// A connection, with the first of the contacts that takes one.
pub(crate) async fn connect(
    terms: &RedisTerms,
    pushed: Option<impl Fn() + Clone + Send + Sync + 'static>,
) -> Result<MultiplexedConnection, String> {
    let mut failed = "there is no contact".to_owned();
    for contact in &terms.contacts {
        let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        if let Some((user, password)) = &terms.login {
            settings = settings.set_username(user).set_password(password);
        }
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(terms.timeout))
            .set_response_timeout(Some(terms.timeout));
        if let Some(pushed) = pushed.clone() {
            config = config.set_push_sender(move |_: PushInfo| {
                pushed();
                Ok::<(), ()>(())
            });
        }
        let connected = async {
            let info = format!("redis://{contact}").into_connection_info()?;
            let client = Client::open(info.set_redis_settings(settings))?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        // The greeting may take as long as the connection.
        failed = match tokio::time::timeout(terms.timeout * 3, connected).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => format!("{contact}: {error}"),
            Err(_) => format!("{contact}: no answer"),
        };
    }
    Err(failed)
}

/// What the task works with.
struct Line {
    terms: RedisTerms,
    keyspace: Arc<str>,
    shared: Arc<Shared>,
}

impl Line {
    async fn run(self, mut heard: mpsc::Receiver<Word>) {
        let (mut pause, mut is_away) = (PAUSE_MIN, false);
        loop {
            let begun = Instant::now();
            let Err(why) = self.talk(&mut heard, &mut is_away).await else { return };
            if !core::mem::replace(&mut is_away, true) {
                self.shared.complain(Complaint::RedisAway(why));
            }
            // One that was there for a while may have been restarted.
            pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { pause };
            let until = Instant::now() + pause;
            // Nobody will need what is said meanwhile: `sync` mends what the mirror lacks.
            while let Ok(word) = tokio::time::timeout_at(until, heard.recv()).await {
                if word.is_none() {
                    return;
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Talks until something fails; ends well when nobody has anything to say any more.
    async fn talk(
        &self,
        heard: &mut mpsc::Receiver<Word>,
        is_away: &mut bool,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let mut line = connect(&self.terms, Some(move || shared.look.notify_one())).await?;
        let failed = |error: redis::RedisError| error.to_string();
        line.subscribe(self.channel()).await.map_err(failed)?;
        self.exchange(&mut line).await.map_err(failed)?;
        if core::mem::take(is_away) {
            self.shared.complain(Complaint::RedisBack);
            // What others have said meanwhile was not heard.
            self.shared.look.notify_one();
        }
        let mut next = Instant::now() + EXCHANGE_EVERY;
        loop {
            match tokio::time::timeout_at(next, heard.recv()).await {
                Ok(None) => return Ok(()),
                Ok(Some(first)) => {
                    let mut words = vec![first];
                    while words.len() < WORDS_AT_ONCE
                        && let Ok(word) = heard.try_recv()
                    {
                        words.push(word);
                    }
                    self.tell(&mut line, &words).await.map_err(failed)?;
                }
                Err(_) => {
                    self.exchange(&mut line).await.map_err(failed)?;
                    next = Instant::now() + EXCHANGE_EVERY;
                }
            }
        }
    }

    fn channel(&self) -> String {
        format!("{}:changed", self.keyspace)
    }

    async fn tell(&self, line: &mut MultiplexedConnection, words: &[Word]) -> RedisResult<()> {
        let mut all = Pipeline::new();
        for word in words {
            match word {
                Word::Put(key, value, None) => all.cmd("SET").arg(key).arg(value),
                Word::Put(key, value, Some(seconds)) => {
                    all.cmd("SET").arg(key).arg(value).arg("EX").arg(seconds)
                }
                Word::Drop(key) => all.cmd("DEL").arg(key),
                Word::Changed => all.cmd("PUBLISH").arg(self.channel()).arg("1"),
            }
            .ignore();
        }
        all.query_async(line).await
    }

    /// Tells what this node has counted, and learns what all have. Shows that it is there, too.
    async fn exchange(&self, line: &mut MultiplexedConnection) -> RedisResult<()> {
        let counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let taken = counts.as_ref().map(|counts| counts.taken(COUNTS_MAX)).unwrap_or_default();
        let mut all = Pipeline::new();
        let now_us = (self.shared.clock)().ms().saturating_mul(1000);
        for Taken { name, cost_us, most_us } in &taken {
            let key = key(&self.keyspace, "rate", name);
            all.cmd("EVAL").arg(TAKE).arg(1).arg(key).arg(now_us).arg(cost_us).arg(most_us);
        }
        all.cmd("PING").ignore();
        let told: Vec<String> = all.query_async(line).await?;
        let Some(counts) = counts else { return Ok(()) };
        for (Taken { name, .. }, full_at) in taken.iter().zip(told) {
            if let Ok(full_at) = full_at.parse() {
                counts.learn(name, full_at);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_has_names_and_no_secrets() {
        let said = |edit: &Edit| mirrored("mail", edit);
        let put = |key: &str, value: &str| Some(Word::Put(key.into(), value.into(), None));
        assert_eq!(said(&Edit::PutDomain("a.test".into())), put("mail:domain:a.test", "1"));
        let dropped = Edit::DropAccount { address: "x@a.test".into(), mailbox: MailboxId(3) };
        assert_eq!(said(&dropped), Some(Word::Drop("mail:account:x@a.test".into())));
        assert_eq!(said(&Edit::NextMailbox(MailboxId(9))), None);
        assert_eq!(targets(&["a@b".into(), "c@d".into()]), "a@b\nc@d");
    }
}
