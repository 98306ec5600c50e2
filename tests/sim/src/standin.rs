//! Stand-in for the shard until the engine's own is there: a small SMTP server in front of the real
//! spool.
//!
//! It exists to prove that the world, the clients and the checks work; it goes when `node.rs` boots
//! the real shard.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use fsmtp_rt::sim::{DiskId, SimConn, SimRuntime};
use fsmtp_rt::{Class, Conn, IoError, IoKind, Listener, Runtime};
use fsmtp_store::envelope::{Envelope, EnvelopeRecipient, Notify};
use fsmtp_store::spool::{Incoming, Spool, SpoolConfig};
use fsmtp_store::{MailboxId, ShardId, StoreError};

use crate::index::Index;
use crate::plan::Plan;

const IDLE: Duration = Duration::from_secs(300);

/// One life of one shard.
pub(crate) async fn shard(
    rt: SimRuntime,
    disk: DiskId,
    shard: usize,
    plan: Rc<Plan>,
    index: Index,
    ready: impl FnOnce(),
) -> Result<(), StoreError> {
    let layout = SpoolConfig { shard: ShardId(shard as u16), ..plan.layout.clone() };
    let (mark, sink) = (index.mark(shard), Rc::new(index.clone()));
    let (spool, _) = Spool::open(rt.clone(), rt.disk(disk), layout, mark, sink).await?;
    if plan.compacts {
        rt.spawn(Class::Background, tidy(rt.clone(), spool.clone(), index));
    }
    let mut listener = rt.listen(25);
    ready();
    loop {
        if let Ok(conn) = listener.accept().await {
            let mut session = Session::new(&rt, &spool, conn);
            rt.spawn(Class::Session, async move {
                let _ = session.serve().await;
                let late = session.rt.now() + IDLE;
                session.conn.close(late).await;
            });
        }
    }
}

/// Deletes and compacts, now and then.
async fn tidy(rt: SimRuntime, spool: Spool<SimRuntime>, index: Index) {
    let mut random = rt.fork_random();
    for _ in 0..50 {
        let pause = Duration::from_millis(random.below(2_000));
        rt.sleep_until(rt.now() + pause).await;
        for _ in 0..random.below(4) {
            index.delete_any(&mut random);
        }
        // A failed pass is the next one's work.
        let _ = spool.compact(&index).await;
    }
}

struct Session {
    rt: SimRuntime,
    spool: Spool<SimRuntime>,
    conn: SimConn,
    out: Vec<u8>,
    hello: bool,
    mail: bool,
    boxes: BTreeSet<u32>,
    incoming: Option<Result<Incoming<SimRuntime>, StoreError>>,
}

impl Session {
    fn new(rt: &SimRuntime, spool: &Spool<SimRuntime>, conn: SimConn) -> Self {
        Self {
            rt: rt.clone(),
            spool: spool.clone(),
            conn,
            out: Vec::new(),
            hello: false,
            mail: false,
            boxes: BTreeSet::new(),
            incoming: None,
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
        let mut buffer = self.rt.buffer();
        buffer.append(&mut self.out);
        let late = self.rt.now() + IDLE;
        self.conn.send(buffer, late).await
    }

    /// Waits for more; false at the end.
    async fn more(&mut self) -> Result<bool, IoError> {
        self.flush().await?;
        match self.conn.fill(self.rt.now() + IDLE).await {
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
        self.incoming = None;
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
            Some(number) if self.incoming.is_none() => {
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
        if self.incoming.is_some() {
            self.say("503 5.5.1 BDAT already begun, DATA cannot follow");
            return Ok(true);
        }
        if self.out_of_place() {
            return Ok(true);
        }
        let incoming = match self.spool.incoming() {
            Ok(incoming) => incoming,
            Err(error) => {
                self.refuse(&error);
                return Ok(true);
            }
        };
        self.say("354 End data with <CR><LF>.<CR><LF>");
        self.incoming = Some(Ok(incoming));
        loop {
            let Some(line) = self.line().await? else { return Ok(false) };
            if line == b".\r\n" {
                break;
            }
            self.push(line.strip_prefix(b".").unwrap_or(&line)).await;
        }
        self.store().await;
        Ok(true)
    }

    /// Adds to the message; after an error the rest goes nowhere.
    async fn push(&mut self, bytes: &[u8]) {
        if let Some(Ok(incoming)) = &mut self.incoming
            && let Err(error) = incoming.push(bytes).await
        {
            self.incoming = Some(Err(error));
        }
    }

    fn refuse(&mut self, error: &StoreError) {
        self.say(match error {
            StoreError::DiskLow { .. } => "452 4.3.1 Disk space is low, try again later",
            StoreError::Busy => "451 4.3.0 Busy, try again later",
            _ => "451 4.3.0 Local error in storage, try again later",
        });
    }

    async fn bdat(&mut self, rest: &str) -> Result<bool, IoError> {
        let mut words = rest.split(' ');
        let mut size: usize = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        let last = words.next().is_some();
        let takes = self.mail && !self.boxes.is_empty();
        if takes && self.incoming.is_none() {
            self.incoming = Some(self.spool.incoming());
        }
        loop {
            let here = self.conn.filled().len().min(size);
            if takes {
                let piece = self.conn.filled()[..here].to_vec();
                self.push(&piece).await;
            }
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
        match &self.incoming {
            _ if last => self.store().await,
            Some(Err(error)) => {
                let error = error.clone();
                self.refuse(&error);
            }
            _ => self.say("250 2.0.0 OK, octets received"),
        }
        Ok(true)
    }

    async fn store(&mut self) {
        let recipients = self.boxes.iter().map(|number| EnvelopeRecipient {
            mailbox: MailboxId(u64::from(*number)),
            address: b"somebody@example.test".to_vec(),
            notify: Notify::default(),
            orcpt: None,
        });
        let envelope = Envelope { recipients: recipients.collect(), ..Envelope::default() };
        let incoming = self.incoming.take();
        self.reset();
        let stored = match incoming {
            Some(Ok(incoming)) => incoming.commit(b"Received: here\r\n", envelope).await,
            Some(Err(error)) => Err(error),
            None => Err(StoreError::Busy),
        };
        match stored {
            Ok(stored) => self.say(&format!("250 2.6.0 OK, message queued <{}>", stored.id)),
            Err(error) => self.refuse(&error),
        }
    }
}
