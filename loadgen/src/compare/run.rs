//! A run as `compare` sees it: a document of `send --json`.
//!
//! What is no such document, or is larger than [`FILE_BYTES_MAX`], is an error that names the file.
//! A figure that a run does not have is `None`: latencies that were refused, a server that was not
//! measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::send::LAYOUT;

/// Many times a day of seconds.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// An interval that is shorter than this share of the others is the end of the run.
const SHORT: f64 = 0.9;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Rate,
    Errors,
    P50,
    P99,
    Max,
    ServerCpu,
    OwnCpu,
}

impl Figure {
    pub(super) const ALL: [Self; 7] =
        [Self::Rate, Self::Errors, Self::P50, Self::P99, Self::Max, Self::ServerCpu, Self::OwnCpu];

    /// Its name and unit.
    pub(super) const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Rate => ("rate", "1/s"),
            Self::Errors => ("errors", "%"),
            Self::P50 => ("p50", "us"),
            Self::P99 => ("p99", "us"),
            Self::Max => ("max", "us"),
            Self::ServerCpu => ("server_cpu", "us/message"),
            Self::OwnCpu => ("own_cpu", "us/message"),
        }
    }

    pub(super) const fn more_is_better(self) -> bool {
        matches!(self, Self::Rate)
    }

    /// What the generator spends says nothing about the server; and a maximum is one message.
    pub(super) const fn is_judged(self) -> bool {
        !matches!(self, Self::OwnCpu | Self::Max)
    }

    const fn field(self) -> Option<&'static str> {
        match self {
            Self::P50 => Some("p50_us"),
            Self::P99 => Some("p99_us"),
            Self::Max => Some("max_us"),
            _ => None,
        }
    }
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) target: String,
    /// What it ran on, in words.
    pub(super) machine: String,
    plan: BTreeMap<String, String>,
    document: Value,
}

