//! `agent`: this host's share of a run that another host's `send --agents` leads.
//!
//! Called by `main`. It listens, takes one plan at a time from who knows the token ([`frame`]),
//! runs its cores of it, and hands on their figures as they come ([`figures`]); [`control`] is the
//! other side. A plan is the words of a command line, read by the same parser: it sends to
//! loopback, or to a host that this agent was started for; it touches no file here. When the other
//! side is gone, silent for [`SILENCE`], or says so, the run ends.
//!
//! Exit status: 0 it ran until a signal; 1 it could not listen; 2 wrong usage.

pub(super) mod control;
mod figures;
mod frame;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use self::frame::{Channel, PLAN_BYTES_MAX, SMALL_BYTES_MAX, Token, nonce};
use super::exchange::News;
use super::fleet::{Fleet, Share};
use super::message::Templates;
use super::plan::{Options as Send, Plan};
use super::{Set, stop_flag};
use crate::say;

/// How long the other side may take for each step before a run begins.
const STEP: Duration = Duration::from_secs(10);
/// How often each side says that it is there, at least.
const BEAT: Duration = Duration::from_secs(1);
/// A side that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// The latest moment that a start may be set to, and how long others may take to be ready.
const START_MAX: Duration = Duration::from_secs(60);
/// Connections that may be about to prove that they know the token.
const STRANGERS_MAX: usize = 16;
/// How often it looks whether a signal has come.
const LOOK: Duration = Duration::from_millis(100);

/// The options of `agent`.
#[derive(clap::Args, Debug, Clone)]
#[group(id = "agent")] // two groups of the name of their type would be one
pub(crate) struct Options {
    /// Where it listens; at port 0 it takes any, which its first line tells.
    #[arg(long, default_value = "127.0.0.1:2526", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A file with the token, 16 octets or more, that both sides know.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// A host that mail may be sent to beside loopback; only yours. May be repeated.
    #[arg(long, value_name = "HOST")]
    i_own_this_host: Vec<String>,
}

/// The words of a plan.
#[derive(Parser, Debug)]
struct Words {
    #[command(flatten)]
    options: Send,
}

/// Serves one plan after the other until a signal.
pub(crate) fn run(options: Options) -> ExitCode {
    let token = match Token::read(&options.token_file) {
        Ok(token) => token,
        Err(why) => {
            say::error(&why);
            return ExitCode::from(2);
        }
    };
    match listen(&Arc::new(options), &token) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(&why);
            ExitCode::FAILURE
        }
    }
}

