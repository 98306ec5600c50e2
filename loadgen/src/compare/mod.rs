//! `compare`: whether the server of runs B is worse than that of runs A, and how sure that is.
//!
//! Called by `main`. Reads documents of `send --json` ([`mod@run`]), and gives for each figure
//! the difference with its interval of confidence ([`statistics`]). Runs with other plans are not
//! compared. Exit status: 0 B is not worse, or no difference can be told; 1 it is worse; 2 the runs
//! cannot be compared or read.

mod run;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::say;
use run::{Figure, Run};
use statistics::{Difference, LEVEL_PERCENT, RUNS_MIN};

/// The options of `compare`.
#[derive(clap::Args, Debug, Clone)]
#[group(id = "compare")] // two groups of the name of their type would be one
pub(crate) struct Options {
    /// One document of each, A and B.
    #[arg(num_args = 2, value_name = "FILE", conflicts_with_all = ["a", "b"])]
    files: Vec<PathBuf>,
    /// Documents of several runs of A; with three or more of each, runs are compared with runs.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "b")]
    a: Vec<PathBuf>,
    /// Documents of several runs of B.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "a")]
    b: Vec<PathBuf>,
    /// Percent of A by which B may be worse.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    tolerance: f64,
    /// Compares what was not measured in the same way.
    #[arg(long)]
    force: bool,
}

/// What a difference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// The interval has 0, or the tolerance, in it.
    Same,
    /// It is told, and not judged.
    Told,
}

/// One figure of A and B.
#[derive(Debug)]
struct Compared {
    figure: Figure,
    difference: Difference,
    verdict: Verdict,
}

/// Compares, prints, and says how it came out.
pub(crate) fn run(options: &Options) -> ExitCode {
    match compared(options) {
        Ok((lines, worse)) => match say::figures(&lines.join("\n")) {
            true => ExitCode::from(u8::from(worse)),
            false => ExitCode::from(2),
        },
        Err(why) => {
            say::error(&why);
            ExitCode::from(2)
        }
    }
}

fn compared(options: &Options) -> Result<(Vec<String>, bool), String> {
    if !(0.0..=100.0).contains(&options.tolerance) {
        return Err("--tolerance is 0 to 100 percent".into());
    }
    let (a, b) = match &options.files[..] {
        [a, b] => (std::slice::from_ref(a), std::slice::from_ref(b)),
        _ => (&options.a[..], &options.b[..]),
    };
    if a.is_empty() || b.is_empty() {
        return Err("name two documents of send --json, or several with --a and --b".into());
    }
    let read = |files: &[PathBuf]| -> Result<Vec<Run>, String> {
        files.iter().map(|file| Run::read(file)).collect()
    };
    let (a, b) = (read(a)?, read(b)?);
    let mut lines = Vec::new();
    let first = a.first().ok_or("there is no run")?;
    for other in a.iter().chain(&b).skip(1) {
        let unlike = first.unlike(other);
        if !unlike.is_empty() && !options.force {
            return Err(format!("not the same plan, --force compares anyway: {unlike}"));
        }
        if !unlike.is_empty() {
            lines.push(format!("note: not the same plan: {unlike}"));
        }
        if first.machine != other.machine {
            lines.push(format!("note: not the same machine: {}, {}", first.machine, other.machine));
        }
    }
    let Judged { rows, missing, by_runs } = judge(&a, &b, options.tolerance)?;
    let unit = if by_runs { "runs" } else { "intervals of the runs" };
    for (name, runs) in [("a", &a), ("b", &b)] {
        let target = runs.first().map_or("", |run| &run.target);
        let plural = if runs.len() == 1 { "run" } else { "runs" };
        lines.push(format!("{name}: {} {plural} of {target}", runs.len()));
    }
    lines.push(format!("differences b - a, {LEVEL_PERCENT} % intervals from {unit}"));
    if !by_runs {
        lines.push(format!(
            "note: what changes from run to run is not in them; that takes {RUNS_MIN} runs of each"
        ));
    }
    lines.extend(rows.iter().map(line));
    if !missing.is_empty() {
        let names = missing.join(", ");
        lines.push(format!("note: not measured everywhere, so not compared: {names}"));
    }
    Ok((lines, rows.iter().any(|row| row.verdict == Verdict::Worse)))
}

/// Every figure that all runs have.
#[derive(Debug)]
struct Judged {
    rows: Vec<Compared>,
    /// Figures that not all have, in the whole or in an interval.
    missing: Vec<&'static str>,
    /// Runs were compared with runs.
    by_runs: bool,
}

