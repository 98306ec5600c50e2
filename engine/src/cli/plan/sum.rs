//! What was asked, what was measured, and what follows: arithmetic and words, no clock, no disk.
//!
//! Used by `plan`. Costs for each message are taken to be the same at any rate; what is needed is
//! that cost times the rate, over the share of a resource that may be used ([`USE`]).

use super::args;
use super::doctor::CONNECTION_BYTES;
use core::fmt::{self, Write as _};
use serde::Serialize;

/// How much of processors, disk and network may be used: the rest is for bursts, compaction, and
/// everything that was not measured. Arbitrary.
const USE: f64 = 0.6;
/// What headers of TCP and IP add to the bytes of a connection: 52 in 1,500, and acknowledgements.
const HEADERS: f64 = 1.05;
/// What lies on the disk of a message besides itself: its trace, record, key and rows of the index,
/// and what is lost at the ends of pages. Arbitrary, on the high side.
const KEPT: (f64, f64) = (1024.0, 1.05);
/// The largest message that an engine takes unless it is told otherwise.
const SIZE_MAX: u64 = 10 << 20;
/// The smallest that is made.
const SIZE_MIN: u64 = 100;
/// The highest rate that is taken for one, messages in a second.
const RATE_MAX: f64 = 1e9;

/// What it shall be planned for.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Ask {
    /// Messages in a second.
    pub(super) rate: f64,
    /// Bytes of a message.
    pub(super) size: u64,
    pub(super) tls: bool,
    /// Of each message.
    pub(super) recipients: u32,
    /// Messages of a connection.
    pub(super) keep: u32,
    /// Connections that are open and idle.
    pub(super) connections: u64,
    /// Days that mail is kept.
    pub(super) retention: u32,
    /// How long to measure.
    pub(super) seconds: u32,
}

impl From<&args::Plan> for Ask {
    fn from(typed: &args::Plan) -> Self {
        Self {
            rate: typed.rate,
            size: typed.size,
            tls: typed.tls,
            recipients: typed.recipients,
            keep: typed.keep,
            connections: typed.connections,
            retention: typed.retention,
            seconds: typed.seconds,
        }
    }
}

/// Reads `50k/s`: a number, thousands or millions of it, in a second, minute, hour or day.
pub(in crate::cli) fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no rate; write 200/s, 50k/s or 3m/d");
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let (digits, scale) = match number.as_bytes().last() {
        Some(b'k' | b'K') => (&number[..number.len() - 1], 1e3),
        Some(b'm' | b'M') => (&number[..number.len() - 1], 1e6),
        _ => (number, 1.0),
    };
    // Not what else a float may be: signs, exponents, infinity.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(wrong)?;
    let rate = value * scale / seconds;
    if rate > 0.0 && rate <= RATE_MAX { Ok(rate) } else { Err(wrong()) }
}

/// Reads `20k`: bytes, or 1,024 or 1,048,576 times as many.
pub(in crate::cli) fn size(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| plain);
    let bytes = number.and_then(|number| number.checked_mul(scale));
    let bytes = bytes.ok_or_else(|| format!("{text:?} is no size; write 4096, 20k or 1m"))?;
    if (SIZE_MIN..=SIZE_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("messages of {SIZE_MIN} bytes to 10m can be measured"))
    }
}

