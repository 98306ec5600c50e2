//! The command line of `send`, and the plan that comes of it: parsed once, then never doubted.
//!
//! Called by `mod.rs`. Everything that can be wrong about a plan is said here, before anything is
//! sent: exit status 2 by clap for a flag, a sentence for what does not go together. Mail goes to
//! loopback only, unless the user names the host as his own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args as _, Command};
use fsmtp_proto::smtp::address::Mailbox;

use super::schedule::{Arrivals, Curve, Segment};
use super::search::Threshold;
use crate::target::owned;
use crate::tls;

/// Connections in all; arbitrary, as many as three source addresses have ports.
pub(crate) const CONNECTIONS_MAX: u32 = 200_000;

/// The shortest interval of figures; arbitrary, some ten looks of a core at its clock.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The highest rate, in messages a second; arbitrary, ten times what a host can send. Beyond it, a
/// core would do nothing but drop what it cannot send.
const RATE_MAX: f64 = 1e6;

/// Cores of all hosts: an id has two hexadecimal digits for them.
pub(crate) const CORES_MAX: u32 = 256;

/// How many sizes stand for a range of sizes.
const RANGE_STEPS: usize = 32;

/// Whether commands leave in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pipelining {
    /// Always; a server that does not offer it is an error.
    On,
    /// Never: each command waits for its reply.
    Off,
    /// Where the server offers it.
    Auto,
}

/// What stands between two messages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Between {
    /// Nothing.
    None,
    /// RSET.
    Rset,
}

/// Sizes of messages: from, to, weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sizes(pub(crate) Vec<(usize, usize, f64)>);

impl Sizes {
    /// Octets of the largest message.
    pub(crate) fn largest(&self) -> usize {
        self.0.iter().map(|(_, high, _)| *high).max().unwrap_or(0)
    }

