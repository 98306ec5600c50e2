//! The figures of a run as one JSON document, for programs: schema.json, docs/loadgen.md.

use serde_json::{Map, Value, json};

use super::facts::{self, Machine};
use super::{Outcome, QUANTILES, micros};
use crate::send::gather::{Row, Spread};
use crate::send::measure::Times;
use crate::send::plan::{Amount, Plan};
use crate::send::search::LatencyAt;

/// The version of the layout; a field that changes its meaning raises it.
pub(crate) const LAYOUT: u32 = 1;

fn times(times: &Times) -> Value {
    let mut map = Map::new();
    map.insert("count".into(), times.count().into());
    if times.count() > 0 {
        map.insert("mean_us".into(), json!(micros(times.mean())));
        for (name, at) in QUANTILES {
            map.insert(format!("{name}_us"), json!(micros(times.at(at))));
        }
    }
    Value::Object(map)
}

fn row(row: &Row, refused: bool) -> Value {
    let spread = |spread: Option<Spread>| {
        let Spread { p50, p99, max } = spread.filter(|_| !refused)?;
        let (p50, p99, max) = (micros(p50), micros(p99), micros(max));
        Some(json!({ "p50_us": p50, "p99_us": p99, "max_us": max }))
    };
    json!({
        "time": row.until.as_secs_f64(),
        "seconds": row.length.as_secs_f64(),
        "due": row.due,
        "begun": row.begun,
        "acknowledged": row.acknowledged,
        "errors": row.errors,
        "rate": row.rate(),
        "connections": row.open,
        "in_flight": row.busy,
        "busiest_core": row.share,
        "intended": spread(row.intended),
        "actual": spread(row.actual),
    })
}

/// The plan in words, by the names of its options.
fn plan_facts(plan: &Plan) -> Map<String, Value> {
    facts::plan(plan).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn latencies(outcome: &Outcome) -> Value {
    let m = &outcome.measures;
    let phases = m.phases().map(|(name, t)| (name.to_owned(), times(t)));
    json!({
        "intended": times(&m.intended),
        "actual": times(&m.actual),
        "slip": times(&m.slip),
        "phases": phases.collect::<Map<_, _>>(),
    })
}

/// All of it.
pub(crate) fn document(plan: &Plan, outcome: &Outcome, found: Option<f64>) -> Value {
    let m = &outcome.measures;
    let options = &plan.options;
    let refused = outcome.bottleneck(plan);
    let latencies = refused.is_none().then(|| latencies(outcome));
    let errors =
        m.errors().map(|(phase, kind, n)| json!({ "phase": phase, "kind": kind, "count": n }));
    let replies =
        m.replies().map(|(phase, code, n)| json!({ "phase": phase, "code": code, "count": n }));
    let held = options.threshold.iter().map(|threshold| {
        json!({ "condition": threshold.to_string(), "holds": outcome.holds(plan, threshold) })
    });
    let series = &outcome.series;
    let rows = series.rows.iter().map(|one| row(one, refused.is_some()));
    let cores = m.cores.iter().map(|core| {
        json!({
            "host": core.host, "core": core.core, "cpu_us": micros(core.cpu), "share": core.share,
        })
    });
    let Machine { kernel, cpu, processors, date } = Machine::this();
    json!({
        "layout": LAYOUT,
        "date": date,
        "machine": { "kernel": kernel, "cpu": cpu, "processors": processors },
        "target": plan.target.to_string(),
        "greeting": m.greeting,
        "tls": m.tls,
        "plan": plan_facts(plan),
        "loop": if matches!(plan.amount, Amount::Open(_)) { "open" } else { "closed" },
        "cores": options.cores,
        "connections": options.connections,
        "messages": {
            "due": m.due,
            "begun": m.begun,
            "acknowledged": m.acknowledged,
            "recipients": m.recipients,
            "octets": m.octets,
            "late": m.late,
            "dropped": m.dropped,
            "unfinished": m.unfinished,
        },
        "connections_opened": m.connections,
        "handshakes": { "full": m.handshakes.0, "resumed": m.handshakes.1 },
        "seconds": m.took.as_secs_f64(),
        "rate": outcome.rate(),
        "errors_count": m.errors_count(),
        "errors": errors.collect::<Vec<_>>(),
        "replies": replies.collect::<Vec<_>>(),
        "latencies_refused": refused,
        "latencies": latencies,
        "own": {
            "cpu_us": micros(m.cpu()),
            "busiest_core": m.busiest(),
            "cores": cores.collect::<Vec<_>>(),
        },
        "server": outcome.server.map(|server| json!({
            "cpu_us": micros(server.cpu),
            "rss_bytes": server.rss,
            "rss_peak_bytes": server.rss_peak,
        })),
        "interval_seconds": series.interval.as_secs_f64(),
        "series": rows.collect::<Vec<_>>(),
        "series_left_out": series.left_out,
        "failed": outcome.failed,
        "interrupted": outcome.interrupted,
        "thresholds": held.collect::<Vec<_>>(),
        "max_rate": found,
    })
}
