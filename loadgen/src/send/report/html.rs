//! The figures of a run as one page for people: `--html`.
//!
//! Nothing is loaded from anywhere and nothing is run: plots are SVG in the page, and its policy
//! forbids everything else. Texts that came from outside (the greeting, names of hosts) are
//! escaped. A plot has at most [`POINTS_MAX`] points; of more intervals the worst of a group is
//! shown, never a mean of percentiles.

use std::fmt::Write as _;
use std::time::Duration;

use super::facts::{self, Machine};
use super::plot::{Line, Plot, Scale, escaped};
use super::{Outcome, QUANTILES, micros, spoken};
use crate::send::gather::{Row, Spread};
use crate::send::measure::Times;
use crate::send::plan::Plan;
use crate::send::search::LatencyAt;

/// Points of a line; more than a screen can tell apart.
const POINTS_MAX: usize = 1_000;
/// Points of the percentile curve for each power of ten.
const CURVE_STEPS: u32 = 20;

const STYLE: &str = include_str!("style.css");

/// The page. `good` is what the exit status says.
pub(crate) fn page(plan: &Plan, outcome: &Outcome, found: Option<f64>, good: bool) -> String {
    let target = escaped(&plan.options.target);
    let machine = Machine::this();
    let refused = outcome.bottleneck(plan);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>loadgen send to {target}</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>loadgen send to {target}</h1>\n<p>{}, {}</p>\n",
        escaped(&plan.amount.to_string()),
        escaped(&machine.date),
    );
    page.push_str(&verdict(plan, outcome, found, good));
    if let Some(why) = &refused {
        let _ = writeln!(page, "<p class=\"bad\">Latencies are refused: {}</p>", escaped(why));
    }
    page.push_str(&tiles(outcome, refused.is_some()));
    page.push_str(&rate(outcome));
    if refused.is_none() {
        page.push_str(&over_time(outcome));
        page.push_str(&percentiles(outcome));
        page.push_str(&latencies(outcome));
    }
    page.push_str(&counts(outcome));
    page.push_str(&cores(outcome));
    page.push_str(&about(plan, outcome, &machine));
    page.push_str("</body></html>\n");
    page
}

fn verdict(plan: &Plan, outcome: &Outcome, found: Option<f64>, good: bool) -> String {
    let class = |good| if good { "good" } else { "bad" };
    let word = if good { "passed" } else { "failed" };
    let mut text = format!("<p class=\"{}\"><b>{word}</b>", class(good));
    if outcome.interrupted {
        text.push_str(", ended by a signal");
    }
    text.push_str("</p>\n");
    for why in &outcome.failed {
        let _ = writeln!(text, "<p class=\"bad\">failed: {}</p>", escaped(why));
    }
    if let Some(goal) = &plan.options.find_max {
        let goal = escaped(&goal.to_string());
        let rate = found.map_or_else(|| "none".to_owned(), |rate| format!("{rate:.0}/s"));
        let _ = writeln!(text, "<p>The highest rate at which {goal} held: <b>{rate}</b></p>");
    }
    let rows = plan.options.threshold.iter().map(|threshold| {
        let held = outcome.holds(plan, threshold);
        vec![threshold.to_string(), if held { "held" } else { "missed" }.to_owned()]
    });
    text + &table("Thresholds", &["condition", "verdict"], rows)
}