    /// Each size that occurs, with its weight.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (usize, f64)> {
        self.0.iter().flat_map(|&(low, high, weight)| {
            let steps = if low == high { 1 } else { RANGE_STEPS };
            let one = move |step| low + (high - low) * step / (steps - 1).max(1);
            (0..steps).map(move |step| (one(step), weight / steps as f64))
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high, weight)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            write!(f, "{low}")?;
            if low < high {
                write!(f, "..{high}")?;
            }
            if self.0.len() > 1 {
                write!(f, "={weight}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Sizes {
    type Err = String;

    /// `4096`, `1k..64k`, or `4k=9,1m=1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let (range, weight) = part.split_once('=').unwrap_or((part, "1"));
            let (low, high) = range.split_once("..").unwrap_or((range, range));
            let sizes = (octets(low)?, octets(high)?, weight_of(weight)?);
            if sizes.0 <= sizes.1 { Ok(sizes) } else { Err(format!("{range} is no range")) }
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

fn octets(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(scale));
    number.ok_or_else(|| format!("{text:?} is no size; write 4096, 64k or 1m"))
}

fn weight_of(text: &str) -> Result<f64, String> {
    let weight = text.trim().parse::<f64>().ok().filter(|w| w.is_finite() && *w > 0.0);
    weight.ok_or_else(|| format!("{text:?} is no weight; write a number above 0"))
}

/// Domains and the sums of their weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Domains(pub(crate) Vec<(String, f64)>);

impl FromStr for Domains {
    type Err = String;

    /// `a.test=3,b.test=1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut sum = 0.0;
        let mut one = |part: &str| {
            let (domain, weight) = part.split_once('=').unwrap_or((part, "1"));
            sum += weight_of(weight)?;
            Ok((domain.trim().to_owned(), sum))
        };
        text.split(',').map(&mut one).collect::<Result<_, _>>().map(Self)
    }
}

/// `10s`, `1.5m`, `250ms`, `80us`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no time; write 250ms, 10s or 2m")),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * scale);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| format!("{text:?} is no time; write 250ms, 10s or 2m"))
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches("/s").parse::<f64>().ok();
    number
        .filter(|rate| (0.0..=RATE_MAX).contains(rate))
        .ok_or_else(|| format!("{text:?} is no rate; write 500 or 500/s, {RATE_MAX} at most"))
}

/// `A..B`.
fn ramp(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once("..").ok_or("write the two rates as 100..5000")?;
    Ok((rate(from)?, rate(to)?))
}

/// `A..B:N`: so many equal steps.
fn step(text: &str) -> Result<(f64, f64, u32), String> {
    let wrong = || "write two rates and the number of steps as 100..1000:10".to_owned();
    let (rates, steps) = text.split_once(':').ok_or_else(wrong)?;
    let (from, to) = ramp(rates)?;
    let steps = steps.parse().ok().filter(|steps| (2..=1000).contains(steps)).ok_or_else(wrong)?;
    Ok((from, to, steps))
}

/// `R@AT+FOR`.
fn spike(text: &str) -> Result<(f64, Duration, Duration), String> {
    let wrong = || "write the rate, when, and how long as 5000@10s+2s".to_owned();
    let (peak, rest) = text.split_once('@').ok_or_else(wrong)?;
    let (at, length) = rest.split_once('+').ok_or_else(wrong)?;
    Ok((rate(peak)?, duration(at)?, duration(length)?))
}

/// Options that are about the host that leads, or that reach others in another way.
const NOT_FOR_OTHERS: [&str; 15] = [
    "agents",
    "token-file",
    "i-own-this-host",
    "server-pid",
    "auth",
    "corpus",
    "threshold",
    "find-max",
    "json",
    "html",
    "csv",
    "hdr",
    "ledger",
    "no-tui",
    "quiet",
];

/// The words of a command line that another host needs to do the same.
pub(crate) fn words(matches: &ArgMatches) -> Vec<String> {
    let command = Options::augment_args(Command::new("send"));
    let mut words = Vec::new();
    for argument in command.get_arguments() {
        let (id, Some(long)) = (argument.get_id().as_str(), argument.get_long()) else { continue };
        let said = matches.value_source(id) == Some(ValueSource::CommandLine);
        if !said || NOT_FOR_OTHERS.contains(&long) {
            continue;
        }
        if matches!(argument.get_action(), ArgAction::SetTrue) {
            words.push(format!("--{long}"));
            continue;
        }
        let values = matches.get_raw(id).into_iter().flatten();
        words.extend(values.map(|value| format!("--{long}={}", value.to_string_lossy())));
    }
    words
}

/// The options of `send`.
#[derive(clap::Args, Debug, Clone)]
#[group(id = "send")] // two groups of the name of their type would be one
pub(crate) struct Options {
    /// The server, as 127.0.0.1:2025 or mx.example.org:25.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: String,
    /// Allows a target that is not loopback: its host, once more. Only hosts that are yours.
    #[arg(long, value_name = "HOST")]
    pub(crate) i_own_this_host: Option<String>,
    /// Other hosts, where `loadgen agent` runs: each has --cores, and its part of all else.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "token_file",
          conflicts_with_all = ["find_max", "ledger", "corpus"])]
    pub(crate) agents: Vec<String>,
    /// A file with the token, 16 octets or more, that we and the agents know.
    #[arg(long, value_name = "FILE", requires = "agents")]
    pub(crate) token_file: Option<PathBuf>,
    /// The server's process on this machine, whose CPU and memory are measured.
    #[arg(long, visible_alias = "pid")]
    pub(crate) server_pid: Option<u32>,
    /// Executors, each a thread with its own connections and schedule; an id has two digits for it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) cores: u32,
    /// Pins them to processors, the last ones first.
    #[arg(long)]
    pub(crate) pin: bool,
    /// Connections at the same time, over all cores.
    #[arg(long, default_value_t = 32)]
    pub(crate) connections: u32,
    /// Closed loop: messages in all (10,000 without a duration).
    #[arg(long, conflicts_with_all = ["rate", "ramp", "step"])]
    messages: Option<u64>,
    /// How long.
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Open loop: messages per second, whatever the server does.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Open loop: a rate that goes from A to B.
    #[arg(long, value_parser = ramp, value_name = "A..B", conflicts_with_all = ["rate", "step"])]
    ramp: Option<(f64, f64)>,
    /// Open loop: a rate that goes from A to B in N equal steps.
    #[arg(long, value_parser = step, value_name = "A..B:N", conflicts_with = "rate")]
    step: Option<(f64, f64, u32)>,
    /// A higher rate for a while.
    #[arg(long, value_parser = spike, value_name = "R@AT+FOR", requires = "rate")]
    spike: Option<(f64, Duration, Duration)>,
    /// How messages of the open loop arrive.
    #[arg(long, value_enum, default_value_t = Arrivals::Even)]
    pub(crate) arrivals: Arrivals,
    /// Open loop: due messages that may wait for a free connection; older ones are dropped.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) backlog: u64,
    /// Whether MAIL, RCPT and DATA leave together.
    #[arg(long, value_enum, default_value_t = Pipelining::Auto)]
    pub(crate) pipelining: Pipelining,
    /// LMTP: a reply for each recipient behind the message (RFC 2033).
    #[arg(long)]
    pub(crate) lmtp: bool,
    /// BDAT instead of DATA.
    #[arg(long)]
    pub(crate) bdat: bool,
    /// Recipients of each message.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) recipients: u32,
    /// Messages on one connection before QUIT; all of them if not given.
    #[arg(long, visible_alias = "per-connection",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages_per_connection: Option<u64>,
    /// What stands between two messages of a connection.
    #[arg(long, value_enum, default_value_t = Between::None)]
    pub(crate) between: Between,
    #[command(flatten)]
    pub(crate) tls: tls::Options,
    /// The share of connections that resume a session of TLS, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) resume: f64,
    /// Sign in by PLAIN: a file of lines user:password, taken in turn.
    #[arg(long, value_name = "FILE")]
    auth: Option<PathBuf>,
    /// Octets of each message: 4096, 1k..64k, or weighted 4k=9,1m=1.
    #[arg(long, visible_alias = "bytes", default_value = "4096")]
    pub(crate) size: Sizes,
    /// Messages from the files of a folder instead.
    #[arg(long, value_name = "DIR", conflicts_with = "size")]
    pub(crate) corpus: Option<PathBuf>,
    /// Where the mail comes from; without it who has signed in, or loadgen@sender.test.
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// Where it goes; `{}` is the number of a mailbox, from 0.
    #[arg(long, default_value = "demo@example.test")]
    pub(crate) rcpt: String,
    /// How many mailboxes get the messages in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) mailboxes: u64,
    /// Domains of the recipients by weight, as a.test=3,b.test=1.
    #[arg(long)]
    pub(crate) domains: Option<Domains>,
    /// Source addresses for a loopback target, from 127.0.0.1 on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) sources: u8,
    /// How long to wait for any reply.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Percentiles are refused when the generator itself was later than this with 1 % of messages.
    #[arg(long, default_value = "20ms", value_parser = duration)]
    pub(crate) slip_max: Duration,
    /// What must hold, as p99<50ms, max<1s, rate>1000, errors<0.1%; else the exit status is 1.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) threshold: Vec<Threshold>,
    /// Searches the highest rate at which this holds, and every threshold.
    #[arg(long, value_name = "CONDITION",
          conflicts_with_all = ["messages", "ramp", "step", "spike"])]
    pub(crate) find_max: Option<Threshold>,
    /// Writes the figures as JSON; the layout stands in docs/loadgen.md.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the figures as one page with plots.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Writes a row of figures for each interval.
    #[arg(long, value_name = "FILE", conflicts_with = "find_max")]
    pub(crate) csv: Option<PathBuf>,
    /// Writes all latencies of each interval, losslessly, as an HdrHistogram log.
    #[arg(long, value_name = "FILE", conflicts_with = "find_max")]
    pub(crate) hdr: Option<PathBuf>,
    /// How long the intervals are that have figures of their own.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Lines in place of the view while it runs; so it is, too, where stderr is no terminal.
    #[arg(long)]
    pub(crate) no_tui: bool,
    /// Nothing is shown while it runs.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Writes the id, the checksum and the octets of each message that got its 250.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Where everything random comes from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Options {
    /// Whether it says anything about files or processes of the host that it runs on.
    pub(crate) fn is_of_this_host(&self) -> bool {
        let paths = [
            &self.token_file,
            &self.auth,
            &self.corpus,
            &self.json,
            &self.html,
            &self.csv,
            &self.hdr,
            &self.ledger,
        ];
        let leads = !self.agents.is_empty() || self.find_max.is_some();
        paths.iter().any(|path| path.is_some()) || self.server_pid.is_some() || leads
    }
}

