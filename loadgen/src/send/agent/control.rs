//! The side of a run on several hosts that leads: it gives each agent the plan and its share of
//! it, starts them together, and gathers their figures as if their cores were here.
//!
//! `mod.rs` calls [`launch`] where it would launch a fleet. An agent that cannot be reached, knows
//! another token or refuses the plan ends the run before it begins. One that dies, is silent for
//! [`SILENCE`], has no figures for some intervals or only empty ones for longer than the plan
//! allows ([`idle_max`]), says what cannot be, or goes on when the run was ended or for
//! [`OVERTIME_MAX`] after the plan's end, has failed: what it had said before counts, the others go
//! on, and the run is no success. Clocks of hosts are never compared: the start is set so many
//! milliseconds from now, and travels for as long as a packet does.

use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::figures::{Source, decode};
use super::frame::{Channel, FIGURES_BYTES_MAX, SMALL_BYTES_MAX, Token, nonce};
use super::{BEAT, LOOK, SILENCE, STEP};
use crate::send::Set;
use crate::send::client::PIECE_BYTES;
use crate::send::exchange::News;
use crate::send::plan::Plan;

/// From when all are ready to when they begin.
const START_IN: Duration = Duration::from_secs(1);
/// Intervals without figures of any core of an agent that runs.
const INTERVALS_MAX: u32 = 3;
/// How much longer than planned a run may take: what is under way and what waits is still sent.
const OVERTIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Waits of a message in which nothing is counted, beside those for the pieces of its body.
const WAITS_MAX: u32 = 3;
/// Pieces that wait to be added up.
const NEWS_MAX: usize = 16;

/// An agent that has the plan.
struct Agent {
    address: String,
    channel: Channel,
    cores: Range<u32>,
    host: u32,
}

/// Gives everybody the plan and starts them; the cores' figures come out of the channel.
///
/// # Errors
/// When not all are ready. Then none has begun.
pub(crate) fn launch(plan: &Plan, set: &Set) -> Result<Receiver<News>, String> {
    let options = &plan.options;
    let token = options.token_file.as_ref().ok_or("--agents needs --token-file")?;
    let token = Token::read(token)?;
    let mut agents = Vec::new();
    for (host, address) in (1..).zip(&options.agents) {
        let first = (host - 1) * options.cores;
        let cores = first..first + options.cores;
        let ready = ready(address, &token, plan, set, &cores);
        let channel = ready.map_err(|why| format!("agent {address}: {why}"))?;
        agents.push(Agent { address: address.clone(), channel, cores, host });
    }
    let start = Instant::now() + START_IN;
    for agent in &mut agents {
        let wait = start.saturating_duration_since(Instant::now());
        let wait = u64::try_from(wait.as_millis()).unwrap_or(0);
        let told = agent.channel.write(&json!({ "go_ms": wait }));
        told.map_err(|why| format!("agent {}: {why}", agent.address))?;
    }
    let (sender, news) = sync_channel(NEWS_MAX);
    for agent in agents {
        let reader = Reader {
            interval: options.interval,
            silence: SILENCE,
            idle: idle_max(plan),
            start,
            overtime: plan.amount.length().saturating_add(OVERTIME_MAX),
            stop: Arc::clone(&set.stop),
            sender: sender.clone(),
        };
        let (orders, stop) = (agent.channel.twin()?, Arc::clone(&set.stop));
        let over = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&over);
        let thread = Builder::new().name("loadgen-agent".into());
        thread.spawn(move || reader.read(agent, &heard)).map_err(|e| e.to_string())?;
        let thread = Builder::new().name("loadgen-orders".into());
        thread.spawn(move || order(orders, &stop, &over)).map_err(|e| e.to_string())?;
    }
    Ok(news)
}

/// For how long an agent may have nothing to tell but that it lives: until something is due, and
/// while a server takes all the time that it has for each piece of the largest message.
fn idle_max(plan: &Plan) -> Duration {
    let options = &plan.options;
    let pieces = options.size.largest().div_ceil(PIECE_BYTES);
    let waits = u32::try_from(pieces).unwrap_or(u32::MAX).saturating_add(WAITS_MAX);
    let silence = SILENCE.saturating_add(options.interval.saturating_mul(INTERVALS_MAX));
    let idle = options.timeout.saturating_mul(waits).saturating_add(silence);
    idle.saturating_add(plan.amount.length())
}