fn tiles(outcome: &Outcome, refused: bool) -> String {
    let m = &outcome.measures;
    let each = |time: Duration| format!("{:.1} us", micros(time) / m.acknowledged.max(1) as f64);
    let mut tiles = vec![
        ("messages per second", format!("{:.0}", outcome.rate())),
        ("acknowledged", m.acknowledged.to_string()),
        ("errors", m.errors_count().to_string()),
    ];
    let times = outcome.latency();
    if !refused && times.count() > 0 {
        let all = QUANTILES.into_iter().filter(|(name, _)| ["p50", "p99", "max"].contains(name));
        tiles.extend(all.map(|(name, at)| (name, spoken(times.at(at)))));
    }
    tiles.push(("own CPU per message", each(m.cpu())));
    if let Some(server) = outcome.server {
        tiles.push(("server's CPU per message", each(server.cpu)));
        tiles.push(("server's memory", format!("{} MiB", server.rss >> 20)));
    }
    let tile = |(name, value)| format!("<div><b>{value}</b> {name}</div>");
    format!("<div class=\"tiles\">{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
}

/// A point for each group of rows, at the group's end.
fn points(rows: &[Row], worst: impl Fn(&Row) -> Option<f64>) -> Vec<Option<(f64, f64)>> {
    let group = rows.len().div_ceil(POINTS_MAX).max(1);
    let point = |rows: &[Row]| {
        let worst = rows.iter().filter_map(&worst).reduce(f64::max)?;
        Some((rows.last()?.until.as_secs_f64(), worst))
    };
    rows.chunks(group).map(point).collect()
}

fn rate(outcome: &Outcome) -> String {
    let rows = &outcome.series.rows;
    let each = |row: &Row, count: u64| Some(count as f64 / row.length.as_secs_f64().max(1e-9));
    let lines = vec![
        Line { name: "acknowledged", points: points(rows, |row| Some(row.rate())) },
        Line { name: "due", points: points(rows, |row| each(row, row.due)) },
        Line { name: "errors", points: points(rows, |row| each(row, row.errors)) },
    ];
    let plot = Plot {
        title: "Messages per second",
        lines,
        scales: (Scale::Linear, Scale::Linear),
        x_ticks: None,
        x_text: seconds,
        y_text: |value| format!("{value}"),
    };
    plot.figure()
}

fn seconds(value: f64) -> String {
    format!("{value} s")
}

fn time(us: f64) -> String {
    spoken(Duration::from_secs_f64(us / 1e6))
}

fn over_time(outcome: &Outcome) -> String {
    let open = outcome.measures.intended.count() > 0;
    let line = |name, pick: fn(Spread) -> Duration| {
        let value = |row: &Row| {
            let spread = if open { row.intended } else { row.actual };
            spread.map(|spread| micros(pick(spread)))
        };
        Line { name, points: points(&outcome.series.rows, value) }
    };
    let title = if open { "Latency from the due time" } else { "Latency" };
    let plot = Plot {
        title,
        lines: vec![line("p50", |s| s.p50), line("p99", |s| s.p99), line("max", |s| s.max)],
        scales: (Scale::Linear, Scale::Log),
        x_ticks: None,
        x_text: seconds,
        y_text: time,
    };
    plot.figure()
}

/// Latency over 1 / (1 - percentile), so that each nine has the same room.
fn percentiles(outcome: &Outcome) -> String {
    let curve = |name, times: &Times| {
        let nines = (times.count().max(10) as f64).log10();
        let steps = (nines * f64::from(CURVE_STEPS)).ceil() as u32;
        let point = |step| {
            let one_in = 10f64.powf(f64::from(step) / f64::from(CURVE_STEPS));
            Some((one_in, micros(times.at(1.0 - 1.0 / one_in))))
        };
        Line { name, points: (0..=steps).map(point).collect() }
    };
    let m = &outcome.measures;
    let all = [("actual", &m.actual), ("intended", &m.intended)].into_iter();
    let lines: Vec<_> =
        all.filter(|(_, t)| t.count() > 0).map(|(name, times)| curve(name, times)).collect();
    let most = m.actual.count().max(m.intended.count()).max(10) as f64;
    let names = [(2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1e3, "99.9 %"), (1e4, "99.99 %")];
    let more = [(1e5, "99.999 %"), (1e6, "99.9999 %")];
    let ticks = names.into_iter().chain(more).filter(|(one_in, _)| *one_in <= most);
    let plot = Plot {
        title: "Latency by percentile",
        lines,
        scales: (Scale::Log, Scale::Log),
        x_ticks: Some(ticks.map(|(one_in, name)| (one_in, name.to_owned())).collect()),
        x_text: seconds,
        y_text: time,
    };
    plot.figure()
}

fn latencies(outcome: &Outcome) -> String {
    let m = &outcome.measures;
    let columns = ["", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let rows = m.times().filter(|(_, times)| times.count() > 0).map(|(name, times)| {
        let first = [name.to_owned(), times.count().to_string()];
        first.into_iter().chain(QUANTILES.map(|(_, at)| spoken(times.at(at)))).collect()
    });
    table("Latencies", &columns, rows)
}

fn counts(outcome: &Outcome) -> String {
    let m = &outcome.measures;
    let errors = m.errors().map(|(phase, kind, n)| vec![phase.into(), kind.into(), n.to_string()]);
    let replies =
        m.replies().map(|(phase, code, n)| vec![phase.into(), code.to_string(), n.to_string()]);
    let dropped = [("dropped", m.dropped), ("unfinished", m.unfinished)].into_iter();
    let dropped = dropped.filter(|(_, n)| *n > 0);
    let dropped = dropped.map(|(kind, n)| vec![String::new(), kind.to_owned(), n.to_string()]);
    table("Errors", &["phase", "kind", "count"], errors.chain(dropped))
        + &table("Replies", &["phase", "code", "count"], replies)
}

fn cores(outcome: &Outcome) -> String {
    let rows = outcome.measures.cores.iter().map(|core| {
        let name = match core.host {
            0 => core.core.to_string(),
            host => format!("{} of host {host}", core.core),
        };
        let seconds = format!("{:.3} s", core.cpu.as_secs_f64());
        vec![name, format!("{:.1} %", core.share * 100.0), seconds]
    });
    table("Cores of the generator", &["core", "busy", "CPU time"], rows)
}

fn about(plan: &Plan, outcome: &Outcome, machine: &Machine) -> String {
    let m = &outcome.measures;
    let unknown = || "unknown".to_owned();
    let none = if m.handshakes == (0, 0) { "none".to_owned() } else { unknown() };
    let facts = [
        ("target", format!("{} ({})", plan.options.target, plan.target)),
        ("greeting of the server", m.greeting.clone().unwrap_or_else(unknown)),
        ("encryption", m.tls.clone().unwrap_or(none)),
        ("generator's kernel", machine.kernel.clone()),
        ("generator's CPU", machine.cpu.clone()),
        ("generator's processors", machine.processors.to_string()),
        ("time", format!("{:.3} s", m.took.as_secs_f64())),
    ];
    let rows = facts.map(|(name, value)| vec![name.to_owned(), value]);
    let plan = facts::plan(plan).into_iter();
    let plan = plan.map(|(name, value)| vec![name.replace('_', " "), value]);
    table("Plan", &["option", "value"], plan) + &table("Machine", &["", ""], rows.into_iter())
}

/// A table with a title; nothing when it has no rows.
fn table(title: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut body = String::new();
    for row in rows {
        let cell = |text: &String| format!("<td>{}</td>", escaped(text));
        let _ = writeln!(body, "<tr>{}</tr>", row.iter().map(cell).collect::<String>());
    }
    if body.is_empty() {
        return body;
    }
    let head: String = columns.iter().map(|name| format!("<th>{}</th>", escaped(name))).collect();
    format!(
        "<h2>{}</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n",
        escaped(title)
    )
}