/// How much is sent.
#[derive(Debug, Clone)]
pub(crate) enum Amount {
    /// Closed loop: each connection sends the next as soon as it can.
    Closed { messages: Option<u64>, time: Option<Duration> },
    /// Open loop.
    Open(Curve),
}

impl Amount {
    /// How long it takes when nothing waits; nothing for a number of messages.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Closed { time, .. } => time.unwrap_or_default(),
            Self::Open(curve) => Duration::try_from_secs_f64(curve.seconds()).unwrap_or_default(),
        }
    }
}

/// A checked plan.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) target: SocketAddr,
    pub(crate) amount: Amount,
    pub(crate) users: Vec<(String, Vec<u8>)>,
    /// The words of the command line that other hosts need.
    pub(crate) words: Vec<String>,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { messages, time } => {
                f.write_str("closed loop")?;
                messages.map_or(Ok(()), |n| write!(f, ", {n} messages"))?;
                time.map_or(Ok(()), |time| write!(f, ", {} s", time.as_secs_f64()))
            }
            Self::Open(curve) => write!(f, "open loop, {curve}"),
        }
    }
}

impl Plan {
    /// Whom a worker signs in as.
    pub(crate) fn user(&self, worker: u32) -> Option<&(String, Vec<u8>)> {
        self.users.get(worker as usize % self.users.len().max(1))
    }