/// What was found on this machine.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Measured {
    /// Processors, and shards that ran.
    pub(super) processors: u32,
    /// Memory of the machine, or what control groups leave of it.
    pub(super) memory_bytes: u64,
    /// Free on the disk of the data folder.
    pub(super) disk_free_bytes: u64,
    pub(super) file_system: String,
    /// The fastest interface of hardware that says how fast it is; bits in a second.
    pub(super) network_bits: Option<u64>,
    /// A write of 4 KiB and its sync, median.
    pub(super) sync_s: f64,
    /// Large writes, one after another, with a sync at the end.
    pub(super) sequential_bytes_s: f64,
    /// How long mail was sent.
    pub(super) load_s: f64,
    pub(super) load_connections: u32,
    /// Messages that got their 250.
    pub(super) messages: u64,
    /// Connections that carried them.
    pub(super) opened: u64,
    /// CPU time of the engine.
    pub(super) cpu_s: f64,
    /// What the client sent and received, TLS records and handshakes included.
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// What the engine wrote, its index included.
    pub(super) written_bytes: u64,
    /// Flushes that the disk made meanwhile, for whomever; none when it counts none.
    pub(super) flushes: Option<u64>,
    /// Resident memory at the end.
    pub(super) resident_bytes: u64,
    /// Idle connections that were opened, and what each took of the engine and of the kernel.
    pub(super) idle_connections: u64,
    pub(super) idle_bytes: u64,
    pub(super) idle_kernel_bytes: u64,
}

/// What the rate needs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Needed {
    pub(super) processors: u64,
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes_s: f64,
    /// As many messages to a flush as were measured.
    pub(super) flushes_s: Option<f64>,
    pub(super) network_in_bits: f64,
    pub(super) network_out_bits: f64,
    pub(super) day_bytes: f64,
    /// For all days that were asked for.
    pub(super) kept_bytes: f64,
}

/// Up to which rate a resource of this machine lasts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Limit {
    pub(super) resource: &'static str,
    /// Messages in a second.
    pub(super) rate: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sum {
    pub(super) asked: Ask,
    pub(super) measured: Measured,
    pub(super) assumed: Vec<String>,
    pub(super) needed: Needed,
    /// The lowest first.
    pub(super) limits: Vec<Limit>,
    pub(super) bottleneck: &'static str,
    /// Whether this machine carries the rate.
    pub(super) suffices: bool,
}

impl Measured {
    /// `total` of the load for each message.
    fn each(&self, total: f64) -> f64 {
        total / (self.messages.max(1) as f64)
    }
}

impl Sum {
    pub(super) fn new(asked: Ask, measured: Measured) -> Self {
        let needed = needed(&asked, &measured);
        let limits = limits(&asked, &measured, &needed);
        let first = limits.first();
        Self {
            bottleneck: first.map_or("none", |limit| limit.resource),
            suffices: first.is_none_or(|limit| limit.rate >= asked.rate),
            assumed: assumed(&asked, &measured),
            asked,
            measured,
            needed,
            limits,
        }
    }
}

/// What a message of `size` takes of the disk.
pub(super) fn stored(size: u64) -> f64 {
    (size as f64 + KEPT.0) * KEPT.1
}

fn needed(ask: &Ask, measured: &Measured) -> Needed {
    let each = |total: u64| measured.each(total as f64);
    let processors = (ask.rate * measured.each(measured.cpu_s) / USE).ceil().max(1.0);
    let shards = f64::from(measured.processors.max(1));
    let connection = connection_bytes(measured);
    let base = measured.resident_bytes as f64 * (processors / shards).max(1.0);
    let day_bytes = ask.rate * 86_400.0 * stored(ask.size);
    let bits = |bytes: u64| ask.rate * each(bytes) * HEADERS * 8.0;
    Needed {
        processors: processors as u64,
        memory_bytes: base as u64 + connection * ask.connections,
        disk_bytes_s: ask.rate * each(measured.written_bytes),
        flushes_s: measured.flushes.map(|flushes| ask.rate * each(flushes)),
        network_in_bits: bits(measured.sent_bytes),
        network_out_bits: bits(measured.received_bytes),
        day_bytes,
        kept_bytes: day_bytes * f64::from(ask.retention),
    }
}