impl Run {
    /// # Errors
    /// When it is no document of a run.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let size = fs::metadata(path).map_err(|e| format!("{name}: {e}"))?.len();
        if size > FILE_BYTES_MAX {
            return Err(format!("{name}: larger than {FILE_BYTES_MAX} octets"));
        }
        let text = fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
        let document = serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
        Self::new(document).map_err(|why| format!("{name}: {why}"))
    }

    fn new(document: Value) -> Result<Self, String> {
        if document.get("layout").and_then(Value::as_u64) != Some(u64::from(LAYOUT)) {
            return Err(format!("not a document of send --json with layout {LAYOUT}"));
        }
        let text = |pointer: &str| match document.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            other => other.map(Value::to_string).unwrap_or_default(),
        };
        let plan = document.get("plan").and_then(Value::as_object);
        let plan = plan.ok_or("it has no plan")?.iter();
        let value = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            target: text("/target"),
            machine: ["/machine/kernel", "/machine/cpu", "/machine/processors"].map(text).join(" "),
            plan: plan.map(|(name, of)| (name.clone(), value(of))).collect(),
            document,
        })
    }

    /// How its plan differs from another's; empty when it does not.
    pub(super) fn unlike(&self, other: &Self) -> String {
        let of = |run: &Self, name: &str| run.plan.get(name).cloned().unwrap_or_default();
        let names: std::collections::BTreeSet<_> =
            self.plan.keys().chain(other.plan.keys()).collect();
        let mut unlike: Vec<_> = names
            .into_iter()
            .map(|name| (name, of(self, name), of(other, name)))
            .filter(|(_, ours, theirs)| ours != theirs)
            .map(|(name, ours, theirs)| format!("{name} is {ours:?} and {theirs:?}"))
            .collect();
        if self.flag("interrupted") || other.flag("interrupted") {
            unlike.push("a run was interrupted".into());
        }
        if self.has_failed() || other.has_failed() {
            unlike.push("a host of a run failed".into());
        }
        unlike.join(", ")
    }

    /// Whether less than the plan was sent, since a host was missing.
    fn has_failed(&self) -> bool {
        self.document.get("failed").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
    }

    /// How long its intervals are, in seconds: percentiles and maxima depend on it.
    pub(super) fn interval(&self) -> f64 {
        self.number("/interval_seconds").unwrap_or(0.0)
    }

    fn flag(&self, name: &str) -> bool {
        self.document.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn number(&self, pointer: &str) -> Option<f64> {
        self.document.pointer(pointer)?.as_f64()
    }

    /// Which latency counts: from the due time where there was one.
    fn latency(&self) -> &'static str {
        let due = self.number("/latencies/intended/count").unwrap_or(0.0);
        if due > 0.0 { "intended" } else { "actual" }
    }

    /// The figure of the whole run.
    pub(super) fn whole(&self, figure: Figure) -> Option<f64> {
        let each = |us: f64| Some(us / self.number("/messages/acknowledged")?.max(1.0));
        if let Some(field) = figure.field() {
            return self.number(&format!("/latencies/{}/{field}", self.latency()));
        }
        match figure {
            Figure::Rate => self.number("/rate"),
            Figure::Errors => {
                let tries = self.number("/messages/begun")? + self.number("/messages/dropped")?;
                Some(self.number("/errors_count")? / tries.max(1.0) * 100.0)
            }
            Figure::ServerCpu => each(self.number("/server/cpu_us")?),
            _ => each(self.number("/own/cpu_us")?),
        }
    }

    /// Its values in the intervals of the run, without the first, in which connections are opened,
    /// and without a last one that is cut off.
    pub(super) fn intervals(&self, figure: Figure) -> Option<Vec<f64>> {
        let rows = self.document.get("series")?.as_array()?;
        let whole = self.number("/interval_seconds")? * SHORT;
        let number = |row: &Value, name: &str| row.get(name).and_then(Value::as_f64);
        let rows = rows.iter().skip(1);
        let rows = rows.filter(|row| number(row, "seconds").is_some_and(|s| s >= whole));
        let value = |row: &Value| {
            if let Some(field) = figure.field() {
                return number(row.get(self.latency())?, field);
            }
            match figure {
                Figure::Rate => number(row, "rate"),
                Figure::Errors => {
                    Some(number(row, "errors")? / number(row, "begun")?.max(1.0) * 100.0)
                }
                // The processor time of a server is told for the whole run only.
                _ => None,
            }
        };
        rows.map(value).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A run of so many intervals more.
    pub(crate) fn run_of(rate: f64, plan: &str, intervals: usize, seconds: f64) -> Run {
        let mut run = run(rate, plan);
        run.document["interval_seconds"] = json!(seconds);
        let rows = run.document["series"].as_array_mut().unwrap();
        let row = rows[1].clone();
        rows.extend(vec![row; intervals]);
        run
    }

    fn run(rate: f64, plan: &str) -> Run {
        let row = |seconds: f64, rate: f64| {
            json!({
                "seconds": seconds, "rate": rate, "errors": 1, "begun": 50,
                "intended": null, "actual": { "p50_us": 10.0, "p99_us": 20.0, "max_us": 30.0 },
            })
        };
        Run::new(json!({
            "layout": 1, "target": "x", "machine": { "kernel": "6", "cpu": "y", "processors": 2 },
            "plan": { "size": plan }, "interval_seconds": 1.0, "rate": rate,
            "messages": { "acknowledged": 100, "begun": 110, "dropped": 90 },
            "errors_count": 100, "server": null, "own": { "cpu_us": 500.0 },
            "latencies": { "intended": { "count": 0 }, "actual": { "count": 100, "p99_us": 20.5 } },
            "series": [row(1.0, 1.0), row(1.0, rate), row(1.01, rate + 1.0), row(0.2, 5.0)],
        }))
        .unwrap()
    }

    #[test]
    fn figures_are_found_and_those_that_are_missing_are_none() {
        let run = run(70.0, "4096");
        assert_eq!(run.machine, "6 y 2");
        for (figure, whole) in [
            (Figure::Rate, Some(70.0)),
            (Figure::Errors, Some(50.0)),
            (Figure::P50, None),
            (Figure::P99, Some(20.5)),
            (Figure::ServerCpu, None),
            (Figure::OwnCpu, Some(5.0)),
        ] {
            assert_eq!(run.whole(figure), whole, "{figure:?}");
        }
        assert_eq!(run.intervals(Figure::Rate), Some(vec![70.0, 71.0]));
        assert_eq!(run.intervals(Figure::P99), Some(vec![20.0, 20.0]));
        assert_eq!(run.intervals(Figure::Errors), Some(vec![2.0, 2.0]));
        assert_eq!(run.intervals(Figure::OwnCpu), None);
    }

    #[test]
    fn other_plans_and_what_is_no_document_are_told() {
        let (a, b) = (run(1.0, "4096"), run(1.0, "64"));
        assert_eq!(a.unlike(&run(2.0, "4096")), "");
        assert_eq!(a.unlike(&b), "size is \"4096\" and \"64\"");
        let mut failed = run(1.0, "4096");
        failed.document["failed"] = json!(["agent b.test:2526: gone"]);
        assert_eq!(a.unlike(&failed), "a host of a run failed");
        assert_eq!(failed.unlike(&a), "a host of a run failed");
        for wrong in [json!([]), json!({ "layout": 2 }), json!({ "layout": 1, "plan": 5 })] {
            assert!(Run::new(wrong).is_err());
        }
        let nowhere = Run::read(Path::new("/nonexistent/a.json")).unwrap_err();
        assert!(nowhere.starts_with("/nonexistent/a.json: "));
    }
}