    /// Whom a worker's mail is from: many servers take a user's own address only.
    pub(crate) fn from(&self, worker: u32) -> String {
        let user = || self.user(worker).map(|(user, _)| user.clone());
        let from = self.options.from.clone().or_else(|| user().filter(|user| user.contains('@')));
        from.unwrap_or_else(|| "loadgen@sender.test".to_owned())
    }

    /// # Errors
    /// A sentence about what does not go together.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let target = owned(&options.target, options.i_own_this_host.as_deref())?;
        let amount = amount(&options)?;
        let users = options.auth.as_ref().map(users).transpose()?.unwrap_or_default();
        if !(1..=CONNECTIONS_MAX).contains(&options.connections) {
            return Err(format!("--connections is 1 to {CONNECTIONS_MAX}"));
        }
        let cores = options.cores.saturating_mul(options.agents.len().max(1) as u32);
        if cores > CORES_MAX {
            return Err(format!("{CORES_MAX} cores in all are the most"));
        }
        if options.connections < cores {
            return Err("each core needs a connection: fewer --cores or more --connections".into());
        }
        if !(0.0..=1.0).contains(&options.resume) {
            return Err("--resume is a share, 0 to 1".into());
        }
        if options.resume > 0.0 && options.tls.tls == tls::Mode::None {
            return Err("--resume needs --tls".into());
        }
        if options.sources > 1 && target.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return Err("--sources is for a target at 127.0.0.1".into());
        }
        if options.interval < INTERVAL_MIN {
            return Err(format!("--interval is {} ms or more", INTERVAL_MIN.as_millis()));
        }
        check_addresses(&options)?;
        Ok(Self { options, target, amount, users, words: Vec::new() })
    }

    /// Cores on all hosts.
    pub(crate) fn cores_of_all(&self) -> u32 {
        self.options.cores * self.options.agents.len().max(1) as u32
    }

    /// The same plan at another rate, for the search.
    ///
    /// # Errors
    /// When nobody can send at that rate.
    pub(crate) fn at_rate(&self, rate: f64, time: Duration) -> Result<Self, String> {
        let curve = Curve::new(vec![Curve::constant(rate, time.as_secs_f64())])?;
        Ok(Self { amount: Amount::Open(curve), ..self.clone() })
    }

    /// The rate that the search begins with, and how long a round takes.
    pub(crate) fn search(&self) -> (f64, Duration) {
        let first = self.options.rate.filter(|rate| *rate > 0.0).unwrap_or(100.0);
        (first, self.options.duration.unwrap_or(Duration::from_secs(5)))
    }
}

fn amount(options: &Options) -> Result<Amount, String> {
    let time = options.duration.unwrap_or(Duration::from_secs(10));
    let seconds = time.as_secs_f64();
    let segments = if let Some((from, to)) = options.ramp {
        vec![Segment { from, to, seconds }]
    } else if let Some((from, to, steps)) = options.step {
        let one = |n| from + (to - from) * f64::from(n) / f64::from(steps - 1);
        (0..steps).map(|n| Curve::constant(one(n), seconds / f64::from(steps))).collect()
    } else if let (Some(rate), Some((peak, at, length))) = (options.rate, options.spike) {
        let (at, length) = (at.as_secs_f64(), length.as_secs_f64());
        let after = seconds - at - length;
        if after < 0.0 || length == 0.0 {
            return Err("--spike lies within --duration".into());
        }
        let parts = [(rate, at), (peak, length), (rate, after)];
        let parts = parts.into_iter().filter(|part| part.1 > 0.0);
        parts.map(|(rate, seconds)| Curve::constant(rate, seconds)).collect()
    } else if let Some(rate) = options.rate {
        vec![Curve::constant(rate, seconds)]
    } else {
        let messages = options.messages.or_else(|| options.duration.is_none().then_some(10_000));
        return Ok(Amount::Closed { messages, time: options.duration });
    };
    Curve::new(segments).map(Amount::Open)
}

/// A file of lines `user:password`.
pub(crate) fn users(path: &PathBuf) -> Result<Vec<(String, Vec<u8>)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let one = |line: &str| {
        let (user, password) = line.split_once(':')?;
        Some((user.to_owned(), password.as_bytes().to_vec()))
    };
    let users: Option<Vec<_>> = text.lines().filter(|line| !line.is_empty()).map(one).collect();
    users.filter(|users| !users.is_empty()).ok_or_else(|| {
        format!("{}: each line is user:password, and there is at least one", path.display())
    })
}

