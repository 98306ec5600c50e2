//! The page of a run with everything in it, and with hostile texts.

use std::time::Duration;

use clap::Parser;

use super::html::page;
use super::{Outcome, Server};
use crate::send::gather::{Row, Series, Spread};
use crate::send::measure::{CoreUse, Kind, Measures, Phase};
use crate::send::plan::{Options, Plan};

const HOSTILE: &str = "mx\"><script src='http://x.test/'>alert(1)</script>\u{1b}[2J&amp;";

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn plan(flags: &str) -> Plan {
    let words = ["send", "--target", "127.0.0.1:25"].into_iter().chain(flags.split_whitespace());
    Plan::new(Line::try_parse_from(words).unwrap().options).unwrap()
}

fn outcome(rows: usize, greeting: &str) -> Outcome {
    let ms = Duration::from_millis;
    let mut measures = Measures::new();
    for n in 1..=1_000 {
        measures.intended.record(ms(n));
        measures.actual.record(ms(n / 2 + 1));
    }
    (measures.due, measures.begun, measures.acknowledged) = (1_003, 1_001, 1_000);
    measures.took = Duration::from_secs(4);
    measures.time(Phase::Mail, ms(7));
    measures.code(Phase::Rcpt, 451);
    measures.error(Phase::Rcpt, Kind::Transient);
    measures.cores = vec![CoreUse { host: 0, core: 0, cpu: ms(1_234), share: 0.31 }];
    measures.tls = Some("TLSv1_3 SUITE GROUP".into());
    measures.greeted(greeting.as_bytes());
    let spread = Spread { p50: ms(3), p99: ms(40), max: ms(500) };
    let row = |n: usize| Row {
        until: ms(1_000 * (n as u64 + 1)),
        length: ms(1_000),
        due: 300,
        begun: 250,
        acknowledged: 250,
        errors: 0,
        open: 32,
        busy: 5,
        share: 0.31,
        intended: (n % 7 != 3).then_some(spread),
        actual: Some(spread),
    };
    let rows = (0..rows).map(row).collect();
    let series = Series { interval: ms(1_000), rows, left_out: 0 };
    let server = Some(Server { cpu: ms(77), rss: 5 << 20, rss_peak: 6 << 20 });
    Outcome { measures, server, interrupted: false, series, failed: Vec::new() }
}

/// Every element that is opened is closed, in order; says the names of all.
fn elements(page: &str) -> Vec<&str> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, behind) = tag.split_once('>').unwrap();
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{page}");
        } else {
            let name = tag.split([' ', '/']).next().unwrap();
            seen.push(name);
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    assert_eq!(open, [""; 0]);
    seen
}

#[test]
fn the_page_has_the_figures_and_loads_nothing() {
    let flags = "--rate 250 --duration 4s --threshold p99<2s --threshold rate>9999";
    let page = page(&plan(flags), &outcome(4, "220 mx.test ESMTP"), None, false);
    let seen = elements(&page);
    assert_eq!(seen.iter().filter(|name| **name == "svg").count(), 3);
    assert_eq!(seen.iter().filter(|name| **name == "path").count(), 3 + 3 + 2);
    for part in [
        "<b>failed</b>",
        "<td>p99&lt;2s</td><td>held</td>",
        "<td>rate&gt;9999</td><td>missed</td>",
        "<b>250</b> messages per second",
        "<b>1000</b> acknowledged",
        "<b>77.0 us</b> server's CPU per message",
        "<td>mail</td><td>1</td><td>7.",
        "<td>rcpt</td><td>4xx</td><td>1</td>",
        "<td>rcpt</td><td>451</td><td>1</td>",
        "<td>0</td><td>31.0 %</td><td>1.234 s</td>",
        "TLSv1_3 SUITE GROUP",
        "220 mx.test ESMTP",
        "open loop, 250/s for 4 s",
        "generator&#39;s kernel",
        "99.9 %",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    for load in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(load), "{load}");
    }
}

#[test]
fn hostile_texts_are_only_text() {
    let mut plan = plan("--messages 5");
    plan.options.target = format!("{HOSTILE}:25");
    let page = page(&plan, &outcome(1, HOSTILE), None, true);
    let seen = elements(&page);
    assert!(!seen.contains(&"script"), "{page}");
    assert!(page.contains("&lt;script src=&#39;http://x.test/&#39;&gt;"));
    assert!(page.contains("&amp;amp;") && !page.contains('\u{1b}'));
}

#[test]
fn a_generator_that_was_too_busy_has_a_page_without_latencies() {
    let mut busy = outcome(2, "x");
    busy.measures.cores[0].share = 0.95;
    let page = page(&plan(""), &busy, None, true);
    assert_eq!(elements(&page).iter().filter(|name| **name == "svg").count(), 1);
    assert!(page.contains("Latencies are refused") && !page.contains("p99"), "{page}");
}

/// Why latencies are refused, with figures that were fed.
fn refused(flags: &str, share: f64, slip: Duration) -> Option<String> {
    let plan = plan(flags);
    let mut outcome = outcome(2, "x");
    outcome.measures.cores[0].share = share;
    // Two of a hundred and two: more than 1 % of the messages.
    (0..100).for_each(|_| outcome.measures.slip.record(Duration::from_micros(50)));
    (0..2).for_each(|_| outcome.measures.slip.record(slip));
    let why = outcome.bottleneck(&plan);
    let document = super::json::document(&plan, &outcome, None);
    let lines = super::text(&plan, &outcome).join("\n");
    let none = why.is_some();
    assert_eq!(document["latencies"].is_null(), none);
    assert_eq!(document["latencies_refused"].is_string(), none);
    assert!(document["series"][0]["actual"].is_null() == none, "{document}");
    assert_eq!(lines.contains("_p99 "), !none, "{lines}");
    assert_eq!(lines.contains("phase mail"), !none, "{lines}");
    let held = |text: &str| outcome.holds(&plan, &text.parse().unwrap());
    assert_eq!(held("p99<1h"), !none, "no threshold about latencies holds");
    assert!(held("rate>1") && held("errors<1%"), "those about other figures do");
    why
}

#[test]
fn percentiles_are_refused_when_the_generator_was_the_bottleneck() {
    let ms = Duration::from_millis;
    assert_eq!(refused("", 0.90, ms(1)), None);
    let why = refused("", 0.91, ms(1)).unwrap();
    assert!(why.contains("busy for 91 %") && why.contains("--cores"), "{why}");
    assert_eq!(refused("", 0.5, ms(19)), None);
    let why = refused("", 0.5, ms(21)).unwrap();
    assert!(why.contains("more than 20000 us late"), "{why}");
    assert_eq!(refused("--slip-max 30ms", 0.5, ms(21)), None);
    assert!(refused("--slip-max 1ms", 0.5, ms(2)).is_some());
}

#[test]
fn a_long_run_has_no_more_points_than_can_be_told_apart() {
    let page = page(&plan(""), &outcome(86_400, "x"), None, true);
    assert!(page.len() < 200_000, "{}", page.len());
}
