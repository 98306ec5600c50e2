//! Words and arithmetic, with invented measurements. A real run: `tests/wire/tests/plan.rs`.

use super::sum::Measured;
use super::*;

fn ask() -> Ask {
    Ask {
        rate: 1000.0,
        size: 20 << 10,
        tls: true,
        recipients: 1,
        keep: 10,
        connections: 0,
        retention: 0,
        seconds: 60,
    }
}

/// 100 µs, 24,000 bytes written, 22,000 in, 1,000 out and a tenth of a flush for each of 10,000.
fn measured() -> Measured {
    Measured {
        processors: 2,
        memory_bytes: 4 << 30,
        disk_free_bytes: 100_000_000_000,
        file_system: "ext4".to_owned(),
        network_bits: Some(1_000_000_000),
        sync_s: 0.001,
        sequential_bytes_s: 500e6,
        load_s: 10.0,
        load_connections: 32,
        messages: 10_000,
        opened: 1000,
        cpu_s: 1.0,
        sent_bytes: 220_000_000,
        received_bytes: 10_000_000,
        written_bytes: 240_000_000,
        flushes: Some(1000),
        resident_bytes: 100 << 20,
        idle_connections: 1000,
        idle_bytes: 12_000,
        idle_kernel_bytes: 4000,
    }
}

fn rate_of(sum: &Sum, resource: &str) -> f64 {
    sum.limits.iter().find(|limit| limit.resource == resource).unwrap().rate.round()
}

