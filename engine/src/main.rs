//! The binary: argv goes to the command line, which calls back for what runs.

use fsmtp_engine::cli::{self, Engine};
use fsmtp_engine::config::Config;
use fsmtp_engine::control::Admin;
use fsmtp_engine::dirlock::DirLock;
use std::process::ExitCode;

/// Where the shards and the store are plugged in.
struct Wiring;

impl Engine for Wiring {
    fn run(&self, _: &Config, _: DirLock) -> Result<(), String> {
        Err("this build has no shards".to_owned())
    }

    fn open(&self, _: &Config, _: DirLock) -> Result<Box<dyn Admin>, String> {
        Err("this build has no store".to_owned())
    }
}

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &Wiring)
}
