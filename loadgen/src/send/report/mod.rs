//! The figures of a run: as lines of text here, as JSON in [`json`], as a page in [`html`] with
//! its plots in [`plot`].
//!
//! All come from one [`Outcome`]. When the generator was the bottleneck, latencies are left out
//! and the reason stands in their place: they would tell of the generator, not of the server.
//! [`facts`] is what one must know to compare: the plan in words, and the machine.

pub(crate) mod facts;
pub(crate) mod html;
#[cfg(test)]
mod html_tests;
pub(crate) mod json;
mod plot;

use std::time::Duration;

use super::gather::Series;
use super::measure::{Measures, Times};
use super::plan::{Amount, Plan};
use super::search::{Figures, LatencyAt, Threshold};

/// Above this share of a core's time the generator is the bottleneck.
pub(crate) const BUSY_MAX: f64 = 0.9;
/// The quantiles that are shown.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999), ("max", 1.0)];

/// What the server's process spent and holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) cpu: Duration,
    pub(crate) rss: u64,
    pub(crate) rss_peak: u64,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measures: Measures,
    pub(crate) server: Option<Server>,
    /// Ended by a signal.
    pub(crate) interrupted: bool,
    pub(crate) series: Series,
    /// Other hosts that have failed, and why.
    pub(crate) failed: Vec<String>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.measures.acknowledged as f64 / self.measures.took.as_secs_f64().max(1e-9)
    }

    /// Why latencies say nothing about the server.
    pub(crate) fn bottleneck(&self, plan: &Plan) -> Option<String> {
        let busiest = self.measures.busiest();
        if busiest > BUSY_MAX {
            return Some(format!(
                "a core of the generator was busy for {:.0} % of the time: use more --cores, or \
                 less load",
                busiest * 100.0
            ));
        }
        let (slip, most) = (&self.measures.slip, plan.options.slip_max);
        if slip.count() > 0 && slip.at(0.99) > most {
            return Some(format!(
                "the generator was more than {} us late with 1 % of its messages: the machine is \
                 too busy for this rate",
                most.as_micros()
            ));
        }
        None
    }

    /// The latencies that thresholds are about: from the intended time where there was one.
    pub(crate) fn latency(&self) -> &Times {
        let intended = &self.measures.intended;
        if intended.count() > 0 { intended } else { &self.measures.actual }
    }

    /// Whether a condition holds.
    pub(crate) fn holds(&self, plan: &Plan, threshold: &Threshold) -> bool {
        let latency = self.bottleneck(plan).is_none().then(|| self.latency() as &dyn LatencyAt);
        let tries = self.measures.begun + self.measures.dropped;
        let errors_share = self.measures.errors_count() as f64 / tries.max(1) as f64;
        threshold.holds(&Figures { latency, rate: self.rate(), errors_share })
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// A time for people: three digits and a unit.
pub(crate) fn spoken(time: Duration) -> String {
    let us = micros(time);
    let (value, unit) = match us {
        ..1e3 => (us, "us"),
        ..1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// The lines `name value unit`.
pub(crate) fn text(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let m = &outcome.measures;
    let mut lines = vec![
        format!("messages {} acknowledged", m.acknowledged),
        format!("begun {} messages", m.begun),
        format!("rate {:.0} 1/s", outcome.rate()),
        format!("took {:.3} s", m.took.as_secs_f64()),
        format!("octets {} acknowledged", m.octets),
        format!("connections {} opened", m.connections),
        format!("errors {} in_all", m.errors_count()),
    ];
    if m.recipients != m.acknowledged {
        lines.push(format!("recipients {} acknowledged", m.recipients));
    }
    if m.handshakes != (0, 0) {
        lines.push(format!("handshakes_full {} count", m.handshakes.0));
        lines.push(format!("handshakes_resumed {} count", m.handshakes.1));
    }
    if matches!(plan.amount, Amount::Open(_)) {
        lines.push(format!("late {} messages", m.late));
        lines.push(format!("dropped {} messages", m.dropped));
    }
    if m.unfinished > 0 {
        lines.push(format!("unfinished {} messages", m.unfinished));
    }
    lines.extend(m.errors().map(|(phase, kind, count)| format!("error {phase} {kind} {count}")));
    lines.extend(m.replies().map(|(phase, code, count)| format!("reply {phase} {code} {count}")));
    if let Some(why) = outcome.bottleneck(plan) {
        lines.push(format!("latencies refused: {why}"));
    } else {
        for (name, times) in [("intended", &m.intended), ("actual", &m.actual), ("slip", &m.slip)] {
            if times.count() > 0 {
                let value = |(q, at)| format!("{name}_{q} {:.1} us", micros(times.at(at)));
                lines.extend(QUANTILES.map(value));
            }
        }
        for (name, times) in m.phases() {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|at| micros(times.at(at)));
            let count = times.count();
            lines.push(format!(
                "phase {name} count {count} p50 {p50:.1} us p99 {p99:.1} us max {max:.1} us"
            ));
        }
    }
    let each = |time: Duration| micros(time) / m.acknowledged.max(1) as f64;
    lines.push(format!("own_cpu {:.2} us/message", each(m.cpu())));
    lines.push(format!("own_busiest_core {:.1} %", m.busiest() * 100.0));
    if let Some(server) = outcome.server {
        lines.push(format!("server_cpu {:.1} us/message", each(server.cpu)));
        lines.push(format!("server_rss {} bytes", server.rss));
        lines.push(format!("server_rss_peak {} bytes", server.rss_peak));
    }
    lines.extend(outcome.failed.iter().map(|why| format!("failed {why}")));
    if outcome.interrupted {
        lines.push("interrupted 1 signal".into());
    }
    lines
}
