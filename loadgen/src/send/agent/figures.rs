//! The figures of a core as JSON between hosts, and back: whole histograms, never percentiles.
//!
//! What comes from another host is not believed: [`decode`] knows which cores it may speak of and
//! how long the run has gone on, and refuses every number beyond [`COUNT_MAX`]. A histogram is a
//! list of its values in nanoseconds with their counts; as all have the same bounds, none is lost.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::send::exchange::{Now, Piece, interval_at};
use crate::send::measure::{CoreUse, Kind, Measures, Phase};

/// The most of anything in one piece: sums over all pieces of a run still have room.
const COUNT_MAX: u64 = 1 << 40;
/// Octets of a text that describes the server.
const TEXT_BYTES_MAX: usize = 256;
/// What an agent's clock may be ahead.
const AHEAD: Duration = Duration::from_secs(2);

/// A piece, and whether it is the last of its core.
pub(super) fn encode(piece: &Piece, last: bool) -> Value {
    let m = &piece.measures;
    let times = m.times().filter(|(_, times)| !times.histogram().is_empty());
    let times = times.map(|(name, times)| {
        let all = times.histogram().iter_recorded();
        let all = all.map(|value| json!([value.value_iterated_to(), value.count_at_value()]));
        (name.to_owned(), all.collect::<Vec<_>>().into())
    });
    let now = piece.now.first();
    let spent = m.cores.first();
    json!({
        "last": last,
        "core": piece.source,
        "index": piece.index,
        "since_ns": nanos(piece.since),
        "until_ns": nanos(piece.until),
        "took_ns": nanos(m.took),
        "now": now.map(|now| json!([now.share, now.open, now.busy])),
        "spent": spent.map(|core| json!([nanos(core.cpu), core.share])),
        "counts": m.counts(),
        "times": times.collect::<Map<_, _>>(),
        "replies": m.replies().map(|reply| json!(reply)).collect::<Vec<_>>(),
        "errors": m.errors().map(|error| json!(error)).collect::<Vec<_>>(),
        "tls": m.tls,
        "greeting": m.greeting,
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Who speaks, and what can be true of it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its number, from 1.
    pub(super) host: u32,
    /// Its cores among all.
    pub(super) cores: Range<u32>,
    pub(super) interval: Duration,
    /// How long the run has gone on.
    pub(super) elapsed: Duration,
}

/// A piece from another host, and whether it is the last of its core; `None` when it is nonsense.
pub(super) fn decode(value: &Value, source: &Source) -> Option<(Piece, bool)> {
    let number = |name: &str| value.get(name)?.as_u64();
    let elapsed = source.elapsed + AHEAD;
    let time = |name| Some(Duration::from_nanos(number(name)?)).filter(|time| *time <= elapsed);
    let core = u32::try_from(number("core")?).ok().filter(|core| source.cores.contains(core))?;
    let here = core - source.cores.start;
    let index = number("index").filter(|n| *n <= interval_at(elapsed, source.interval))?;
    let (since, until) = (time("since_ns")?, time("until_ns")?);
    let mut measures = Measures::new();
    measures.took = time("took_ns")?;
    counts(value, &mut measures)?;
    for (name, of) in value.get("times")?.as_object()? {
        let (_, times) = measures.times_mut().find(|(known, _)| known == name)?;
        for pair in of.as_array()? {
            let [value, count] = two(pair)?;
            times.record_many(Duration::from_nanos(value.as_u64()?), count_of(count)?);
        }
    }
    let text = |name| match value.get(name)? {
        Value::String(text) if text.len() <= TEXT_BYTES_MAX => Some(Some(text.clone())),
        Value::Null => Some(None),
        _ => None,
    };
    (measures.tls, measures.greeting) = (text("tls")?, text("greeting")?);
    let share = |value: &Value| value.as_f64().filter(|share| (0.0..=1_000.0).contains(share));
    let [of_share, open, busy] =
        <&[Value; 3]>::try_from(&value.get("now")?.as_array()?[..]).ok()?;
    let (open, busy) = (count_of(open)?, count_of(busy)?);
    let now = vec![Now { host: source.host, core: here, share: share(of_share)?, open, busy }];
    let last = value.get("last")?.as_bool()?;
    if last {
        let [cpu, of_share] = two(value.get("spent")?)?;
        let cpu = Duration::from_nanos(cpu.as_u64()?);
        let spent = CoreUse { host: source.host, core: here, cpu, share: share(of_share)? };
        measures.cores.push(Some(spent).filter(|_| cpu <= elapsed)?);
    }
    (since <= until).then_some((Piece { source: core, index, since, until, now, measures }, last))
}

fn two(value: &Value) -> Option<&[Value; 2]> {
    value.as_array()?[..].try_into().ok()
}

fn count_of(value: &Value) -> Option<u64> {
    value.as_u64().filter(|count| *count <= COUNT_MAX)
}

fn counts(value: &Value, measures: &mut Measures) -> Option<()> {
    let given = value.get("counts")?.as_array()?;
    let ours = measures.counts_mut();
    if given.len() != ours.len() {
        return None;
    }
    for (ours, given) in ours.into_iter().zip(given) {
        *ours = count_of(given)?;
    }
    let three = |value: &Value| -> Option<(Phase, Value, u64)> {
        let [phase, what, count] = <&[Value; 3]>::try_from(&value.as_array()?[..]).ok()?;
        let (phase, _) = Phase::ALL.into_iter().find(|(_, name)| phase == name)?;
        Some((phase, what.clone(), count_of(count)?))
    };
    for reply in value.get("replies")?.as_array()? {
        let (phase, code, count) = three(reply)?;
        let code = u16::try_from(code.as_u64()?).ok().filter(|code| (200..600).contains(code))?;
        measures.codes(phase, code, count);
    }
    for error in value.get("errors")?.as_array()? {
        let (phase, kind, count) = three(error)?;
        let (kind, _) = Kind::ALL.into_iter().find(|(_, name)| kind == *name)?;
        measures.errors_of(phase, kind, count);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::search::LatencyAt;

    fn source() -> Source {
        let second = Duration::from_secs(1);
        Source { host: 2, cores: 4..6, interval: second, elapsed: 5 * second }
    }

    fn piece() -> Piece {
        let ms = Duration::from_millis;
        let mut measures = Measures::new();
        (1..=500).for_each(|n| measures.actual.record(ms(n)));
        measures.time(Phase::Mail, Duration::from_nanos(123_456));
        measures.code(Phase::Rcpt, 550);
        measures.error(Phase::Rcpt, Kind::Permanent);
        measures.counts_mut().into_iter().enumerate().for_each(|(n, count)| *count = n as u64);
        measures.took = ms(4_900);
        measures.greeted(b"mx.test");
        measures.cores.push(CoreUse { host: 0, core: 1, cpu: ms(900), share: 0.5 });
        let now = vec![Now { host: 0, core: 1, share: 0.25, open: 7, busy: 3 }];
        Piece { source: 5, index: 4, since: ms(4_000), until: ms(5_000), now, measures }
    }

    #[test]
    fn nothing_is_lost_between_hosts() {
        let ours = piece();
        let text = encode(&ours, true).to_string();
        let value = serde_json::from_str(&text).unwrap();
        let (theirs, last) = decode(&value, &source()).unwrap();
        assert!(last);
        assert_eq!((theirs.source, theirs.index), (5, 4));
        assert_eq!(theirs.now, [Now { host: 2, core: 1, share: 0.25, open: 7, busy: 3 }]);
        let spent = CoreUse { host: 2, core: 1, cpu: Duration::from_millis(900), share: 0.5 };
        assert_eq!(theirs.measures.cores, [spent]);
        for ((_, a), (name, b)) in ours.measures.times().zip(theirs.measures.times()) {
            assert_eq!(a.count(), b.count(), "{name}");
            for at in [0.0, 0.1, 0.5, 0.99, 1.0] {
                assert_eq!(a.at(at), b.at(at), "{name}");
            }
        }
        assert_eq!(ours.measures.counts(), theirs.measures.counts());
        assert_eq!(theirs.measures.replies().collect::<Vec<_>>(), [("rcpt", 550, 1)]);
        assert_eq!(theirs.measures.errors().collect::<Vec<_>>(), [("rcpt", "5xx", 1)]);
        assert_eq!(theirs.measures.greeting.as_deref(), Some("mx.test"));
    }

    #[test]
    fn nothing_that_cannot_be_is_believed() {
        let good = encode(&piece(), true);
        let many = json!([[1, COUNT_MAX + 1]]);
        for (name, lie) in [
            ("core", json!(6)),
            ("core", json!(3)),
            ("core", json!(u64::MAX)),
            ("index", json!(8)),
            ("until_ns", json!(8_000_000_000u64)),
            ("until_ns", json!(1)),
            ("took_ns", json!(u64::MAX)),
            ("now", json!([f64::MAX, 1, 1])),
            ("now", json!([0.5, 1])),
            ("now", json!([0.5, COUNT_MAX + 1, 1])),
            ("spent", Value::Null),
            ("spent", json!([u64::MAX, 0.5])),
            ("counts", json!([1, 2])),
            ("counts", json!([u64::MAX, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("times", json!({ "actual": many })),
            ("times", json!({ "nothing": [[1, 1]] })),
            ("times", json!({ "actual": [[1]] })),
            ("replies", json!([["rcpt", 199, 1]])),
            ("replies", json!([["lunch", 250, 1]])),
            ("errors", json!([["rcpt", "sad", 1]])),
            ("greeting", json!("x".repeat(TEXT_BYTES_MAX + 1))),
            ("tls", json!(5)),
            ("last", json!("yes")),
        ] {
            let mut bad = good.clone();
            bad[name] = lie;
            assert!(decode(&bad, &source()).is_none(), "{name}: {}", bad[name]);
            bad.as_object_mut().unwrap().remove(name);
            assert!(decode(&bad, &source()).is_none(), "no {name}");
        }
        for garbage in [Value::Null, json!(1), json!([]), json!({})] {
            assert!(decode(&garbage, &source()).is_none());
        }
        assert!(decode(&good, &source()).is_some());
    }
}
