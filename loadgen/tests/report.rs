//! What `loadgen send` writes of a run, against a sink: documents, rows, raw histograms.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use common::{Sink, figure, loadgen, schema, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../schema.json");

#[test]
fn the_document_of_a_run_follows_the_schema_and_the_rows_add_up() {
    let sink = Sink::start(&["--rule", "*: 451=10%"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, csv, hdr) = (file("a.json"), file("a.csv"), file("a.hlog"));
    let flags = ["send", "--target", &sink.address, "--rate", "200", "--duration", "1s"];
    let html = file("a.html");
    let files = ["--json", &json, "--csv", &csv, "--hdr", &hdr, "--html", &html];
    let more =
        ["--interval", "250ms", "--cores", "2", "--connections", "4", "--threshold", "errors<50%"];
    let output = loadgen(&[&flags[..], &files, &more].concat());
    assert!(output.status.success(), "{}", text(&output));
    sink.end();

    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(schema::check(&schema, &document), [""; 0]);
    let rows = document["series"].as_array().unwrap();
    // A machine that stalls has fewer and longer ones.
    assert!((2..=8).contains(&rows.len()), "{rows:?}");
    let messages = &document["messages"];
    assert_eq!((&messages["due"], &messages["begun"]), (&json!(200), &json!(200)));
    for name in ["due", "begun", "acknowledged"] {
        let sum: u64 = rows.iter().map(|row| row[name].as_u64().unwrap()).sum();
        assert_eq!(json!(sum), messages[name], "{name}");
    }
    let errors: u64 = rows.iter().map(|row| row["errors"].as_u64().unwrap()).sum();
    assert_eq!(json!(errors), document["errors_count"]);
    assert!(rows.iter().any(|row| row["connections"] == 4), "{rows:?}");
    assert_eq!(document["plan"]["load"], "open loop, 200/s for 1 s");

    let csv = fs::read_to_string(&csv).unwrap();
    assert_eq!(csv.lines().count(), rows.len() + 1, "{csv}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<b>passed</b>") && page.contains("</html>"), "{page}");
    let hdr = fs::read_to_string(&hdr).unwrap();
    for tag in ["intended", "actual", "connect", "mail", "message"] {
        assert!(hdr.contains(&format!("\nTag={tag},")), "{tag}");
    }
}

#[test]
fn documents_of_runs_that_went_otherwise_follow_the_schema_too() {
    let (sink, bad) =
        (Sink::start(&["--tls", "starttls"]), Sink::start(&["--rule", "*: 550=100%"]));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html, csv) = (file("a.json"), file("a.html"), file("a.csv"));
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for (target, flags, code) in [
        // A core that is late with every message: no latencies.
        (&sink.address, "--rate 100 --duration 300ms --slip-max 0s --tls starttls", 0),
        (&sink.address, "--find-max p99<9s --rate 20 --duration 400ms --threshold rate<45", 0),
        (&sink.address, "--find-max p99<1us --rate 1 --duration 200ms", 1),
        (&bad.address, "--messages 3 --connections 1", 1),
        (&"127.0.0.1:1".to_owned(), "--messages 3 --connections 1", 1),
        (&sink.address, "--rate 0 --duration 200ms", 1),
    ] {
        let files = ["-q", "--json", &json, "--html", &html];
        let words = ["send", "--target", target].into_iter().chain(flags.split(' ')).chain(files);
        let output = loadgen(&words.collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(code), "{flags}: {}", text(&output));
        let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        assert_eq!(schema::check(&schema, &document), [""; 0], "{flags}");
        let page = fs::read_to_string(&html).unwrap();
        let word = if code == 0 { "<b>passed</b>" } else { "<b>failed</b>" };
        assert!(page.contains(word) && page.ends_with("</html>\n"), "{flags}: {page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{flags}: {page}");
    }
    // Nothing is sent: a file of rows has its head.
    let none = ["--rate", "0", "--duration", "200ms", "-q", "--csv", &csv];
    loadgen(&[&["send", "--target", &sink.address], &none[..]].concat());
    assert!(fs::read_to_string(&csv).unwrap().starts_with("time_s,"));
    let seen = [sink.end(), bad.end()];
    assert!(figure(&seen[1], "refusal 550") >= 3, "{seen:?}");
}

#[test]
fn what_does_not_follow_the_schema_is_found() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let wrong = schema::check(&schema, &json!({ "layout": 2, "cores": "1", "server": {} }));
    for sentence in [
        "/layout: not 1",
        "/cores: \"1\" is no \"integer\"",
        "/server/cpu_us is missing",
        "/series is missing",
    ] {
        assert!(wrong.iter().any(|one| one == sentence), "{sentence}: {wrong:?}");
    }
}