fn judge(a: &[Run], b: &[Run], tolerance: f64) -> Result<Judged, String> {
    let by_runs = a.len().min(b.len()) >= RUNS_MIN;
    let mut lengths = a.iter().chain(b).map(|run| run.interval().to_bits());
    let length = lengths.next();
    if !by_runs && lengths.any(|other| Some(other) != length) {
        return Err("intervals of different lengths are not compared: the same --interval, or \
                    more runs"
            .into());
    }
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for figure in Figure::ALL {
        let values = |runs: &[Run]| -> Option<Vec<f64>> {
            if by_runs {
                return runs.iter().map(|run| run.whole(figure)).collect();
            }
            let all = runs.iter().map(|run| run.intervals(figure)).collect::<Option<Vec<_>>>();
            all.map(|all| all.concat())
        };
        let (Some(a), Some(b)) = (values(a), values(b)) else {
            missing.push(figure.name().0);
            continue;
        };
        let difference =
            if by_runs { statistics::of_runs(&a, &b) } else { statistics::of_intervals(&a, &b) };
        let Some(difference) = difference else { continue };
        let verdict = verdict(figure, &difference, tolerance);
        rows.push(Compared { figure, difference, verdict });
    }
    if rows.is_empty() {
        return Err(format!(
            "there is nothing to compare: it takes {RUNS_MIN} runs of each, or runs of {} whole \
             intervals behind the first: longer ones, or a shorter --interval",
            statistics::INTERVALS_MIN
        ));
    }
    Ok(Judged { rows, missing, by_runs })
}

fn verdict(figure: Figure, difference: &Difference, tolerance: f64) -> Verdict {
    let Difference { a, low, high, .. } = *difference;
    let borne = a.abs() * tolerance / 100.0;
    // The ends of the interval in the direction of worse.
    let (least, most) = if figure.more_is_better() { (-high, -low) } else { (low, high) };
    match () {
        () if !figure.is_judged() => Verdict::Told,
        () if least > borne => Verdict::Worse,
        () if most < 0.0 => Verdict::Better,
        () => Verdict::Same,
    }
}

fn line(row: &Compared) -> String {
    let Difference { a, b, low, high } = row.difference;
    let percent = |value: f64| match a {
        0.0 => "-".to_owned(),
        a => format!("{:+.1}", value / a.abs() * 100.0),
    };
    let verdict = match row.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Same => "no difference can be told",
        Verdict::Told => "not judged",
    };
    let (name, unit) = row.figure.name();
    format!(
        "{name:<10} a {a:>10.4} b {b:>10.4} {unit:<10} {:>6} % ({} .. {} %)  {verdict}",
        percent(b - a),
        percent(low),
        percent(high),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_different_lengths_are_not_compared_and_runs_of_them_are() {
        let of = |seconds: f64| run::tests::run_of(70.0, "4096", 20, seconds);
        assert!(judge(&[of(1.0)], &[of(1.0)], 0.0).is_ok());
        let why = judge(&[of(1.0)], &[of(0.1)], 0.0).unwrap_err();
        assert!(why.contains("--interval"), "{why}");
        let three = |seconds| [of(seconds), of(seconds), of(seconds)];
        assert!(judge(&three(1.0), &three(0.1), 0.0).unwrap().by_runs);
    }

    #[test]
    fn an_interval_on_one_side_is_a_verdict_and_any_other_is_none() {
        let of = |low, high| Difference { a: 100.0, b: 100.0 + (low + high) / 2.0, low, high };
        for (figure, low, high, tolerance, expected) in [
            (Figure::Rate, -5.0, -1.0, 0.0, Verdict::Worse),
            (Figure::Rate, 1.0, 5.0, 0.0, Verdict::Better),
            (Figure::Rate, -5.0, 1.0, 0.0, Verdict::Same),
            (Figure::Rate, -5.0, -1.0, 2.0, Verdict::Same),
            (Figure::Rate, -5.0, -3.0, 2.0, Verdict::Worse),
            (Figure::P99, 1.0, 5.0, 0.0, Verdict::Worse),
            (Figure::P99, -5.0, -1.0, 0.0, Verdict::Better),
            (Figure::P99, 0.0, 0.0, 0.0, Verdict::Same),
            (Figure::OwnCpu, 1.0, 5.0, 0.0, Verdict::Told),
        ] {
            assert_eq!(verdict(figure, &of(low, high), tolerance), expected, "{figure:?} {low}");
        }
    }
}