fn check_addresses(options: &Options) -> Result<(), String> {
    let check =
        |address: &str| Mailbox::parse(address).map(drop).map_err(|e| format!("{address}: {e}"));
    if let Some(from) = options.from.as_ref().filter(|from| !from.is_empty()) {
        check(from)?;
    }
    let widest = options.rcpt.replace("{}", &options.mailboxes.to_string());
    check(&widest)?;
    let Some(domains) = &options.domains else { return Ok(()) };
    let (local, _) = widest.rsplit_once('@').unwrap_or((&widest, ""));
    domains.0.iter().try_for_each(|(domain, _)| check(&format!("{local}@{domain}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(flags: &str) -> Result<Plan, String> {
        let words = ["send", "--target", "127.0.0.1:2025"].into_iter();
        let line = Line::try_parse_from(words.chain(flags.split_whitespace()));
        Plan::new(line.map_err(|e| e.to_string())?.options)
    }

    fn curve(flags: &str) -> Vec<Segment> {
        let Amount::Open(curve) = plan(flags).unwrap().amount else { panic!("an open loop") };
        (0..).map_while(|n| curve.segment(n)).collect()
    }

    #[test]
    fn shapes_become_pieces_of_a_curve() {
        let piece = |from, to, seconds| Segment { from, to, seconds };
        assert_eq!(curve("--rate 500/s"), [piece(500.0, 500.0, 10.0)]);
        assert_eq!(curve("--ramp 100..5000 --duration 4s"), [piece(100.0, 5000.0, 4.0)]);
        let steps = [(100.0, 1.0), (200.0, 1.0), (300.0, 1.0)].map(|(r, s)| piece(r, r, s));
        assert_eq!(curve("--step 100..300:3 --duration 3"), steps);
        let spike = [(10.0, 3.0), (900.0, 2.0), (10.0, 5.0)].map(|(r, s)| piece(r, r, s));
        assert_eq!(curve("--rate 10 --spike 900@3s+2s"), spike);
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        for flags in [
            "--connections 0",
            "--connections 200001",
            "--cores 8 --connections 4",
            "--resume 0.5",
            "--resume 2 --tls starttls",
            "--rate 5 --spike 9@9s+2s",
            "--rate -1",
            "--rate x",
            "--messages 5 --rate 5",
            "--size 64k..1k",
            "--size 4q",
            "--domains a.test=0",
            "--domains -",
            "--rcpt nobody",
            "--from a@b@c",
            "--auth /nonexistent/file",
            "--threshold p99",
            "--recipients 0",
            "--connectoins 5",
            "--interval 99ms",
            "--agents h:1",
            "--agents h:1,h:2 --cores 129 --connections 999 --token-file t",
            "--agents h:1,h:2 --cores 2 --connections 3 --token-file t",
            "--agents h:1 --token-file t --ledger x",
            "--find-max p99<1s --csv a",
            "--find-max p99<1s --hdr a",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
        assert!(plan("--connectoins 5").unwrap_err().contains("--connections"));
        for flags in [
            "",
            "--interval 100ms",
            "--size 1k..64k",
            "--size 4k=9,1m=1",
            "--from=",
            "--rcpt u{}@a.test",
        ] {
            assert!(plan(flags).is_ok(), "{flags}: {:?}", plan(flags).err());
        }
    }

    #[test]
    fn another_host_gets_the_words_that_make_the_same_plan() {
        let flags = "--target=localhost:25 --rate=50/s --duration 2s --cores 3 --pin --size 1k..9k \
                     --domains a.test=1,b.test=2 --tls starttls --from= --timeout 5s -q \
                     --threshold p99<1s --csv x --json y --i-own-this-host z --auth no";
        let words = || ["send"].into_iter().chain(flags.split_whitespace());
        let matches = Line::command().get_matches_from(words());
        let told = super::words(&matches);
        let again = Line::try_parse_from(["send".to_owned()].into_iter().chain(told.clone()));
        let (again, first) =
            (again.unwrap().options, Line::try_parse_from(words()).unwrap().options);
        for part in ["csv", "json", "threshold", "auth", "quiet", "own-this"] {
            assert!(!told.iter().any(|word| word.contains(part)), "{told:?}");
        }
        assert!(first.is_of_this_host() && !again.is_of_this_host());
        let facts = |mut options: Options| {
            options.auth = None;
            super::super::report::facts::plan(&Plan::new(options).unwrap())
        };
        assert_eq!(facts(first), facts(again));
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [("250ms", 250), ("10", 10_000), ("1.5m", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "-1s", "1d", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