#[test]
fn a_pipe_gets_a_line_for_each_interval_and_a_signal_gets_what_was_measured() {
    let sink = Sink::start(&[]);
    let flags = ["send", "--target", &sink.address, "--duration", "60s", "--interval", "100ms"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let command = command.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: Vec<_> = lines.by_ref().take(2).map(Result::unwrap).collect();
    assert!(first.iter().all(|line| line.contains("in flight")), "{first:?}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success(), "{out}");
    assert!(out.contains("\ninterrupted 1 signal"), "{out}");
    let seen = sink.end();
    assert_eq!(figure(&out, "messages"), figure(&seen, "messages"), "{out}");
}

#[test]
fn quiet_says_nothing_while_it_runs() {
    let sink = Sink::start(&[]);
    let flags = ["send", "--target", &sink.address, "--messages", "200", "--interval", "100ms"];
    let output = loadgen(&[&flags[..], &["--quiet"]].concat());
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
}

#[test]
fn runs_are_compared_with_runs_and_other_plans_are_not() {
    let sink = Sink::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let send = |size: &str, name: &str| {
        let path = file(name);
        let flags = ["send", "--target", &sink.address, "--messages", "40", "--size", size];
        let output = loadgen(&[&flags[..], &["-q", "--json", &path]].concat());
        assert!(output.status.success(), "{}", text(&output));
        path
    };
    let (real, other) = (send("4k", "real"), send("1k", "other"));
    // The same run with other rates: what is compared does not depend on this machine's mood.
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&real).unwrap()).unwrap();
    let mut runs = |rates: [u32; 3]| {
        rates.map(|rate| {
            document["rate"] = json!(f64::from(rate));
            let path = file(&rate.to_string());
            fs::write(&path, document.to_string()).unwrap();
            path
        })
    };
    let (a, b) = (runs([990, 1_000, 1_010]), runs([895, 900, 905]));
    let compare = |a: &[String], b: &[String]| {
        let words = ["compare".to_owned(), "--a".into()].into_iter().chain(a.iter().cloned());
        let words: Vec<_> = words.chain(["--b".to_owned()]).chain(b.iter().cloned()).collect();
        loadgen(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let worse = compare(&a, &b);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse));
    let rate = text(&worse).lines().find(|line| line.starts_with("rate ")).map(str::to_owned);
    assert!(rate.as_ref().is_some_and(|line| line.ends_with("  worse")), "{rate:?}");
    assert_eq!(compare(&b, &a).status.code(), Some(0));
    let unlike = compare(&a, std::slice::from_ref(&other));
    assert_eq!(unlike.status.code(), Some(2));
    assert!(text(&unlike).contains("size is \"4096\" and \"1024\""), "{}", text(&unlike));
    let few = loadgen(&["compare", &a[0], &b[0]]);
    assert_eq!(few.status.code(), Some(2), "{}", text(&few));
    let borne = ["--tolerance", "20", "--a", &a[0], &a[1], &a[2], "--b", &b[0], &b[1], &b[2]];
    assert_eq!(loadgen(&[&["compare"], &borne[..]].concat()).status.code(), Some(0));
    assert_eq!(loadgen(&["compare", "--a", &a[0]]).status.code(), Some(2));
}

#[test]
fn a_sink_takes_mail_under_tls_and_the_document_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json").to_str().unwrap().to_owned();
    for mode in ["starttls", "implicit"] {
        let sink = Sink::start(&["--tls", mode]);
        let flags = ["--messages", "30", "--connections", "3", "-q", "--json", &json];
        let more = ["--tls", mode, "--messages-per-connection", "5", "--size", "1k..40k"];
        let send = ["send", "--target", &sink.address];
        for (resume, group) in [("0", "x25519"), ("1", "x25519mlkem768")] {
            let last = ["--resume", resume, "--group", group];
            let output = loadgen(&[&send[..], &flags, &more, &last].concat());
            assert!(output.status.success(), "{mode}: {}", text(&output));
            let resumed = figure(&text(&output), "handshakes_resumed");
            assert_eq!(resumed > 0, resume == "1", "{mode}: {}", text(&output));
            let document: Value =
                serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
            let tls = document["tls"].as_str().unwrap();
            assert!(tls.starts_with("TLSv1_3 TLS13_") && tls.contains("X25519"), "{tls}");
        }
        let clear = loadgen(&[&send[..], &["--messages", "1", "-q", "--timeout", "2s"]].concat());
        assert_eq!(clear.status.success(), mode == "starttls", "{mode}: {}", text(&clear));
        let seen = sink.end();
        assert_eq!(figure(&seen, "messages"), 60 + u64::from(mode == "starttls"), "{seen}");
        assert!(figure(&seen, "handshakes") >= 12, "{seen}");
    }
}
