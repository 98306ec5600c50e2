//! Wrong command lines, and targets that are no mail server: what a person is told.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod common;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use common::{Sink, figure, loadgen, text};

#[test]
fn wrong_words_have_status_2_and_the_nearest_right_one_is_named() {
    let target = ["send", "--target", "127.0.0.1:9"];
    for (words, right) in [
        (&["sned"][..], "send"),
        (&["compere"], "compare"),
        (&["send", "--targt", "127.0.0.1:9"], "--target"),
        (&[target[0], target[1], target[2], "--conections", "5"], "--connections"),
        (&[target[0], target[1], target[2], "--theshold", "p99<1s"], "--threshold"),
        (&[target[0], target[1], target[2], "--tls", "startls"], "starttls"),
        (&[target[0], target[1], target[2], "--arrivals", "poison"], "poisson"),
        (&["sink", "--liste", "127.0.0.1:0"], "--listen"),
        (&["agent", "--token", "x"], "--token-file"),
    ] {
        let output = loadgen(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = text(&output);
        assert!(said.contains("similar") && said.contains(right), "{words:?}: {said}");
    }
    for (words, why) in [
        (&["--duration", "10 days"][..], "write 250ms, 10s or 2m"),
        (&["--size", "big"], "write 4096, 64k or 1m"),
        (&["--rate", "fast"], "write 500 or 500/s"),
        (&["--threshold", "p99=5"], "write p99<50ms"),
        (&["--messages", "5", "--rate", "5"], "cannot be used with"),
        (&["--connections", "0"], "--connections is 1 to"),
        (&["--agents", "a:1"], "--token-file"),
    ] {
        let output = loadgen(&[&target, words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output).contains(why), "{words:?}: {}", text(&output));
    }
}

#[test]
fn what_cannot_be_read_or_written_is_said_before_anything_is_sent() {
    let sink = Sink::start(&[]);
    for words in [
        ["--corpus", "/nonexistent"],
        ["--server-pid", "4194305"],
        ["--json", "/nonexistent/a"],
        ["--html", "/nonexistent/a"],
        ["--csv", "/nonexistent/a"],
        ["--ledger", "/nonexistent/a"],
    ] {
        let target = ["send", "--target", &sink.address, "--messages", "5", "-q"];
        let output = loadgen(&[&target, &words[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?} {}", text(&output));
        assert!(!text(&output).contains("acknowledged"), "{words:?} {}", text(&output));
    }
    sink.end();
}

#[test]
fn every_kind_of_load_asks_whose_host_it_is() {
    for words in [
        &["send", "--messages", "1"][..],
        &["idle", "--connections", "1"],
        &["big", "--connections", "1"],
        &["pop3"],
        &["handshakes", "--tls", "implicit"],
    ] {
        let output = loadgen(&[words, &["--target", "192.0.2.1:25"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output).contains("--i-own-this-host 192.0.2.1"), "{words:?}");
    }
    let flags = ["--tls", "implicit", "--target", "127.0.0.1:9", "--clear", "192.0.2.1:25"];
    let output = loadgen(&[&["handshakes"], &flags[..]].concat());
    assert!(text(&output).contains("--i-own-this-host 192.0.2.1"));
}

#[test]
fn who_has_gone_from_the_other_end_of_a_pipe_is_no_panic() {
    let sink = Sink::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json").to_str().unwrap().to_owned();
    let html = folder.path().join("a.html").to_str().unwrap().to_owned();
    let gone = || std::io::pipe().unwrap().1;
    let send = ["send", "--target", &sink.address];
    let files = ["--json", &json, "--html", &html];
    let rows = ["--rate", "100", "--duration", "500ms", "--interval", "100ms"];
    let send_rows = [&send[..], &rows, &files].concat();
    let status = |words: &[&str], out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(words).stdout(out).stderr(gone()).status().unwrap().code()
    };
    // What was measured is written, though nobody listens.
    assert_eq!(status(&send_rows, Stdio::null()), Some(0));
    assert!(std::fs::read_to_string(&html).unwrap().contains("<b>passed</b>"));
    for (words, code) in [
        (&[&send[..], &["--messages", "5"], &files].concat()[..], 1),
        (&["sink", "--listen", "127.0.0.1:0", "--duration", "100ms"], 1),
        (&["compare", "--force", "--a", &json, &json, &json, "--b", &json, &json, &json], 2),
        (&["compare", "/nonexistent", "/nonexistent"], 2),
        (&["verify", "--ledger", "/dev/null", "--sink", "/dev/null"], 1),
        (&["idle", "--target", &sink.address, "--connections", "1"], 1),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        let output = command.args(words).stdout(gone()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?} {}", text(&output));
        assert!(!text(&output).contains("panicked"), "{words:?} {}", text(&output));
        assert_eq!(status(words, gone().into()), Some(code), "{words:?}");
    }
    assert!(std::fs::read_to_string(&json).unwrap().contains("\"acknowledged\": 5"));
    assert!(std::fs::read_to_string(&html).unwrap().contains("<b>passed</b>"));
    sink.end();
}

#[test]
fn a_target_that_is_no_mail_server_is_told_by_kind() {
    for (greeting, kind) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "not_smtp"), (b"", "dropped")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                listener.accept().unwrap().0.write_all(greeting).unwrap();
            }
        });
        let flags = ["--messages", "2", "--connections", "1", "-q"];
        let output = loadgen(&[&["send", "--target", &target], &flags[..]].concat());
        server.join().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(
            (figure(&said, "messages"), figure(&said, &format!("error banner {kind}"))),
            (0, 2)
        );
        assert!(said.contains("no message was acknowledged"), "{said}");
    }
}
