//! Stand-in for the shard until the engine's own is there: a small SMTP server, a group-commit log
//! and a mailbox index, all on the seam's traits.
//!
//! It exists to prove that the world, the clients and the checks work; it goes when `node.rs` boots
//! the real shard.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use fsmtp_rt::sim::trace::sum;
use fsmtp_rt::sim::{Random, SimConn, SimFile, SimRuntime};
use fsmtp_rt::{Block, Class, Conn, Disk, File, IoError, IoKind, Listener, PAGE_BYTES, Runtime};
use futures_channel::oneshot;

use crate::plan::Plan;

const LOG_BYTES: u64 = 64 << 20;
const HEAD_BYTES: usize = 32;
const MAGIC: u64 = 0x7374_616e_6469_6e21;
const IDLE: Duration = Duration::from_secs(300);

/// The place of a message in a shard's log: its batch, and its number in it.
pub(crate) type Place = (u64, u32);

/// A message in the index.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    /// Who has it.
    pub(crate) boxes: Vec<u32>,
    /// Its bytes.
    pub(crate) bytes: Rc<[u8]>,
}

/// Mailboxes in memory, of which only what was persisted survives a crash.
#[derive(Debug)]
pub(crate) struct Index {
    mail: Vec<Mail>,
    applied: Vec<Place>,
    kept_mail: usize,
    kept_applied: Vec<Place>,
    random: Random,
}

impl Index {
    /// An empty index for `shards` shards.
    pub(crate) fn new(shards: usize, seed: u64) -> Self {
        Self {
            mail: Vec::new(),
            applied: vec![(0, 0); shards],
            kept_mail: 0,
            kept_applied: vec![(0, 0); shards],
            random: Random::new(seed),
        }
    }

    fn committed(&mut self, plan: &Plan, shard: usize, next: Place, mail: Mail) {
        if !self.random.chance(plan.index_drops) {
            self.mail.push(mail);
        }
        self.applied[shard] = next;
        if plan.mark_only {
            self.kept_applied.clone_from(&self.applied);
        }
        if self.random.chance(plan.persists) {
            self.kept_mail = self.mail.len();
            self.kept_applied.clone_from(&self.applied);
        }
    }

    /// What a crash leaves.
    pub(crate) fn crash(&mut self) {
        self.mail.truncate(self.kept_mail);
        self.applied.clone_from(&self.kept_applied);
    }

    /// All mail.
    pub(crate) fn mail(&self) -> &[Mail] {
        &self.mail
    }
}

/// What the shards of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The plan, for the planted bugs.
    pub(crate) plan: Rc<Plan>,
    /// The mailboxes.
    pub(crate) index: RefCell<Index>,
}

type Waiter = oneshot::Sender<bool>;

#[derive(Default)]
struct Log {
    at: u64,
    filling: Vec<(Mail, Waiter)>,
    flying: bool,
    poisoned: bool,
}

#[derive(Clone)]
struct Spool {
    rt: SimRuntime,
    file: SimFile,
    log: Rc<RefCell<Log>>,
    shared: Rc<Shared>,
    shard: usize,
}

impl Spool {
    async fn commit(&self, mail: Mail) -> bool {
        let (told, answer) = oneshot::channel();
        let idle = {
            let mut log = self.log.borrow_mut();
            if log.poisoned {
                return false;
            }
            log.filling.push((mail, told));
            !core::mem::replace(&mut log.flying, true)
        };
        if idle {
            let spool = self.clone();
            self.rt.spawn(Class::Spool, async move { spool.fly().await });
        }
        answer.await.unwrap_or(false)
    }

    /// Writes batches until none is left.
    async fn fly(&self) {
        loop {
            let (at, batch) = {
                let mut log = self.log.borrow_mut();
                let batch = core::mem::take(&mut log.filling);
                if batch.is_empty() || log.poisoned {
                    log.flying = false;
                    return;
                }
                (log.at, batch)
            };
            let block = render(at, batch.iter().map(|(mail, _)| mail));
            let bytes = block.len() as u64;
            let good = self.file.write_durable(at, block).await.1.is_ok();
            let mut log = self.log.borrow_mut();
            log.poisoned |= !good;
            log.at += bytes;
            for (number, (mail, waiter)) in (1..).zip(batch) {
                if good {
                    let plan = &self.shared.plan;
                    let mut index = self.shared.index.borrow_mut();
                    index.committed(plan, self.shard, (at, number), mail);
                }
                let _ = waiter.send(good);
            }
        }
    }
}

