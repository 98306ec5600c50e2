//! Another server, as the engine's relay meets it: well-behaved, or with one bad habit.
//!
//! Speaks SMTP by itself and knows none of our protocol code. Ends with the value; a connection
//! lives until the engine closes it, or [`PATIENCE`] is over.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::PATIENCE;

/// What is wrong with a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// Nothing.
    Good,
    /// Knows no extension: EHLO is refused.
    Old,
    /// Offers CHUNKING and DSN besides.
    Modern,
    /// Refuses every recipient for now, the first time that it hears of him.
    Greylisting,
    /// Closes the connection when this verb comes, each time.
    Drops(&'static str),
    /// The same, but only so often in all.
    DropsAtFirst(&'static str, usize),
    /// Sends no greeting but a reply that does not end.
    Endless,
    /// Greets with something else than SMTP.
    Garbage,
    /// Refuses everybody at the greeting, for good.
    Unwelcoming,
    /// Answers the message with a code out of range.
    Odd,
    /// Bears so many connections at a time, and greets others with 421.
    Few(usize),
    /// Offers STARTTLS, and then speaks something else than TLS.
    FalseTls,
    /// Offers STARTTLS, and then refuses it.
    NoTls,
    /// Refuses senders in words that would paint a terminal.
    Painting,
}

/// A message that a server has taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// What stood behind MAIL FROM:.
    pub from: String,
    /// What stood behind each RCPT TO: that was accepted.
    pub to: Vec<String>,
    /// The message, dots removed.
    pub message: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    taken: Vec<Taken>,
    known: BTreeMap<String, usize>,
    dropped_count: usize,
    connections_count: usize,
    open_count: usize,
    /// Transactions that are under way, and the most that ever were.
    busy_count: usize,
    busiest_count: usize,
    /// Messages are not answered for now.
    silent: bool,
}

impl State {
    /// A transaction begins.
    fn begin(&mut self, from: String) -> Taken {
        self.busy_count += 1;
        self.busiest_count = self.busiest_count.max(self.busy_count);
        Taken { from, ..Taken::default() }
    }
}

/// A server on loopback.
#[derive(Debug)]
pub struct Remote {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remote {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn start(habit: Habit) -> std::io::Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), habit)
    }

    /// Starts one at this address.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn at(address: SocketAddr, habit: Habit) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (state, ended) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (inner, stop) = (Arc::clone(&state), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let mut state = lock(&inner);
                state.connections_count += 1;
                state.open_count += 1;
                let crowded = matches!(habit, Habit::Few(most) if state.open_count > most);
                drop(state);
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || {
                    // What goes wrong with a connection is over with it.
                    let _ = if crowded { turn_away(stream) } else { serve(stream, habit, &inner) };
                    lock(&inner).open_count -= 1;
                });
            }
        });
        Ok(Self { address, state, ended, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has taken so far.
    #[must_use]
    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.state).taken.clone()
    }

    /// Lets messages wait for their replies, or those that wait have them.
    pub fn be_silent(&self, silent: bool) {
        lock(&self.state).silent = silent;
    }

    /// How many transactions are under way, and how many there were at most at one time.
    #[must_use]
    pub fn busy_counts(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.busy_count, state.busiest_count)
    }

    /// How often somebody connected.
    #[must_use]
    pub fn connections_count(&self) -> usize {
        lock(&self.state).connections_count
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accept.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn turn_away(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"421 4.7.0 too many connections\r\n")
}

/// One connection to its end.
fn serve(stream: TcpStream, habit: Habit, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    match habit {
        Habit::Endless => loop {
            out.write_all(b"220-still greeting\r\n")?;
        },
        Habit::Garbage => out.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?,
        Habit::Unwelcoming => out.write_all(b"554 5.7.1 not you\r\n")?,
        _ => out.write_all(b"220 remote.test ESMTP\r\n")?,
    }
    let mut mail = Taken::default();
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let command = line.trim_end();
        let verb = command.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        if drops(habit, &verb, state) {
            return Ok(());
        }
        let argument = command.split_once(':').map_or("", |(_, rest)| rest).to_owned();
        match verb.as_str() {
            "EHLO" => out.write_all(hello(habit))?,
            "STARTTLS" if habit == Habit::NoTls => out.write_all(b"454 4.7.0 not now\r\n")?,
            "STARTTLS" => return out.write_all(b"220 2.0.0 go on\r\nthis is no TLS at all\r\n"),
            "HELO" => out.write_all(b"250 remote.test\r\n")?,
            "MAIL" if habit == Habit::Painting => {
                out.write_all(b"550 5.7.1 \x1b[2Jpainted \x9b31m\x07\xe2\x80\xae red\r\n")?;
            }
            "MAIL" => {
                mail = lock(state).begin(argument);
                out.write_all(b"250 2.1.0 ok\r\n")?;
            }
            "RCPT" => {
                let reply = recipient(habit, &argument, state);
                if reply.starts_with('2') {
                    mail.to.push(argument);
                }
                out.write_all(reply.as_bytes())?;
            }
            "DATA" if mail.to.is_empty() => out.write_all(b"554 5.5.1 nobody\r\n")?,
            "DATA" => {
                out.write_all(b"354 go on\r\n")?;
                mail.message = data(&mut input)?;
                if drops(habit, "END", state) {
                    return Ok(());
                }
                accept(habit, &mut mail, state, &mut out)?;
            }
            "BDAT" => {
                let mut words = command.split(' ').skip(1);
                let bytes = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
                let mut chunk = vec![0; bytes];
                std::io::Read::read_exact(&mut input, &mut chunk)?;
                mail.message.extend(chunk);
                match words.next() {
                    Some(_) => accept(habit, &mut mail, state, &mut out)?,
                    None => out.write_all(b"250 2.0.0 more\r\n")?,
                }
            }
            "QUIT" => return out.write_all(b"221 2.0.0 bye\r\n"),
            _ => out.write_all(b"250 2.0.0 ok\r\n")?,
        }
    }
}

