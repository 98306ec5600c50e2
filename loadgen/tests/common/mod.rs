//! What the tests of the built generator have in common: run it, read its figures, have a sink.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail
#![allow(dead_code, unreachable_pub)] // WHY: each test binary uses a part

pub mod schema;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Runs it to its end.
pub fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// What it has said.
pub fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

/// The figure of that name.
pub fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    let number = line.and_then(|line| line.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// A sink that ends with the test, or by itself after a minute.
pub struct Sink;

impl Sink {
    pub fn start(flags: &[&str]) -> Server {
        let fixed = ["sink", "--listen", "127.0.0.1:0", "--duration", "60s"];
        Server::start(&[&fixed, flags].concat())
    }
}

/// A loadgen that listens until it is ended, or until the test ends.
pub struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub address: String,
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening ").unwrap().to_owned();
        Self { child, output, address }
    }

    /// Ends it, and gives what it saw.
    pub fn end(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }

    /// Ends it as nothing can prevent.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits until something was said.
pub fn first_line(output: &mut impl Read) {
    let mut byte = [0];
    while byte != *b"\n" {
        assert_eq!(output.read(&mut byte).unwrap(), 1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
