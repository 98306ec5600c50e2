//! `loadgen send --agents` with agents on this host, against a sink.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod common;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Server, Sink, figure, loadgen, schema, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn token(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, format!("the token called {name}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn agent(token: &str) -> Server {
    Server::start(&["agent", "--listen", "127.0.0.1:0", "--token-file", token])
}

#[test]
fn two_agents_send_one_plan_and_their_figures_are_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let token = token(folder.path(), "token");
    let json = folder.path().join("a.json").to_str().unwrap().to_owned();
    let (one, two, sink) = (agent(&token), agent(&token), Sink::start(&["--cores", "2"]));
    let agents = format!("{},{}", one.address, two.address);
    let leads = ["--agents", &agents, "--token-file", &token, "--json", &json];
    let load = ["--rate", "150", "--duration", "2s", "--connections", "6", "--cores", "2"];
    let flags = [&["send", "--target", &sink.address], &load[..], &leads].concat();
    for _ in 0..2 {
        let output = loadgen(&flags);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(figure(&text(&output), "messages"), 300);
        assert_eq!(figure(&text(&output), "connections"), 6, "of both together");
    }
    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let rules: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    assert_eq!(schema::check(&rules, &document), [""; 0]);
    let cores = document["own"]["cores"].as_array().unwrap();
    let seats: Vec<_> = cores.iter().map(|core| (&core["host"], &core["core"])).collect();
    let expected = [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(host, core)| (json!(host), json!(core)));
    assert_eq!(seats, expected.each_ref().map(|(host, core)| (host, core)));
    assert_eq!(document["messages"]["due"], 300);
    assert!(document["series"].as_array().unwrap().len() >= 2, "{document}");
    let spread = &document["latencies"]["actual"]["count"];
    assert!(*spread == 300 || !document["latencies_refused"].is_null(), "{document}");
    let seen = sink.end();
    assert_eq!(figure(&seen, "messages"), 600);
    for agent in [one, two] {
        agent.end();
    }
}

#[test]
fn an_agent_takes_no_plan_from_strangers_and_none_for_other_hosts_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (token(folder.path(), "ours"), token(folder.path(), "other"));
    let agent = agent(&ours);
    let send = |flags: &[&str], token: &str| {
        let leads = ["send", "--agents", &agent.address, "--token-file", token];
        let output = loadgen(&[&leads, flags, &["--messages", "5"]].concat());
        (output.status.code(), text(&output))
    };
    let (status, said) = send(&["--target", "127.0.0.1:9"], &other);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("refused: not the same token"), "{said}");
    let elsewhere = ["--target", "192.0.2.1:25", "--i-own-this-host", "192.0.2.1"];
    let (status, said) = send(&elsewhere, &ours);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("refused: the agent says: 192.0.2.1 is not this machine"), "{said}");
    let short = folder.path().join("short");
    fs::write(&short, "x").unwrap();
    let (status, said) = send(&["--target", "127.0.0.1:9"], short.to_str().unwrap());
    assert_eq!(status, Some(1), "{said}");
    agent.end();
}

#[test]
fn a_stranger_who_says_nothing_keeps_nobody_out_and_delays_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let token = token(folder.path(), "token");
    let (agent, sink) = (agent(&token), Sink::start(&[]));
    let send = || {
        let leads = ["send", "--agents", &agent.address, "--token-file", &token];
        loadgen(&[&leads[..], &["--target", &sink.address, "--messages", "5", "-q"]].concat())
    };
    let silent: Vec<_> = (0..15).map(|_| TcpStream::connect(&agent.address).unwrap()).collect();
    let output = send();
    assert!(output.status.success(), "{}", text(&output));
    // There is a place for so many, and it is told to the next.
    let more = TcpStream::connect(&agent.address).unwrap();
    let mut greeted = [0; 4];
    (&more).read_exact(&mut greeted).unwrap();
    let output = send();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("refused: busy with other connections"), "{}", text(&output));
    let begun = Instant::now();
    agent.end();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop((silent, more));
}

#[test]
fn an_agent_that_dies_in_the_middle_is_reported_and_the_run_ends() {
    let folder = tempfile::tempdir().unwrap();
    let token = token(folder.path(), "token");
    let (one, two, sink) = (agent(&token), agent(&token), Sink::start(&[]));
    let agents = format!("{},{}", one.address, two.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let load = ["--rate", "100", "--duration", "3s", "--connections", "2", "--interval", "100ms"];
    command.args(["send", "--target", &sink.address, "--agents", &agents, "--token-file", &token]);
    let command = command.args(load).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    common::first_line(child.stderr.as_mut().unwrap());
    two.kill();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failed = format!("failed agent {}", agents.split(',').nth(1).unwrap());
    assert!(said.contains(&failed), "{said}");
    assert!(figure(&said, "messages") >= 150, "the other one went on: {said}");

    // Nor is a run a success of which an agent was ended, though its figures are whole.
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let three = agent(&token);
    command.args(["send", "--target", &sink.address, "--agents", &three.address]);
    let command =
        command.args(["--token-file", &token, "--duration", "60s", "--interval", "100ms"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    common::first_line(child.stderr.as_mut().unwrap());
    let address = three.address.clone();
    three.end();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("failed agent {address}: a signal ended it")), "{said}");
    assert!(figure(&said, "messages") > 0, "{said}");

    // Who leads is gone: the agent ends the run, and takes the next plan.
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["send", "--target", &sink.address, "--agents", &one.address]);
    let command =
        command.args(["--token-file", &token, "--duration", "60s", "--interval", "100ms"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    common::first_line(child.stderr.as_mut().unwrap());
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let leads = ["send", "--target", &sink.address, "--agents", &one.address, "--token-file"];
    loop {
        let output = loadgen(&[&leads[..], &[&token, "--messages", "5", "-q"]].concat());
        if output.status.success() {
            break;
        }
        assert!(text(&output).contains("busy with another plan"), "{}", text(&output));
        assert!(Instant::now() < until, "it is still busy");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    one.end();
}