fn limits(ask: &Ask, measured: &Measured, needed: &Needed) -> Vec<Limit> {
    // Everything but memory grows with the rate, in proportion.
    let at = |there: f64, needed: f64| ask.rate * there / needed;
    let cpu = ask.rate * measured.each(measured.cpu_s);
    // What the disk did under the load it can do, whatever it seemed to before.
    let seen = |total: u64| total as f64 / measured.load_s.max(f64::MIN_POSITIVE);
    let writes = (measured.sequential_bytes_s * USE).max(seen(measured.written_bytes));
    let mut all = vec![
        ("processors", at(f64::from(measured.processors) * USE, cpu)),
        ("disk writes", at(writes, needed.disk_bytes_s)),
    ];
    if let (Some(needed), Some(flushes)) = (needed.flushes_s, measured.flushes) {
        let flushes = (USE / measured.sync_s).max(seen(flushes));
        all.push(("disk flushes", at(flushes, needed)));
    }
    if let Some(network) = measured.network_bits {
        let more = needed.network_in_bits.max(needed.network_out_bits);
        all.push(("network", at(network as f64 * USE, more)));
    }
    if ask.retention > 0 {
        all.push(("disk space", at(measured.disk_free_bytes as f64, needed.kept_bytes)));
    }
    if needed_here(ask, measured) > measured.memory_bytes {
        all.push(("memory", 0.0));
    }
    all.retain(|(_, rate)| rate.is_finite());
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all.into_iter().map(|(resource, rate)| Limit { resource, rate }).collect()
}

/// What an idle connection takes.
fn connection_bytes(measured: &Measured) -> u64 {
    match measured.idle_bytes {
        0 => CONNECTION_BYTES,
        own => own + measured.idle_kernel_bytes,
    }
}

/// Memory for the connections on as many shards as this machine has processors.
fn needed_here(ask: &Ask, measured: &Measured) -> u64 {
    let connection = connection_bytes(measured);
    measured.resident_bytes + connection * ask.connections
}