/// An agent that has proved itself and has the plan.
fn ready(
    address: &str,
    token: &Token,
    plan: &Plan,
    set: &Set,
    cores: &Range<u32>,
) -> Result<Channel, String> {
    let mut channel = Channel::new(connected(address)?)?;
    let read = |channel: &mut Channel| {
        let answer = channel.read(SMALL_BYTES_MAX, STEP);
        let answer = answer.map_err(|why| format!("it does not talk as an agent: {why}"))?;
        match answer.get("refused").and_then(Value::as_str) {
            Some(why) => Err(format!("refused: {}", shown(why))),
            None => Ok(answer),
        }
    };
    let hello = read(&mut channel)?;
    if hello.get("loadgen_agent").and_then(Value::as_u64) != Some(1) {
        return Err("it is no agent of this version".into());
    }
    let theirs = hello.get("nonce").and_then(Value::as_str).unwrap_or_default();
    let ours = nonce()?;
    let proof = token.proof("sender", (theirs, &ours));
    channel.write(&json!({ "nonce": ours, "proof": proof }))?;
    let answer = read(&mut channel)?;
    let proof = answer.get("proof").and_then(Value::as_str).unwrap_or_default();
    if !token.holds("agent", (theirs, &ours), proof) {
        return Err("it does not know the token".into());
    }
    let users = plan.users.iter().map(|(user, password)| {
        let password = String::from_utf8_lossy(password);
        json!([user, password])
    });
    channel.write(&json!({
        "words": plan.words,
        "users": users.collect::<Vec<_>>(),
        "first": cores.start,
        "cores": plan.cores_of_all(),
        "run": set.run,
    }))?;
    match read(&mut channel)?.get("ready") {
        Some(Value::Bool(true)) => Ok(channel),
        _ => Err("it is not ready".into()),
    }
}