fn render<'a>(at: u64, batch: impl Iterator<Item = &'a Mail>) -> Block {
    let mut body = Vec::new();
    for mail in batch {
        body.extend_from_slice(&(mail.boxes.len() as u32).to_le_bytes());
        mail.boxes.iter().for_each(|b| body.extend_from_slice(&b.to_le_bytes()));
        body.extend_from_slice(&(mail.bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&mail.bytes);
    }
    let mut block = Block::new(HEAD_BYTES + body.len());
    for word in [MAGIC, at, body.len() as u64, sum(&body) ^ at] {
        assert!(block.push(&word.to_le_bytes()), "the block was made large enough");
    }
    assert!(block.push(&body), "the block was made large enough");
    block.pad();
    block
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let bytes = bytes.get(index * 8..index * 8 + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Takes a length-prefixed piece.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_at_checked(4)?;
    *bytes = rest;
    Some(u32::from_le_bytes(head.try_into().ok()?))
}

fn parse(mut body: &[u8]) -> Option<Vec<Mail>> {
    let mut batch = Vec::new();
    while !body.is_empty() {
        let count = number(&mut body)?;
        let boxes = (0..count).map(|_| number(&mut body)).collect::<Option<_>>()?;
        let length = number(&mut body)? as usize;
        let (bytes, rest) = body.split_at_checked(length)?;
        body = rest;
        batch.push(Mail { boxes, bytes: bytes.into() });
    }
    Some(batch)
}

async fn recover(shared: &Shared, shard: usize, file: &SimFile) -> Result<u64, IoError> {
    let mut at = 0;
    loop {
        let head = file.read(at, HEAD_BYTES).await?;
        let words: Option<Vec<u64>> = (0..4).map(|index| word(&head, index)).collect();
        let Some([MAGIC, place, length, check]) = words.as_deref() else { return Ok(at) };
        if *place != at {
            return Ok(at);
        }
        let body = file.read(at + HEAD_BYTES as u64, *length as usize).await?;
        let Some(batch) = parse(&body).filter(|_| sum(&body) ^ at == *check) else {
            return Ok(at);
        };
        let mut index = shared.index.borrow_mut();
        for (number, mail) in (1..).zip(batch) {
            if shared.plan.replay_all || (at, number) > index.applied[shard] {
                index.committed(&shared.plan, shard, (at, number), mail);
            }
        }
        at += (HEAD_BYTES + body.len()).next_multiple_of(PAGE_BYTES) as u64;
    }
}

/// One life of one shard.
pub(crate) async fn shard(
    rt: SimRuntime,
    disk: impl Disk<File = SimFile>,
    shard: usize,
    shared: Rc<Shared>,
    ready: impl FnOnce(),
) -> Result<(), IoError> {
    let name = format!("{shard:03}-{:010}.seg", 0);
    let file = match disk.open(&name).await {
        Ok(file) => file,
        Err(error) if error.kind == IoKind::NotFound => {
            // A torn creation leaves a file of the wrong length, so it gets its name when whole.
            let spare = format!("spare-{shard:03}");
            disk.create(&spare, LOG_BYTES).await?;
            disk.rename(&spare, &name).await?;
            disk.open(&name).await?
        }
        Err(error) => return Err(error),
    };
    let at = recover(&shared, shard, &file).await?;
    let log = Rc::new(RefCell::new(Log { at, ..Log::default() }));
    let spool = Spool { rt: rt.clone(), file, log, shared, shard };
    let mut listener = rt.listen(25);
    ready();
    loop {
        if let Ok(conn) = listener.accept().await {
            let mut session = Session::new(&spool, conn);
            rt.spawn(Class::Session, async move {
                let _ = session.serve().await;
                let late = session.spool.rt.now() + IDLE;
                session.conn.close(late).await;
            });
        }
    }
}

struct Session {
    spool: Spool,
    conn: SimConn,
    out: Vec<u8>,
    hello: bool,
    mail: bool,
    boxes: BTreeSet<u32>,
    chunks: Option<Vec<u8>>,
}

impl Session {
    fn new(spool: &Spool, conn: SimConn) -> Self {
        Self {
            spool: spool.clone(),
            conn,
            out: Vec::new(),
            hello: false,
            mail: false,
            boxes: BTreeSet::new(),
            chunks: None,
        }
    }

    fn say(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b" - fsmtp\r\n");
    }

    async fn flush(&mut self) -> Result<(), IoError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut buffer = self.spool.rt.buffer();
        buffer.append(&mut self.out);
        let late = self.spool.rt.now() + IDLE;
        self.conn.send(buffer, late).await
    }

    /// Waits for more; false at the end.
    async fn more(&mut self) -> Result<bool, IoError> {
        self.flush().await?;
        match self.conn.fill(self.spool.rt.now() + IDLE).await {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind == IoKind::TimedOut => {
                self.say("421 4.4.2 Timed out, closing connection");
                self.flush().await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, IoError> {
        loop {
            if let Some(end) = self.conn.filled().iter().position(|byte| *byte == b'\n') {
                let line = self.conn.filled()[..=end].to_vec();
                self.conn.consume(end + 1);
                return Ok(Some(line));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn serve(&mut self) -> Result<(), IoError> {
        self.say("220 sim.example.test Fannst ESMTP Mail service ready");
        while let Some(line) = self.line().await? {
            if self.out.len() > 4000 {
                self.flush().await?;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => {
                    self.reset();
                    self.hello = true;
                    self.say("250 sim.example.test");
                }
                "MAIL" => self.sender(),
                "RCPT" => self.recipient(rest),
                "DATA" if !self.data().await? => return Ok(()),
                "DATA" => {}
                "BDAT" if !self.bdat(rest).await? => return Ok(()),
                "BDAT" => {}
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 OK, state reset");
                }
                "NOOP" => self.say("250 2.0.0 OK"),
                "VRFY" => self.say("252 2.0.0 Not verified, send a message and see"),
                "HELP" => self.say("214 2.0.0 HELO EHLO MAIL RCPT DATA BDAT"),
                "QUIT" => {
                    self.say("221 2.0.0 Closing connection");
                    return self.flush().await;
                }
                _ => self.say("500 5.5.2 Unknown command"),
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.mail = false;
        self.boxes.clear();
        self.chunks = None;
    }

    fn sender(&mut self) {
        if !self.hello {
            return self.say("503 5.5.1 EHLO/HELO first.");
        }
        if self.mail {
            return self.say("503 5.5.1 MAIL FROM already sent");
        }
        self.mail = true;
        self.say("250 2.1.0 OK, proceed []");
    }

    fn recipient(&mut self, rest: &str) {
        if !self.mail {
            return self.say("503 5.5.1 MAIL FROM first.");
        }
        let number = rest.strip_prefix("TO:<u").and_then(|r| r.split_once('@'));
        match number.and_then(|(number, _)| number.parse().ok()) {
            Some(number) if self.chunks.is_none() => {
                self.boxes.insert(number);
                self.say("250 2.1.5 OK, proceed []");
            }
            Some(_) => self.say("503 5.5.1 BDAT already begun"),
            None => self.say("550 5.1.1 User [] not local."),
        }
    }

    fn out_of_place(&mut self) -> bool {
        let out = !self.mail || self.boxes.is_empty();
        if out {
            self.say("503 5.5.1 RCPT TO first.");
        }
        out
    }

    async fn data(&mut self) -> Result<bool, IoError> {
        if self.chunks.is_some() {
            self.say("503 5.5.1 BDAT already begun, DATA cannot follow");
            return Ok(true);
        }
        if self.out_of_place() {
            return Ok(true);
        }
        self.say("354 End data with <CR><LF>.<CR><LF>");
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line().await? else { return Ok(false) };
            if line == b".\r\n" {
                break;
            }
            body.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        self.store(body).await;
        Ok(true)
    }

    async fn bdat(&mut self, rest: &str) -> Result<bool, IoError> {
        let mut words = rest.split(' ');
        let mut size: usize = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        let last = words.next().is_some();
        let mut chunk = Vec::new();
        loop {
            let here = self.conn.filled().len().min(size);
            chunk.extend_from_slice(&self.conn.filled()[..here]);
            self.conn.consume(here);
            size -= here;
            if size == 0 {
                break;
            }
            if !self.more().await? {
                return Ok(false);
            }
        }
        if self.out_of_place() {
            return Ok(true);
        }
        let body = self.chunks.get_or_insert_default();
        body.extend_from_slice(&chunk);
        if last {
            let body = self.chunks.take().unwrap_or_default();
            self.store(body).await;
        } else {
            self.say("250 2.0.0 OK, octets received");
        }
        Ok(true)
    }

    async fn store(&mut self, body: Vec<u8>) {
        let boxes: Vec<u32> = self.boxes.iter().copied().collect();
        let good = self.spool.commit(Mail { boxes, bytes: body.into() }).await;
        self.reset();
        if good {
            self.say("250 2.6.0 OK, message queued <0123456789abc>");
        } else {
            self.say("451 4.3.0 Local error in storage, try again later");
        }
    }
}