fn listen(options: &Arc<Options>, token: &Token) -> Result<(), String> {
    let stop = stop_flag()?;
    let said = |e: std::io::Error| format!("{}: {e}", options.listen);
    let listener = TcpListener::bind(options.listen).map_err(said)?;
    listener.set_nonblocking(true).map_err(said)?;
    let address = listener.local_addr().map_err(said)?;
    // Who has not read it may know the address.
    let _ = say::figures(&format!("listening {address}"));
    let state = Arc::new(State::default());
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else {
            // Nobody is there, or who was has gone again.
            std::thread::park_timeout(LOOK);
            continue;
        };
        if stream.set_nonblocking(false).is_err() {
            continue;
        }
        if state.strangers_count.load(Ordering::Acquire) >= STRANGERS_MAX {
            let refused = json!({ "refused": "busy with other connections" });
            let _ = Channel::new(stream).and_then(|mut channel| channel.write(&refused));
            continue;
        }
        let stranger = Count::of(&state, |state| &state.strangers_count);
        let (options, token) = (Arc::clone(options), token.clone());
        let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
        let serve = move || {
            let served = met(stream, &token, &state, stranger);
            let served =
                served.and_then(|(channel, _plan)| serve(channel, &options, &state, &stop));
            match served {
                Ok(messages) => say::error(&format!("{peer}: {messages} messages acknowledged")),
                Err(why) => say::error(&format!("{peer}: {why}")),
            }
        };
        let thread = std::thread::Builder::new().name("loadgen-plan".into());
        thread.spawn(serve).map_err(|e| e.to_string())?;
    }
    // A run that is under way ends by the same signal; what has not begun ends with the process.
    while state.runs_count.load(Ordering::Acquire) > 0 {
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

/// What the agent is at.
#[derive(Debug, Default)]
struct State {
    /// Connections that have not proved that they know the token.
    strangers_count: AtomicUsize,
    /// Those that have: one at most.
    plans_count: AtomicUsize,
    /// Plans whose cores run.
    runs_count: AtomicUsize,
}

/// One of them, for as long as it lives.
struct Count(Arc<State>, fn(&State) -> &AtomicUsize);

impl Count {
    fn of(state: &Arc<State>, which: fn(&State) -> &AtomicUsize) -> Self {
        which(state).fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(state), which)
    }

    /// The only one, if there was none.
    fn only(state: &Arc<State>, which: fn(&State) -> &AtomicUsize) -> Option<Self> {
        let taken = which(state).compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        taken.ok().map(|_| Self(Arc::clone(state), which))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stranger who knows the token, and whose plan is the only one.
fn met(
    stream: TcpStream,
    token: &Token,
    state: &Arc<State>,
    _stranger: Count,
) -> Result<(Channel, Count), String> {
    let mut channel = Channel::new(stream)?;
    let proof = greet(&mut channel, token)?;
    let Some(plan) = Count::only(state, |state| &state.plans_count) else {
        let why = "busy with another plan";
        channel.write(&json!({ "refused": why }))?;
        return Err(why.into());
    };
    channel.write(&json!({ "proof": proof }))?;
    Ok((channel, plan))
}

/// A plan to its end; how many messages were acknowledged.
fn serve(
    mut channel: Channel,
    options: &Options,
    state: &Arc<State>,
    signal: &Arc<AtomicBool>,
) -> Result<u64, String> {
    let order = channel.read(PLAN_BYTES_MAX, STEP)?;
    let (plan, share, set) = match prepare(&order, options) {
        Ok(prepared) => prepared,
        Err(why) => {
            channel.write(&json!({ "refused": why }))?;
            return Err(why);
        }
    };
    channel.write(&json!({ "ready": true }))?;
    let go = channel.read(SMALL_BYTES_MAX, START_MAX)?;
    let wait = go.get("go_ms").and_then(Value::as_u64).map(Duration::from_millis);
    let wait = wait.filter(|wait| *wait <= START_MAX).ok_or("no start was set")?;
    std::thread::sleep(wait);
    let _run = Count::of(state, |state| &state.runs_count);
    let fleet = match Fleet::launch(&plan, &set, share) {
        Ok(fleet) => fleet,
        Err(why) => {
            channel.write(&json!({ "failed": why }))?;
            return Err(why);
        }
    };
    let (mut orders, stop) = (channel.twin()?, Arc::clone(&set.stop));
    let listening = std::thread::spawn(move || {
        while orders.read(SMALL_BYTES_MAX, SILENCE).is_ok_and(|order| order.get("stop").is_none()) {
        }
        // It is gone, silent, or has said so.
        stop.store(true, Ordering::Relaxed);
    });
    let relayed = relay(&mut channel, &fleet, &set, signal);
    // No core is left alone, and no thread.
    let joined = fleet.join();
    channel.shut();
    let _ = listening.join();
    joined.and(relayed)
}

/// Makes the other side prove that it knows the token; our own proof.
fn greet(channel: &mut Channel, token: &Token) -> Result<String, String> {
    let ours = nonce()?;
    channel.write(&json!({ "loadgen_agent": 1, "nonce": ours }))?;
    let answer = channel.read(SMALL_BYTES_MAX, STEP)?;
    let text = |name| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let (theirs, proof) = (text("nonce"), text("proof"));
    if !token.holds("sender", (&ours, theirs), proof) {
        channel.write(&json!({ "refused": "not the same token" }))?;
        return Err("not the same token".into());
    }
    Ok(token.proof("agent", (&ours, theirs)))
}

/// Reads a plan as if its words stood on our own command line.
fn prepare(order: &Value, options: &Options) -> Result<(Plan, Share, Set), String> {
    let words = order.get("words").and_then(Value::as_array).ok_or("there is no plan")?;
    let words = words.iter().map(|word| word.as_str().map(str::to_owned));
    let words = words.collect::<Option<Vec<_>>>().ok_or("there is no plan")?;
    let parsed = Words::try_parse_from(["send".to_owned()].into_iter().chain(words));
    // The help that may follow is for a person, and longer than a frame.
    let first = |e: clap::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
    let mut send = parsed.map_err(first)?.options;
    if send.is_of_this_host() {
        return Err("the plan is about files or processes of this host".into());
    }
    let host = send.target.rsplit_once(':').map_or("", |(host, _)| host);
    let host = options.i_own_this_host.iter().find(|own| *own == host);
    send.i_own_this_host = host.cloned();
    let number = |name: &str| {
        let number = order.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| format!("the plan has no {name}"))
    };
    let share = Share { first: number("first")?, cores: number("cores")? };
    if share.cores > 256 || share.first.saturating_add(send.cores) > share.cores {
        return Err("the plan has cores that cannot be".into());
    }
    let mut plan = Plan::new(send).map_err(|why| format!("the agent says: {why}"))?;
    for user in order.get("users").and_then(Value::as_array).into_iter().flatten() {
        let pair = (user.get(0).and_then(Value::as_str), user.get(1).and_then(Value::as_str));
        let (Some(name), Some(password)) = pair else { return Err("a user is none".into()) };
        plan.users.push((name.to_owned(), password.as_bytes().to_vec()));
    }
    let templates = Arc::new(Templates::new(&plan.options.size, None)?);
    let (run, stop) = (number("run")?, Arc::new(AtomicBool::new(false)));
    Ok((plan, share, Set { templates, stop, run, ledger: None }))
}

/// Hands on what the cores send, until all have ended.
fn relay(
    channel: &mut Channel,
    fleet: &Fleet,
    set: &Set,
    signal: &AtomicBool,
) -> Result<u64, String> {
    let (mut acknowledged, mut failed, mut ended) = (0, None, false);
    loop {
        if signal.load(Ordering::Relaxed) {
            set.stop.store(true, Ordering::Relaxed);
            ended = true;
        }
        let (value, piece) = match fleet.news.recv_timeout(BEAT) {
            Ok(News::Piece(piece)) => (figures::encode(&piece, false), Some(piece)),
            // What was ended here is no end of the plan, and is told as a failure.
            Ok(News::Last(piece)) => (figures::encode(&piece, !ended), Some(piece)),
            Ok(News::Failed { why, .. }) => (json!({ "failed": why }), None),
            Err(RecvTimeoutError::Timeout) => (json!({ "alive": true }), None),
            Err(RecvTimeoutError::Disconnected) if !ended => break,
            Err(RecvTimeoutError::Disconnected) => {
                let _ = channel.write(&json!({ "failed": "a signal ended it" }));
                break;
            }
        };
        if let Err(why) = channel.write(&value) {
            // The cores end before anything else does.
            set.stop.store(true, Ordering::Relaxed);
            failed.get_or_insert(why);
        }
        let Some(piece) = piece else { continue };
        let (source, mut measures) = (piece.source, piece.measures);
        acknowledged += measures.acknowledged;
        measures.reset();
        if let Some(back) = fleet.seat_of(source) {
            // One that has ended wants none.
            let _ = back.try_send(measures);
        }
    }
    failed.map_or(Ok(acknowledged), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(words: &[&str], rest: Value, own: &[&str]) -> Result<(Plan, Share, Set), String> {
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token_file: PathBuf::new(),
            i_own_this_host: own.iter().map(|host| (*host).to_owned()).collect(),
        };
        let mut order = json!({ "words": words, "first": 2, "cores": 4, "run": 7 });
        for (name, value) in rest.as_object().unwrap() {
            order[name] = value.clone();
        }
        prepare(&order, &options)
    }

    #[test]
    fn a_plan_has_its_share_its_users_and_only_hosts_that_are_ours() {
        let words = ["--target=192.0.2.1:25", "--cores=2", "--rate=9/s"];
        let users = json!({ "users": [["u", "p"], ["v", "q"]] });
        let (plan, share, set) = prepared(&words, users, &["192.0.2.1"]).unwrap();
        assert_eq!((share, set.run), (Share { first: 2, cores: 4 }, 7));
        assert_eq!(plan.users, [("u".to_owned(), b"p".to_vec()), ("v".to_owned(), b"q".to_vec())]);
        assert_eq!(plan.target.to_string(), "192.0.2.1:25");

        let local = "--target=127.0.0.1:25";
        for (words, rest, why) in [
            (&words[..], json!({}), "192.0.2.1 is not this machine"),
            (&[words[0], "--i-own-this-host=192.0.2.1"], json!({}), "is not this machine"),
            (&[local, "--json=/tmp/x"], json!({}), "files or processes of this host"),
            (&[local, "--corpus=/tmp"], json!({}), "files or processes of this host"),
            (&[local, "--server-pid=1"], json!({}), "files or processes of this host"),
            (&[local, "--cores=3"], json!({}), "cores that cannot be"),
            (&[local], json!({ "cores": 257 }), "cores that cannot be"),
            (&[local], json!({ "first": u32::MAX }), "cores that cannot be"),
            (&[local], json!({ "first": "x" }), "the plan has no first"),
            (&[local], json!({ "users": [["u"]] }), "a user is none"),
            (&[local], json!({ "words": [1] }), "there is no plan"),
            (&[local, "--nonsense"], json!({}), "unexpected argument"),
            (&["--help"], json!({}), "The words of a plan"),
        ] {
            let refused = prepared(words, rest, &["192.0.2.2"]).err().unwrap();
            assert!(refused.contains(why), "{words:?}: {refused}");
            assert!(refused.len() < SMALL_BYTES_MAX / 8, "{refused}");
        }
    }
}
