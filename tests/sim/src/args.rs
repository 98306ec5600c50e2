//! The command line: which seeds, and how.
//!
//! Called by `main`. Wrong usage is clap's error, status 2.

use std::ops::Range;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Parser};

use crate::bugs::{self, Bug};

/// Seeds of `--smoke`.
const SMOKE: u64 = 200;

/// Runs whole nodes in simulated worlds: a seed decides every crash, fault and client.
///
/// A failing seed fails again, in every detail, whenever it is run. Seeds run on as many threads as
/// the machine has cores, and each of them twice, so that nondeterminism shows.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "fsmtp-sim",
    after_help = "Exit status: 0 nothing was found (--canary: everything was found), 1 otherwise, \
                  2 wrong usage. A run of many is given up after 10 failing seeds.",
    group = ArgGroup::new("what").required(true)
)]
pub(crate) struct Args {
    /// Fixed seeds: 0..200
    #[arg(long, group = "what")]
    smoke: bool,
    /// So many seeds, the first of them from --from
    #[arg(long, group = "what", value_name = "N")]
    count: Option<u64>,
    /// The first seed of --count
    #[arg(long, value_name = "A", default_value_t = 0, requires = "count")]
    from: u64,
    /// The seeds from A to B, without B
    #[arg(long, group = "what", value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// One seed
    #[arg(long, group = "what", value_name = "N")]
    seed: Option<u64>,
    /// Plants each known bug in turn; each must be found within 1000 seeds
    #[arg(long, group = "what")]
    pub(crate) canary: bool,
    /// Compares the seam calls of fixed workloads with tuning/budgets.toml
    #[arg(long, group = "what")]
    pub(crate) budget: bool,
    /// Plants this bug in the seeds that are run
    #[arg(long, value_name = "NAME", value_parser = bug())]
    pub(crate) bug: Option<Bug>,
    /// Prints the plan and all events of each seed, and runs it once
    #[arg(long)]
    pub(crate) trace: bool,
    /// Each seed once: twice as fast, nondeterminism stays unseen
    #[arg(long)]
    pub(crate) once: bool,
    /// Stops at the first failing seed
    #[arg(long)]
    pub(crate) first: bool,
}

impl Args {
    /// The seeds to run; none for --canary and --budget.
    pub(crate) fn wanted(&self) -> Range<u64> {
        let count = if self.smoke { SMOKE } else { self.count.unwrap_or(0) };
        match (&self.seeds, self.seed) {
            (Some(seeds), _) => seeds.clone(),
            (None, Some(seed)) => seed..seed.saturating_add(1),
            (None, None) => self.from..self.from.saturating_add(count),
        }
    }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let (from, to) = text.split_once("..").ok_or("A..B is expected")?;
    Ok(number(from)?..number(to)?)
}

/// Names of bugs, which the help lists.
fn bug() -> impl TypedValueParser<Value = Bug> {
    let names = PossibleValuesParser::new(Bug::ALL.map(Bug::name));
    names.try_map(|name| Bug::of(&name).ok_or("no such bug"))
}

// The help says these numbers.
const _: () = assert!(SMOKE == 200 && bugs::SEEDS_MAX == 1_000 && crate::FAILURES_MAX == 10);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("fsmtp-sim").chain(line.split_whitespace()))
    }

    #[test]
    fn seeds_are_named_in_several_ways() {
        for (line, seeds) in [
            ("--smoke", 0..200),
            ("--count 7", 0..7),
            ("--count 7 --from 5", 5..12),
            ("--seeds 5..9 --bug lost-wakes --first", 5..9),
            ("--seed 3 --trace", 3..4),
            ("--canary", 0..0),
            ("--budget", 0..0),
        ] {
            assert_eq!(parse(line).unwrap().wanted(), seeds, "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_told_apart_from_help() {
        Args::command().debug_assert();
        for line in
            ["", "--from 3", "--seed x", "--seeds 5", "--smoke --canary", "--smoke --bug nothing"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let help = parse("--help").unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string();
        for said in ["--smoke", "--seeds <A..B>", "[default: 0]", "lost-wakes", "Exit status: 0"] {
            assert!(text.contains(said), "{text}");
        }
    }
}
