//! The binary: argv goes to the command line, which calls back for what runs.

use fsmtp_engine::cli::{self, Engine};
use fsmtp_engine::config::Config;
use fsmtp_engine::control::Admin;
use fsmtp_engine::dirlock::DirLock;
use fsmtp_engine::run;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where shards and store are plugged in.
struct Wiring;

impl Engine for Wiring {
    fn run(&self, config: &Config, lock: DirLock) -> Result<(), String> {
        run::run(config, lock)
    }

    fn open(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
        run::open(config, lock)
    }

    fn open_to_import(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
        run::open_to_import(config, lock)
    }
}

fn main() -> ExitCode {
    // Mail, hashes and keys are their owner's, whoever made the data folder and with what mode.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    cli::main(std::env::args_os(), &Wiring)
}
