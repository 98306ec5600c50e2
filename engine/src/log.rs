//! The log: one event a line, with a name from a documented list.
//!
//! A shard formats into a buffer of its own and hands whole buffers to one writer thread, so a
//! session never waits for the terminal or the journal. When the writer falls behind by more than
//! `QUEUE_MAX` buffers, buffers are dropped and the loss is counted in the next line that gets
//! through. Passwords, keys and message content never appear: no event has a field for them.

use core::cell::{Cell, RefCell};
use core::fmt::{self, Display, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fsmtp_rt::UnixTime;

/// Buffers that may wait for the writer thread.
const QUEUE_MAX: usize = 64;
/// A buffer is handed over when it has grown to this size, or on the shard's next tick.
const BUFFER_BYTES: usize = 16 * 1024;

/// How much is logged; each level includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something is broken and needs somebody.
    Error,
    /// Something was refused or is about to run out.
    Warn,
    /// One line for each message and each sign-in.
    Info,
    /// One line for each connection and refused command.
    Debug,
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people: time, level, event, `key=value`.
    Text,
}

macro_rules! events {
    ($($variant:ident $name:literal $level:ident $help:literal;)*) => {
        /// What can happen. The names are stable; docs/events.md lists them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Event { $(#[doc = $help] $variant,)* }

        impl Event {
            /// All events: name, level, meaning.
            pub const ALL: &'static [(&'static str, Level, &'static str)] =
                &[$(($name, Level::$level, $help),)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// From which level on it is logged.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }
        }
    };
}

events! {
    EngineStarted "engine-started" Info "The engine takes connections.";
    EngineDraining "engine-draining" Info "SIGTERM: running transactions finish, in 30 s at most.";
    EngineStopped "engine-stopped" Info "Everything is on disk and the process ends.";
    SettingIgnored "setting-ignored" Warn "The data folder keeps what it was made with instead.";
    ShardRecovered "shard-recovered" Info "A shard has read its log after a start: what it found.";
    ShardFailed "shard-failed" Error "A shard cannot start; the engine ends.";
    ListenFailed "listen-failed" Error "An address cannot be listened on.";
    AcceptFailed "accept-failed" Warn "The system refused a connection (out of descriptors?).";
    ConnectionRefused "connection-refused" Warn "A connection was over a limit: 421 and closed.";
    ConnectionOpened "connection-opened" Debug "A client has connected.";
    ConnectionClosed "connection-closed" Debug "A connection has ended, and how.";
    CertificatesReloaded "certificates-reloaded" Info "SIGHUP: the files as they are now.";
    CertificatesKept "certificates-kept" Error "SIGHUP: the files are wrong, the old stay.";
    KeysKept "keys-kept" Error "SIGHUP: a key of DKIM or trust is wrong, the old stay.";
    TlsFailed "tls-failed" Info "A client and the engine could not agree on TLS.";
    SessionPanicked "session-panicked" Error "A session ended by a panic; others go on.";
    MessageStored "message-stored" Info "A message is on stable storage and was answered with 250.";
    MessageRefused "message-refused" Info "A message was refused after its end.";
    MessageSuspect "message-suspect" Info "It is doubtful who sent a message, and what is done.";
    StrangerSlowed "stranger-slowed" Info "A host has sent as much as it may for now.";
    MessageGreylisted "message-greylisted" Info "A host that nobody knows shall come again.";
    EarlyTalker "early-talker" Info "A client did not wait for the greeting, and is let go.";
    FilterAway "filter-away" Warn "A filter could not be asked about a message, and why.";
    FilterRefused "filter-refused" Info "A filter has refused a recipient or a message.";
    FilterDiscarded "filter-discarded" Info "A filter had a message thrown away: nobody gets it.";
    FilterJunk "filter-junk" Info "A filter holds a message for junk, and why.";
    FilterUnheeded "filter-unheeded" Warn "A filter wants what cannot be done; it is left undone.";
    MessageSent "message-sent" Info "Another server has taken a message for a recipient.";
    MessageDeferred "message-deferred" Info "A message could not be sent on for now, and why.";
    SiteLimited "site-limited" Info "A site has refused another connection, and gets fewer.";
    SitePaused "site-paused" Info "A site takes no connection, and is left alone for a while.";
    MessageFailed "message-failed" Warn "A recipient elsewhere gets no message, and why.";
    PolicyFailed "policy-failed" Info "A domain's MTA-STS policy cannot be fetched, and why.";
    TlsCounted "tls-counted" Info "How TLS to a domain came out on a day, and how often.";
    DmarcReported "dmarc-reported" Info "A domain gets a report about a day of its mail.";
    DmarcFailed "dmarc-failed" Warn "A report of DMARC cannot be made or sent, or has nobody.";
    DmarcLost "dmarc-lost" Warn "Too much was to be counted for reports; so many are missing.";
    NotSigned "not-signed" Warn "A message of a user goes without a DKIM signature, and why.";
    ReportSent "report-sent" Info "A sender is told what became of a message.";
    ReportFailed "report-failed" Error "A report about a message cannot be made or stored.";
    SenderRefused "sender-refused" Warn "Somebody tried to send as an address of somebody else.";
    RecipientRefused "recipient-refused" Info "A recipient was refused.";
    RateExceeded "rate-exceeded" Warn "A user names too many recipients; told once a minute.";
    StorageFailed "storage-failed" Error "A write failed: the shard takes no mail until a restart.";
    DiskLow "disk-low" Warn "Free space is below the reserve: new mail is deferred.";
    SignInOk "sign-in-ok" Info "A user has signed in.";
    SignInFailed "sign-in-failed" Warn "A sign-in was refused.";
    SignInDeferred "sign-in-deferred" Warn "Locked, told once a minute with a count; or too busy.";
    NodeGranted "node-granted" Info "A node of the same owner has proved itself (SU).";
    NodeDenied "node-denied" Warn "SU was refused: a wrong key, a wrong clock, or a stranger.";
    AccountSealed "account-sealed" Info "An account has got keys: its mail is sealed from now on.";
    MaildropClosed "maildrop-closed" Info "A POP3 session has ended and its deletions are done.";
    ClusterAway "cluster-away" Warn "The cluster takes no mail; it waits in the spool.";
    ClusterBack "cluster-back" Info "The cluster takes mail again.";
    ClusterTrouble "cluster-trouble" Warn "Something went wrong between this node and the cluster.";
    RedisAway "redis-away" Warn "Redis does not answer, and is left alone for a while.";
    RedisBack "redis-back" Info "Redis answers again.";
    SegmentFreed "segment-freed" Info "A segment of the log was compacted or is used again.";
    MessageDamaged "message-damaged" Error "A stored message cannot be read as it was written.";
    IndexDamaged "index-damaged" Error "Part of the index is damaged, or an account's key.";
    LinesLost "lines-lost" Warn "The log's writer fell behind; so many lines are missing.";
}

/// Where the lines of all shards meet.
#[derive(Clone)]
pub struct Sink {
    queue: SyncSender<Vec<u8>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    format: Format,
    level: Level,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({:?}, {:?})", self.format, self.level)
    }
}