/// The reply to EHLO.
const fn hello(habit: Habit) -> &'static [u8] {
    match habit {
        Habit::Old => b"500 what?\r\n",
        Habit::Modern => {
            b"250-remote.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 DSN\r\n"
        }
        Habit::FalseTls | Habit::NoTls => b"250-remote.test\r\n250 STARTTLS\r\n",
        _ => b"250-remote.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    }
}

fn drops(habit: Habit, verb: &str, state: &Mutex<State>) -> bool {
    match habit {
        Habit::Drops(at) => at == verb,
        Habit::DropsAtFirst(at, times) if at == verb => {
            let mut state = lock(state);
            state.dropped_count += 1;
            state.dropped_count <= times
        }
        _ => false,
    }
}

/// The local part says what becomes of a recipient: `no`, `later`, `once-later`, or anything else.
fn recipient(habit: Habit, argument: &str, state: &Mutex<State>) -> String {
    let address = argument.trim_start_matches('<').split('>').next().unwrap_or("");
    let local = address.split('@').next().unwrap_or("");
    let mut state = lock(state);
    let seen = state.known.entry(address.to_owned()).or_default();
    *seen += 1;
    match (habit, local) {
        (_, "no") => format!("550 5.1.1 <{address}> is not known & never was\r\n"),
        (_, "later") => "451 4.2.0 not now\r\n".to_owned(),
        (Habit::Greylisting, _) | (_, "once-later") if *seen == 1 => {
            "451-4.7.1 greylisted,\r\n451 4.7.1 come again\r\n".to_owned()
        }
        _ => "250 2.1.5 ok\r\n".to_owned(),
    }
}

/// The lines behind DATA to the single dot.
fn data(input: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}

fn accept(
    habit: Habit,
    mail: &mut Taken,
    state: &Mutex<State>,
    out: &mut TcpStream,
) -> std::io::Result<()> {
    if habit == Habit::Odd {
        return out.write_all(b"999 what is this\r\n");
    }
    let end = Instant::now() + PATIENCE;
    while lock(state).silent && Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut known = lock(state);
    known.busy_count -= 1;
    known.taken.push(std::mem::take(mail));
    drop(known);
    out.write_all(b"250 2.6.0 taken\r\n")
}

/// A name server that knows a few records and answers NXDOMAIN to all else.
#[derive(Debug)]
pub struct Names {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A record: name, type, data as it stands on the wire.
pub type Record = (String, u16, Vec<u8>);

/// The type of an alias, which answers whatever is asked.
const CNAME: u16 = 5;

/// A name on the wire.
#[must_use]
pub fn labels(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap_or(63));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

impl Names {
    /// Starts one on a free port. `mx` are domains with the hosts that take their mail, `hosts` are
    /// hosts with their addresses.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn start(mx: &[(&str, u16, &str)], hosts: &[(&str, Ipv4Addr)]) -> std::io::Result<Self> {
        let mut records: Vec<Record> = Vec::new();
        for (domain, preference, host) in mx {
            let data = [preference.to_be_bytes().to_vec(), labels(host)].concat();
            records.push(((*domain).to_owned(), 15, data));
        }
        records
            .extend(hosts.iter().map(|(host, ip)| ((*host).to_owned(), 1, ip.octets().to_vec())));
        Self::knowing(Arc::new(Mutex::new(records)), false)
    }

    /// Starts one that knows `records`, which may change meanwhile, and says of all that it has
    /// checked their signatures when it is `authentic`. It fails (SERVFAIL) for names that have a
    /// record of type 0.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn knowing(records: Arc<Mutex<Vec<Record>>>, authentic: bool) -> std::io::Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
        let (address, ended) = (socket.local_addr()?, Arc::<AtomicBool>::default());
        let stop = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !stop.load(Ordering::SeqCst) {
                let Ok((bytes, from)) = socket.recv_from(&mut query) else { continue };
                let query = query.get(..bytes).unwrap_or_default();
                let known = records.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(query, &known, authentic) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { address, ended, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// An answer, as little of one as a test needs.
fn answer(query: &[u8], records: &[Record], authentic: bool) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let question = query.get(12..end)?;
    let kind = u16::from_be_bytes([*query.get(end - 4)?, *query.get(end - 3)?]);
    let asked = question.get(..question.len() - 4)?.to_ascii_lowercase();
    let of_name = |record: &&Record| labels(&record.0) == asked;
    let known = records.iter().any(|record| of_name(&record));
    let found: Vec<&Record> =
        records.iter().filter(of_name).filter(|record| [kind, CNAME].contains(&record.1)).collect();
    let mut out = query.get(..2)?.to_vec();
    let code = match (known, records.iter().any(|record| of_name(&record) && record.1 == 0)) {
        (_, true) => 2,
        (true, _) => 0,
        (false, _) => 3,
    };
    out.extend([0x81, 0x80 | code | if authentic { 0x20 } else { 0 }]);
    out.extend([0, 1, 0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    out.extend_from_slice(question);
    for (_, kind, data) in found {
        // The name is that of the question.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 1]);
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend_from_slice(data);
    }
    Some(out)
}
