//! `cargo xtask ci`: every check that a change must pass, in order, stopping at the first failure.
//!
//! Called by people before they push and by `.ci/run`. Each step is one or more commands, printed
//! before they run and timed after. A tool that is not installed fails its step with the line
//! that installs it; nothing is skipped silently.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

struct Step {
    name: &'static str,
    about: &'static str,
    commands: Vec<String>,
}

fn step(name: &'static str, about: &'static str, commands: &[&str]) -> Step {
    Step { name, about, commands: commands.iter().map(|c| (*c).to_owned()).collect() }
}

fn steps() -> Vec<Step> {
    vec![
        step("fmt", "one layout", &["cargo fmt --all --check"]),
        // Each crate alone would find features that only a neighbour turns on, and builds all
        // dependencies several times over: five minutes of the thirty.
        step(
            "clippy",
            "lints",
            &["cargo clippy -q --workspace --all-targets --locked -- -D warnings"],
        ),
        step("tidy", "the shape of the tree", &["cargo xtask tidy"]),
        step("rfc", "references against proto/rfc.tsv", &["cargo xtask rfc"]),
        step(
            "deny",
            "licences, sources and bans of dependencies (the advisory database is not \
             fetched: it is not to be had offline)",
            &["cargo deny --locked --config tuning/deny.toml check bans licenses sources"],
        ),
        step(
            "test",
            "unit, table, property, wire and doc tests",
            &["cargo test --workspace --locked"],
        ),
        step(
            "sim",
            "fixed seeds of the simulator, and its planted bugs",
            &[
                "cargo run -q --locked --profile fast -p fsmtp-sim -- --smoke",
                "cargo run -q --locked --profile fast -p fsmtp-sim -- --canary",
            ],
        ),
        step(
            "crash",
            "kill the engine under load, audit, in a short form",
            &["cargo run -q --locked --profile fast -p fsmtp-crash -- --rounds 8 --senders 32"],
        ),
        step(
            "diskfull",
            "a full disk loses nothing that was acknowledged",
            &["cargo run -q --locked --profile fast -p fsmtp-crash -- --disk-full"],
        ),
        step(
            "icount",
            "instructions of the hot path, against bench/baseline.csv",
            &["cargo run -q --locked --profile fast -p bench --bin icount -- --against \
               bench/baseline.csv"],
        ),
        step(
            "interop",
            "other people's clients, and verifiers of signatures",
            &[
                "bash tests/interop/run.sh",
                "bash tests/interop/dkim.sh",
                "bash tests/interop/verdicts.sh",
            ],
        ),
        step("cluster", "against a real Cassandra", &["bash tests/cluster/run.sh"]),
        step(
            "doc",
            "the documentation builds without a warning",
            &["cargo doc -q --workspace --no-deps --document-private-items --locked"],
        ),
    ]
}

/// Runs the chosen steps; stops at the first that fails.
pub(crate) fn run(root: &Path, args: &[&str]) -> ExitCode {
    let steps = steps();
    if args == ["--list"] {
        for step in &steps {
            println!("{:<8} {}", step.name, step.about);
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match choose(&steps, args) {
        Ok(chosen) => chosen,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    for step in chosen {
        let step_begun = Instant::now();
        println!("== {}: {}", step.name, step.about);
        for line in &step.commands {
            println!("$ {line}");
            if let Err(why) = command(root, line) {
                println!("== {} failed: {why}", step.name);
                return ExitCode::FAILURE;
            }
        }
        println!("== {} passed in {:.0} s", step.name, step_begun.elapsed().as_secs_f64());
    }
    println!("== all passed in {:.0} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn choose<'a>(steps: &'a [Step], args: &[&str]) -> Result<Vec<&'a Step>, String> {
    let (keep, names): (bool, &str) = match args {
        [] => (false, ""),
        ["--skip", names] => (false, names),
        ["--only", names] => (true, names),
        _ => return Err("cargo xtask ci [--skip a,b] [--only a,b] [--list]".to_owned()),
    };
    let names: Vec<&str> = names.split(',').filter(|n| !n.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|n| steps.iter().all(|s| s.name != **n)) {
        return Err(format!("there is no step `{unknown}`: see cargo xtask ci --list"));
    }
    Ok(steps.iter().filter(|s| names.contains(&s.name) == keep).collect())
}

fn command(root: &Path, line: &str) -> Result<(), String> {
    let mut words = line.split(' ').filter(|w| !w.is_empty());
    let mut command = Command::new(words.next().unwrap_or("false"));
    command.args(words).current_dir(root);
    if line.starts_with("cargo doc") {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    if line.contains("icount") {
        // An incremental build is cut into other pieces, and optimised otherwise.
        command.env("CARGO_INCREMENTAL", "0");
    }
    // What cargo tells the process that it runs must not reach the cargo that this one runs.
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) if line.starts_with("cargo deny") => {
            Err(format!("`{line}`; if it is missing: cargo install cargo-deny --locked"))
        }
        Ok(status) => Err(format!("`{line}`: {status}")),
        Err(error) => Err(format!("`{line}` does not start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Result<Vec<&'static str>, String> {
        let steps = steps();
        choose(&steps, args).map(|chosen| chosen.iter().map(|s| s.name).collect())
    }

    #[test]
    fn steps_are_chosen_by_name_in_their_own_order() {
        assert_eq!(names(&[]).map(|n| n.len()), Ok(steps().len()));
        assert_eq!(names(&["--only", "tidy,fmt"]), Ok(vec!["fmt", "tidy"]));
        assert!(names(&["--skip", "test"]).is_ok_and(|n| !n.contains(&"test")));
        assert!(names(&["--skip", "tests"]).is_err());
        assert!(names(&["--fast"]).is_err());
    }
}