impl Sink {
    /// Starts the writer thread, which writes to standard error. `format`: `None` chooses text for
    /// a terminal and JSON elsewhere.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn stderr(format: Option<Format>, level: Level) -> std::io::Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
        let (queue, lines) = sync_channel::<Vec<u8>>(QUEUE_MAX);
        let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for bytes in lines {
                if bytes.is_empty() {
                    return;
                }
                // Nobody is left to tell when standard error is gone.
                let _ = std::io::stderr().write_all(&bytes);
            }
        })?;
        Ok(Self { queue, writer: Arc::new(Mutex::new(Some(writer))), format, level })
    }

    /// Ends the writer when it has written what it was given; lines that come later are lost.
    pub fn finish(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // An empty buffer is the end; logs never hand one over.
        if let (Some(writer), Ok(())) = (writer, self.queue.send(Vec::new())) {
            let _ = writer.join();
        }
    }

    /// A sink whose lines a test reads.
    #[must_use]
    pub fn memory(format: Format, level: Level) -> (Self, Receiver<Vec<u8>>) {
        let (queue, lines) = sync_channel(QUEUE_MAX);
        (Self { queue, writer: Arc::default(), format, level }, lines)
    }

    /// A log for shard `shard`, or for the process as a whole.
    #[must_use]
    pub fn log(&self, shard: Option<u16>) -> Log {
        let lost = Cell::new(0);
        Log { sink: self.clone(), shard, buffer: RefCell::default(), lines: Cell::new(0), lost }
    }
}