#[test]
fn rates_and_sizes_are_read() {
    for (text, expected) in [
        ("50k/s", 50_000.0),
        ("200", 200.0),
        ("1.5k", 1500.0),
        ("2m/s", 2_000_000.0),
        ("6k/m", 100.0),
        ("36k/h", 10.0),
        ("864K/d", 10.0),
    ] {
        assert_eq!(rate(text), Ok(expected), "{text}");
    }
    for text in ["", "/s", "k/s", "0", "-1", "inf", "nan", "1e3", "5/w", "5g/s", "5/s/s", "9999m/s"]
    {
        assert!(rate(text).is_err(), "{text}");
    }
    assert_eq!((size("20k"), size("4096"), size("1M")), (Ok(20 << 10), Ok(4096), Ok(1 << 20)));
    for text in ["", "k", "-1", "20kb", "99", "11m", "99999999999999999999", "99999999999999999m"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    let parse = |line: &str| {
        let words = format!("fsmtp-engine {line}");
        args::parse(words.split(' ').map(Into::into)).map(|line| line.command)
    };
    let typed = parse("plan --rate 50k/s --size 20k --tls --keep 3 --data d --json").unwrap();
    let args::Command::Plan(typed) = typed else { panic!("it is a plan") };
    let ask = Ask::from(&typed);
    assert_eq!((ask.rate, ask.size, ask.tls), (50_000.0, 20 << 10, true));
    assert_eq!((ask.keep, ask.recipients, ask.seconds), (3, 1, 60));
    for line in [
        "plan",
        "plan --rate 1/s",
        "plan --size 20k",
        "plan --rate fast --size 20k",
        "plan --rate 1/s --size big",
        "plan --rate 1/s --size 20k --recipients 0",
        "plan --rate 1/s --size 20k --recipients 101",
        "plan --rate 1/s --size 20k --keep 0",
        "plan --rate 1/s --size 20k --seconds 2",
        "plan --rate 1/s --size 20k --cores 2",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn what_is_needed_is_the_cost_times_the_rate() {
    let ask = Ask { rate: 50_000.0, connections: 10_000, retention: 7, ..ask() };
    let Sum { needed, suffices, .. } = Sum::new(ask, measured());
    // 5 seconds in each second, of which 60 % may be used.
    assert_eq!(needed.processors, 9);
    // 100 MiB of two shards, for nine; 16,000 bytes for each connection.
    assert_eq!(needed.memory_bytes, (100 << 20) * 9 / 2 + 160_000_000);
    assert_eq!(needed.disk_bytes_s.round(), 1.2e9);
    assert_eq!(needed.flushes_s.map(f64::round), Some(5000.0));
    // A kibibyte and 5 % more than the message.
    let day = 50_000.0 * 86_400.0 * (21.0 * 1024.0 * 1.05);
    assert_eq!(needed.day_bytes.round(), f64::round(day));
    assert_eq!(needed.kept_bytes.round(), f64::round(day * 7.0));
    assert_eq!(needed.network_in_bits.round(), 50_000.0 * 22_000.0 * 8.0 * 1.05);
    assert!(!suffices);
}

#[test]
fn the_bottleneck_is_what_ends_first() {
    let sum = Sum::new(ask(), measured());
    // 1 Gbit/s of 22,000 bytes each; a flush a millisecond, ten messages each.
    assert_eq!(rate_of(&sum, "network"), (0.6e9_f64 / (22_000.0 * 8.0 * 1.05)).round());
    assert_eq!(rate_of(&sum, "disk flushes"), 6000.0);
    assert_eq!(rate_of(&sum, "processors"), 12_000.0);
    assert_eq!(rate_of(&sum, "disk writes"), (0.6_f64 * 500e6 / 24_000.0).round());
    assert!(sum.limits.is_sorted_by(|a, b| a.rate <= b.rate));
    assert_eq!((sum.bottleneck, sum.suffices), ("network", true));
    type Change = fn(&mut Ask, &mut Measured);
    let cases: [(Change, &str, bool); 6] = [
        (|_, m| m.cpu_s = 100.0, "processors", false),
        (|a, m| (a.rate, m.sequential_bytes_s) = (2000.0, 20e6), "disk writes", false),
        (|a, m| (a.rate, m.sync_s) = (2000.0, 0.01), "disk flushes", false),
        (|a, _| a.retention = 365, "disk space", false),
        (|a, _| a.connections = 1_000_000, "memory", false),
        (|_, m| (m.network_bits, m.flushes) = (None, None), "processors", true),
    ];
    for (change, bottleneck, suffices) in cases {
        let (mut ask, mut measured) = (ask(), measured());
        change(&mut ask, &mut measured);
        let sum = Sum::new(ask, measured);
        assert_eq!((sum.bottleneck, sum.suffices), (bottleneck, suffices), "{:?}", sum.limits);
    }
}

#[test]
fn connections_that_did_not_show_are_not_free() {
    let ask = Ask { connections: 1_000_000, ..ask() };
    let sum = Sum::new(ask, Measured { idle_bytes: 0, ..measured() });
    assert_eq!((sum.bottleneck, sum.suffices), ("memory", false));
    assert!(sum.to_string().contains("  an idle connection takes 20.0 KiB: "));
}

#[test]
fn a_disk_can_do_what_it_did() {
    // Ten flushes a second before the load, and a hundred under it.
    let sum = Sum::new(ask(), Measured { sync_s: 0.1, ..measured() });
    assert_eq!(rate_of(&sum, "disk flushes"), 1000.0);
    let sum = Sum::new(ask(), Measured { sequential_bytes_s: 1e6, ..measured() });
    assert_eq!(rate_of(&sum, "disk writes"), 1000.0);
}

#[test]
fn the_report_keeps_what_was_measured_from_what_is_assumed() {
    let ask = Ask { rate: 50_000.0, connections: 10_000, retention: 7, ..ask() };
    let sum = Sum::new(ask, measured());
    let text = sum.to_string();
    for line in [
        "asked: 50,000/s of 20.0 KiB, recipients 1, STARTTLS, messages for each connection 10",
        "measured here, 10,000 in 10.0 s",
        "  CPU for a message     100.0 µs",
        "  messages for a flush  10.0",
        "  an idle connection    11.7 KiB, kernel 3.9 KiB, of 1,000",
        "assumed",
        "  10,000 idle connections take for each what 1,000 took",
        "needed",
        "  processors            9",
        "  network               9.2 Gbit/s in, 420 Mbit/s out",
        "this machine lasts up to",
        "this machine does not suffice; bottleneck: disk space",
    ] {
        assert!(text.lines().any(|said| said == line), "{line:?} is not in\n{text}");
    }
    let place = |word: &str| text.find(&format!("\n{word}")).unwrap();
    assert!(place("measured") < place("assumed") && place("assumed") < place("needed"));
    let json = serde_json::json!(sum);
    assert_eq!(json["needed"]["processors"], 9);
    assert_eq!(json["bottleneck"], "disk space");
}