fn assumed(ask: &Ask, measured: &Measured) -> Vec<String> {
    let percent = USE * 100.0;
    let mut all = vec![
        format!("{percent:.0} % of processors, disk and network may be used"),
        "a message costs the same at any rate and on any number of processors".to_owned(),
        "mail is taken in and kept; fetching it, sending it on and checking it cost more"
            .to_owned(),
        "client and engine share this machine; interrupts of a network interface are not in it"
            .to_owned(),
        "mail goes to few mailboxes: what comes to one within a minute shares a key".to_owned(),
        format!("headers of TCP and IP add {:.0} %", (HEADERS - 1.0) * 100.0),
        "memory without connections grows with the processors; the page cache is not in it"
            .to_owned(),
        format!(
            "a message takes its size and {} on disk, and {:.0} % of that, once for all recipients",
            bytes(KEPT.0),
            (KEPT.1 - 1.0) * 100.0
        ),
    ];
    if measured.flushes.is_some() {
        all.push(
            "flushes go one after another, or as fast as they did here, and carry as many \
             messages each; more connections make that more"
                .to_owned(),
        );
    }
    if measured.network_bits.is_none() {
        all.push("the network is fast enough: no interface here says how fast it is".to_owned());
    }
    if ask.connections > 0 && measured.idle_bytes == 0 {
        let each = bytes(CONNECTION_BYTES as f64);
        all.push(format!("an idle connection takes {each}: what it takes did not show here"));
    } else if ask.connections > measured.idle_connections {
        all.push(format!(
            "{} idle connections take for each what {} took",
            grouped(ask.connections as f64),
            grouped(measured.idle_connections as f64)
        ));
    }
    if cfg!(debug_assertions) {
        all.push("THIS IS A DEBUG BUILD: a release build needs a fraction of the CPU".to_owned());
    }
    all
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, measured, needed, .. } = self;
        let tls = if asked.tls { ", STARTTLS" } else { ", in clear" };
        writeln!(
            f,
            "asked: {}/s of {}, recipients {}{tls}, messages for each connection {}",
            grouped(asked.rate),
            bytes(asked.size as f64),
            asked.recipients,
            asked.keep
        )?;
        measured.fmt(f)?;
        writeln!(f, "\nassumed")?;
        for line in &self.assumed {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "\nneeded")?;
        row(f, "processors", &needed.processors.to_string())?;
        row(f, "memory", &bytes(needed.memory_bytes as f64))?;
        row(f, "disk writes", &format!("{}/s", bytes(needed.disk_bytes_s)))?;
        if let Some(flushes) = needed.flushes_s {
            row(f, "disk flushes", &format!("{}/s", grouped(flushes)))?;
        }
        row(f, "disk space for a day", &bytes(needed.day_bytes))?;
        if asked.retention > 0 {
            row(f, &format!("for {} days", asked.retention), &bytes(needed.kept_bytes))?;
        }
        let (inward, outward) = (bits(needed.network_in_bits), bits(needed.network_out_bits));
        row(f, "network", &format!("{inward} in, {outward} out"))?;
        writeln!(f, "\nthis machine lasts up to")?;
        for limit in &self.limits {
            row(f, limit.resource, &format!("{}/s", grouped(limit.rate)))?;
        }
        let suffices = if self.suffices { "suffices" } else { "does not suffice" };
        writeln!(f, "\nthis machine {suffices}; bottleneck: {}", self.bottleneck)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmeasured here, {} in {:.1} s", grouped(self.messages as f64), self.load_s)?;
        row(f, "processors", &self.processors.to_string())?;
        row(f, "CPU for a message", &format!("{:.1} µs", self.each(self.cpu_s) * 1e6))?;
        let connections = format!("{} at a time", self.load_connections);
        row(f, "connections", &format!("{connections}, {} opened", grouped(self.opened as f64)))?;
        let each = |total: u64| bytes(self.each(total as f64));
        row(f, "written for a message", &each(self.written_bytes))?;
        let (inward, outward) = (each(self.sent_bytes), each(self.received_bytes));
        row(f, "sent for a message", &format!("{inward} in, {outward} out"))?;
        match self.flushes {
            Some(flushes) => {
                let share = self.messages as f64 / (flushes.max(1) as f64);
                row(f, "messages for a flush", &format!("{share:.1}"))?;
            }
            None => row(f, "messages for a flush", "not seen: the disk counts none")?,
        }
        row(f, "4 KiB and a sync", &format!("{:.0} µs, median", self.sync_s * 1e6))?;
        let sequential = format!("{}/s on {}", bytes(self.sequential_bytes_s), self.file_system);
        row(f, "large writes", &sequential)?;
        row(f, "memory under load", &bytes(self.resident_bytes as f64))?;
        let (own, kernel) = (bytes(self.idle_bytes as f64), bytes(self.idle_kernel_bytes as f64));
        let count = grouped(self.idle_connections as f64);
        row(f, "an idle connection", &format!("{own}, kernel {kernel}, of {count}"))?;
        row(f, "memory there", &bytes(self.memory_bytes as f64))?;
        row(f, "disk space free", &bytes(self.disk_free_bytes as f64))?;
        match self.network_bits {
            Some(network) => row(f, "network", &bits(network as f64)),
            None => Ok(()),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:22}{value}")
}

/// `12,345`; below ten with a decimal.
fn grouped(number: f64) -> String {
    if number < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn scaled(number: f64, step: f64, units: &[&str]) -> String {
    let (mut number, mut place) = (number, 0);
    while number >= step && place + 1 < units.len() {
        number /= step;
        place += 1;
    }
    let mut text = String::new();
    let digits = usize::from(number < 100.0 && place > 0);
    let _ = write!(text, "{number:.digits$} {}", units.get(place).unwrap_or(&""));
    text
}

fn bytes(number: f64) -> String {
    scaled(number, 1024.0, &["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn bits(number: f64) -> String {
    scaled(number, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}