/// The log of one shard; not shared between threads.
pub struct Log {
    sink: Sink,
    shard: Option<u16>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    lost: Cell<u64>,
}

impl Log {
    /// Whether events of `level` are logged, for callers that would do work only for the log.
    #[must_use]
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.sink.level
    }

    /// Logs one event with its fields.
    pub fn event(&self, at: UnixTime, event: Event, fields: &[(&str, &dyn Display)]) {
        if !self.enabled(event.level()) {
            return;
        }
        let mut line = Line { bytes: self.buffer.take(), escape: false };
        // Writing to memory cannot fail.
        let _ = match self.sink.format {
            Format::Json => line.json(at, self.shard, event, fields),
            Format::Text => line.text(at, self.shard, event, fields),
        };
        self.lines.set(self.lines.get() + 1);
        let full = line.bytes.len() >= BUFFER_BYTES;
        self.buffer.replace(line.bytes);
        if full || event.level() == Level::Error {
            self.flush(at);
        }
    }

    /// Hands what has gathered to the writer; a shard calls this on each tick.
    pub fn flush(&self, at: UnixTime) {
        let bytes = self.buffer.take();
        if bytes.is_empty() {
            return;
        }
        let lines = self.lines.take();
        match self.sink.queue.try_send(bytes) {
            Ok(()) => {
                let lost = self.lost.take();
                if lost > 0 {
                    self.event(at, Event::LinesLost, &[("lines", &lost)]);
                }
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.set(self.lost.get() + lines);
            }
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log(shard {:?})", self.shard)
    }
}

/// A line in the making. With `escape`, text is escaped as inside a JSON string.
struct Line {
    bytes: Vec<u8>,
    escape: bool,
}

impl Line {
    fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn json(
        &mut self,
        at: UnixTime,
        shard: Option<u16>,
        event: Event,
        fields: &[(&str, &dyn Display)],
    ) -> fmt::Result {
        self.put("{\"time\":\"");
        write!(self, "{}", at.rfc3339())?;
        for text in ["\",\"level\":\"", level_name(event.level()), "\",\"event\":\"", event.name()]
        {
            self.put(text);
        }
        self.put("\"");
        if let Some(shard) = shard {
            write!(self, ",\"shard\":{shard}")?;
        }
        for (name, value) in fields {
            for text in [",\"", name, "\":\""] {
                self.put(text);
            }
            let start = self.bytes.len();
            self.escape = true;
            write!(self, "{value}")?;
            self.escape = false;
            if self.bytes.get(start..).is_some_and(is_plain) {
                self.bytes.remove(start - 1);
            } else {
                self.bytes.push(b'"');
            }
        }
        self.bytes.extend_from_slice(b"}\n");
        Ok(())
    }