/// A text of another host for a terminal, on one line.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A connection to the first address of a host that answers.
fn connected(address: &str) -> Result<TcpStream, String> {
    let until = Instant::now() + STEP;
    let mut why = "it has no address".to_owned();
    for found in address.to_socket_addrs().map_err(|e| e.to_string())? {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&found, left) {
            Ok(stream) => return Ok(stream),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

/// Says that we are there, and when the run shall end; until there is nobody to say it to.
fn order(mut channel: Channel, stop: &AtomicBool, over: &AtomicBool) {
    let mut said = Instant::now();
    let mut ended = false;
    while !over.load(Ordering::Relaxed) {
        std::thread::park_timeout(LOOK);
        let ends = stop.load(Ordering::Relaxed) && !ended;
        if !ends && said.elapsed() < BEAT {
            continue;
        }
        ended |= ends;
        said = Instant::now();
        let order = if ends { json!({ "stop": true }) } else { json!({ "alive": true }) };
        if channel.write(&order).is_err() {
            return;
        }
    }
}

/// What an agent says, as news.
struct Reader {
    interval: Duration,
    silence: Duration,
    /// The longest time without anything that was counted.
    idle: Duration,
    start: Instant,
    /// The longest time that a run takes.
    overtime: Duration,
    stop: Arc<AtomicBool>,
    sender: SyncSender<News>,
}

impl Reader {
    fn read(self, mut agent: Agent, over: &AtomicBool) {
        if let Err(why) = self.relay(&mut agent) {
            let sources = agent.cores.clone();
            // Nobody listens when the run has failed for another reason.
            let _ = self.sender.send(News::Failed { sources, why });
        }
        over.store(true, Ordering::Relaxed);
        agent.channel.shut();
    }

    /// Until each of its cores has ended.
    fn relay(&self, agent: &mut Agent) -> Result<(), String> {
        let lie = || "it says what cannot be".to_owned();
        let mut running: Vec<u32> = agent.cores.clone().collect();
        let mut spoken: Vec<Option<u64>> = vec![None; running.len()];
        let (mut heard, mut ended) = (Instant::now() + START_IN, None);
        let mut counted = heard;
        while !running.is_empty() {
            let value = agent.channel.read(FIGURES_BYTES_MAX, START_IN + self.silence)?;
            if let Some(why) = value.get("failed").and_then(Value::as_str) {
                return Err(shown(why));
            }
            if self.stop.load(Ordering::Relaxed)
                && ended.get_or_insert_with(Instant::now).elapsed() > self.silence
            {
                return Err("it goes on though the run has ended".into());
            }
            if self.start.elapsed() > self.overtime || counted.elapsed() > self.idle {
                return Err("it does not end".into());
            }
            if value.get("alive").is_some() {
                let most = self.interval.saturating_mul(INTERVALS_MAX);
                if heard.elapsed() > self.silence.saturating_add(most) {
                    return Err("it has no figures".into());
                }
                continue;
            }
            heard = Instant::now();
            let source = Source {
                host: agent.host,
                cores: agent.cores.clone(),
                interval: self.interval,
                elapsed: self.start.elapsed(),
            };
            let (piece, last) = decode(&value, &source).ok_or_else(lie)?;
            // Each interval once, and in order: so there are no more figures than time.
            let before = spoken.get_mut((piece.source - agent.cores.start) as usize);
            let before = before.ok_or_else(lie)?;
            if !running.contains(&piece.source) || before.is_some_and(|n| n >= piece.index) {
                return Err(lie());
            }
            *before = Some(piece.index);
            if !piece.measures.is_empty() {
                counted = Instant::now();
            }
            let news = if last {
                running.retain(|core| *core != piece.source);
                News::Last(Box::new(piece))
            } else {
                News::Piece(Box::new(piece))
            };
            if self.sender.send(news).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::Parser as _;

    use super::super::figures::encode;
    use super::super::frame::tests::pair;
    use super::*;
    use crate::send::exchange::{Now, Piece};
    use crate::send::measure::{CoreUse, Measures};

    fn figures(core: u32, index: u64, last: bool) -> Value {
        figures_of(core, index, last, 5)
    }

    fn figures_of(core: u32, index: u64, last: bool, acknowledged: u64) -> Value {
        let ms = Duration::from_millis;
        let mut measures = Measures::new();
        measures.acknowledged = acknowledged;
        measures.cores = vec![CoreUse { host: 0, core, cpu: ms(1), share: 0.1 }];
        let now = vec![Now { host: 0, core, share: 0.1, open: 1, busy: 1 }];
        let piece = Piece { source: core, index, since: ms(0), until: ms(9), now, measures };
        encode(&piece, last)
    }

    fn reader(sender: SyncSender<News>, stop: bool) -> Reader {
        Reader {
            interval: Duration::from_millis(1),
            silence: Duration::from_millis(20),
            idle: Duration::from_secs(60),
            overtime: Duration::from_secs(60),
            start: Instant::now(),
            stop: Arc::new(AtomicBool::new(stop)),
            sender,
        }
    }

    /// What comes of an agent of cores 2 and 3 that sends this and then does something.
    fn said(frames: &[Value], then: &[u8], gone: bool, stop: bool) -> (u32, Option<String>) {
        let (channel, theirs) = pair();
        let (sender, news) = sync_channel(NEWS_MAX);
        let silence = Duration::from_secs(1);
        let reader = Reader { silence, ..reader(sender, stop) };
        let mut raw = theirs.try_clone().unwrap();
        let mut theirs = Channel::new(theirs).unwrap();
        frames.iter().for_each(|frame| theirs.write(frame).unwrap());
        raw.write_all(then).unwrap();
        if gone {
            theirs.shut();
        }
        let agent = Agent { address: "x".into(), channel, cores: 2..4, host: 1 };
        reader.read(agent, &AtomicBool::new(false));
        let (mut messages, mut failed) = (0, None);
        for news in news {
            match news {
                News::Piece(piece) | News::Last(piece) => {
                    messages += piece.measures.acknowledged as u32;
                }
                News::Failed { sources, why } => {
                    assert_eq!(sources, 2..4);
                    failed = Some(why);
                }
            }
        }
        (messages, failed)
    }

    #[test]
    fn an_agent_that_dies_or_lies_has_failed_and_what_it_said_before_counts() {
        let some = [figures(2, 0, false), figures(3, 0, false), json!({ "alive": true })];
        let whole = [&some[..], &[figures(2, 1, true), figures(3, 7, true)]].concat();
        assert_eq!(said(&whole, b"", false, false), (20, None));
        let after = |frame| [&some[..], &[figures(2, 1, true), frame]].concat();
        for (frames, then, gone, why) in [
            (some.to_vec(), &b""[..], true, "gone"),
            (some.to_vec(), b"", false, "silent for too long"),
            (some.to_vec(), b"\0\0\0\x05hello", false, "a frame that is no JSON"),
            (some.to_vec(), b"GET / HTTP/1.1\r\n", false, "a frame of 1195725856 octets, 16777216"),
            (after(figures(2, 2, false)), b"", false, "it says what cannot be"),
            (after(figures(3, 0, false)), b"", false, "it says what cannot be"),
            (after(figures(4, 2, true)), b"", false, "it says what cannot be"),
            (after(json!("hello")), b"", false, "it says what cannot be"),
            (after(json!({ "failed": "it's\nno\u{1b}" })), b"", false, "it's\u{fffd}no\u{fffd}"),
        ] {
            let (messages, failed) = said(&frames, then, gone, false);
            assert_eq!(messages, if frames.len() > 3 { 15 } else { 10 }, "{why}");
            assert!(failed.as_ref().is_some_and(|said| said.starts_with(why)), "{failed:?} {why}");
        }
    }

    #[test]
    fn an_agent_that_only_lives_or_does_not_end_has_failed() {
        let alive: fn(u64) -> Value = |_| json!({ "alive": true });
        let empty: fn(u64) -> Value = |index| figures_of(2, index, false, 0);
        let (much, day) = (|index| figures(2, index, false), Duration::from_secs(86_400));
        let soon = Duration::from_millis(30);
        for (stop, frame, idle, overtime, why) in [
            (false, alive, day, day, "it has no figures"),
            (true, much, day, day, "it goes on though the run has ended"),
            (false, empty, soon, day, "it does not end"),
            (false, much, day, soon, "it does not end"),
        ] {
            let (channel, theirs) = pair();
            let (sender, news) = sync_channel(NEWS_MAX);
            let reader = Reader { idle, overtime, ..reader(sender, stop) };
            let mut theirs = Channel::new(theirs).unwrap();
            let talks = std::thread::spawn(move || {
                for index in 0.. {
                    if theirs.write(&frame(index)).is_err() {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            });
            let agent = Agent { address: "x".into(), channel, cores: 2..4, host: 1 };
            let reads = std::thread::spawn(move || reader.read(agent, &AtomicBool::new(false)));
            let failed = news.into_iter().find_map(|news| match news {
                News::Failed { why, .. } => Some(why),
                _ => None,
            });
            assert_eq!(failed.as_deref(), Some(why));
            reads.join().unwrap();
            talks.join().unwrap();
        }
    }

    #[test]
    fn what_an_agent_may_take_comes_from_the_plan() {
        let line = |flags: &str| {
            let words = ["send", "--target", "127.0.0.1:25"].into_iter();
            let words = words.chain(flags.split_whitespace()).map(str::to_owned);
            let words = super::super::Words::try_parse_from(words).unwrap();
            idle_max(&Plan::new(words.options).unwrap()).as_secs()
        };
        assert_eq!(line("--messages 5"), 60 * 4 + 15 + 3);
        assert_eq!(line("--rate 5 --duration 100s --timeout 1s"), 4 + 15 + 3 + 100);
        assert_eq!(line("--duration 9s --timeout 1s --size 1k,1m=5"), 64 + 3 + 15 + 3 + 9);
        let most = "--timeout 10000000000000000000 --interval 10000000000000000000";
        assert!(line(most) > 1 << 60, "and nothing overflows");
    }
}
