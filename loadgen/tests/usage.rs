//! Wrong command lines, and targets that are no mail server: what a person is told.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod common;

use std::io::Write as _;
use std::net::TcpListener;

use common::{figure, loadgen, text};

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