    fn text(
        &mut self,
        at: UnixTime,
        shard: Option<u16>,
        event: Event,
        fields: &[(&str, &dyn Display)],
    ) -> fmt::Result {
        write!(self, "{} {:5} {}", at.rfc3339(), level_name(event.level()), event.name())?;
        if let Some(shard) = shard {
            write!(self, " shard={shard}")?;
        }
        for (name, value) in fields {
            for text in [" ", name, "=\""] {
                self.put(text);
            }
            let start = self.bytes.len();
            // Escaped here too: a client's text must not forge lines or fields on a terminal.
            self.escape = true;
            write!(self, "{value}")?;
            self.escape = false;
            let word = |b: &u8| b.is_ascii_alphanumeric() || b"@._:-[]".contains(b);
            if self.bytes.get(start..).is_some_and(|text| text.iter().all(word)) {
                self.bytes.remove(start - 1);
            } else {
                self.bytes.push(b'"');
            }
        }
        self.bytes.push(b'\n');
        Ok(())
    }
}

/// Whether JSON has this value without quotes: a truth value, or a number that stays exact.
fn is_plain(text: &[u8]) -> bool {
    let number = !text.is_empty() && text.len() <= 15 && text.iter().all(u8::is_ascii_digit);
    (number && (text.len() == 1 || !text.starts_with(b"0"))) || text == b"true" || text == b"false"
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // C1 controls begin with 0xc2 in UTF-8; what else does is looked at in the slow way too.
        let plain = |&b: &u8| b >= b' ' && !matches!(b, b'"' | b'\\' | 0x7f | 0xc2);
        if !self.escape || text.as_bytes().iter().all(plain) {
            self.bytes.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for c in text.chars() {
            match c {
                '"' | '\\' => self.bytes.extend_from_slice(&[b'\\', c as u8]),
                // All of them are below 0x100: C0, DEL and C1.
                _ if c.is_control() => {
                    self.bytes.extend_from_slice(b"\\u00");
                    let code = c as u8;
                    for digit in [code >> 4, code & 15] {
                        self.bytes.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
                    }
                }
                _ => {
                    let mut utf8 = [0; 4];
                    self.bytes.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, value: &str) -> String {
        let (sink, lines) = Sink::memory(format, Level::Info);
        let log = sink.log(Some(3));
        let at = UnixTime::from_ms(1_599_847_638_042);
        log.event(at, Event::MessageStored, &[("from", &value)]);
        log.event(at, Event::ConnectionOpened, &[]);
        log.flush(at);
        String::from_utf8(lines.recv().unwrap()).unwrap()
    }

    #[test]
    fn lines_cannot_be_forged_by_a_client() {
        assert_eq!(
            written(Format::Json, "a\"b\r\n{\\\u{7f}é"),
            "{\"time\":\"2020-09-11T18:07:18.042Z\",\"level\":\"info\",\
             \"event\":\"message-stored\",\"shard\":3,\
             \"from\":\"a\\\"b\\u000d\\u000a{\\\\\\u007fé\"}\n"
        );
        assert_eq!(
            written(Format::Text, "a\nb"),
            "2020-09-11T18:07:18.042Z info  message-stored shard=3 from=\"a\\u000ab\"\n"
        );
    }

    #[test]
    fn a_slow_writer_loses_lines_and_says_so() {
        let (sink, lines) = Sink::memory(Format::Text, Level::Info);
        let log = sink.log(None);
        let at = UnixTime::default();
        for _ in 0..QUEUE_MAX + 5 {
            log.event(at, Event::MessageStored, &[]);
            log.flush(at);
        }
        assert_eq!(lines.try_iter().count(), QUEUE_MAX);
        log.event(at, Event::MessageStored, &[]);
        log.flush(at);
        log.flush(at);
        let rest: Vec<u8> = lines.try_iter().flatten().collect();
        assert!(String::from_utf8(rest).unwrap().contains("lines-lost lines=5"));
    }

    #[test]
    fn every_event_is_documented() {
        let page = include_str!("../../docs/events.md");
        for (name, level, help) in Event::ALL {
            let row = format!("| `{name}` | {} | {help} |", level_name(*level));
            assert!(page.contains(&row), "docs/events.md lacks: {row}");
        }
    }
}
