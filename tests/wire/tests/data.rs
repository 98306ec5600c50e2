//! What happens to the bytes of a message: end of data, smuggling, SIZE, BDAT, dots and 8 bits.

use wire_tests::mail::{message, stuffed, trace, trace_only};
use wire_tests::{DEMO, Engine, Smtp};

/// SIZE of the engine when nothing is configured.
const SIZE: usize = 10_485_760;

fn into_data(smtp: &mut Smtp) {
    for (line, code) in
        [("MAIL FROM:<a@sender.test>", 250), ("RCPT TO:<demo@example.test>", 250), ("DATA", 354)]
    {
        let reply = smtp.command(line).expect(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
    }
}

/// What the demo account holds, each checked for its trace headers; empties it.
fn take_all(engine: &Engine) -> Vec<Vec<u8>> {
    let mut pop = engine.pop().expect("sign in");
    let (count, _) = pop.stat().expect("STAT");
    let all = (1..=count)
        .map(|n| {
            let stored = pop.message(n).expect("RETR");
            assert!(pop.command(&format!("DELE {n}")).expect("DELE").starts_with("+OK"));
            stored
        })
        .collect();
    pop.quit().expect("QUIT");
    all
}

#[test]
fn what_ends_the_data_and_what_only_looks_like_it() {
    let engine = Engine::start().unwrap();
    // Wire, then what is stored (none: refused), as the table of the design says.
    let rows: [(&[u8], Option<&[u8]>); 9] = [
        (b".\r\n", Some(b"")),
        (b"..\r\n.\r\n", Some(b".\r\n")),
        (b"a\r\n..b\r\n.\r\n", Some(b"a\r\n.b\r\n")),
        (b"hi\r\n.\r\r\n.\r\n", None),
        (b"hi\n.\r\n\r\n.\r\n", None),
        (b"hi\n.\n\r\n.\r\n", None),
        (b"hi\r.\r\n.\r\n", None),
        (b"hi\r\n.\nMAIL FROM:<x@y.test>\r\n.\r\n", None),
        (b"hi\n.\nRCPT TO:<demo@example.test>\r\n.\r\n", None),
    ];
    for (wire, stored) in rows {
        let mut smtp = engine.smtp().unwrap();
        into_data(&mut smtp);
        smtp.send(&[wire, b"NOOP\r\nQUIT\r\n"].concat()).unwrap();
        let reply = smtp.reply().unwrap();
        let shown = String::from_utf8_lossy(wire);
        assert_eq!(reply.code / 100, if stored.is_some() { 2 } else { 5 }, "{shown:?}: {reply:?}");
        assert_eq!(smtp.reply().unwrap().code, 250, "in step after {shown:?}");
        assert_eq!(smtp.reply().unwrap().code, 221, "in step after {shown:?}");
        let found = take_all(&engine);
        assert_eq!(found.len(), usize::from(stored.is_some()), "{shown:?}");
        for (found, stored) in found.iter().zip(stored) {
            let head = trace(found, stored).unwrap();
            assert!(head.starts_with(b"Return-Path: <a@sender.test>\r\n"), "{shown:?}");
        }
    }
}

#[test]
fn a_dot_after_a_bare_line_feed_does_not_end_the_data() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    into_data(&mut smtp);
    smtp.send(b"hi\n.\r\n").unwrap();
    let quick = std::time::Duration::from_millis(300);
    smtp.socket().set_read_timeout(Some(quick)).unwrap();
    assert!(smtp.reply().is_err(), "the data has not ended");
    smtp.socket().set_read_timeout(Some(wire_tests::PATIENCE)).unwrap();
    smtp.send(b"\r\n.\r\n").unwrap();
    assert_eq!(smtp.reply().unwrap().code / 100, 5);
    assert_eq!(take_all(&engine).len(), 0);
}

#[test]
fn content_comes_back_byte_for_byte() {
    let engine = Engine::start().unwrap();
    let every_octet: Vec<u8> =
        (0..=255).filter(|b| !b"\r\n".contains(b)).cycle().take(20_000).collect();
    let mut contents: Vec<Vec<u8>> = (0..20).map(|n| message(3, n, 50 << (n / 2))).collect();
    contents.push([b"X-A: b\r\n\r\n", &*every_octet, b"\r\n"].concat());
    contents.push([b"X-A: b\r\n\r\n".as_slice(), &b"x".repeat(1 << 20), b"\r\n"].concat());
    contents.push(b"no header at all\r\n".to_vec());
    contents.push("Subject: \u{e9}\u{4f60}\r\n\r\n\u{1f4ee}\r\n".as_bytes().to_vec());
    let mut smtp = engine.smtp().unwrap();
    for content in &contents {
        let reply = smtp.mail("a@sender.test", &[DEMO], content).unwrap();
        assert!(reply.is(250, "2.6.0"), "{reply:?}");
    }
    let found = take_all(&engine);
    assert_eq!(found.len(), contents.len());
    for (stored, sent) in found.iter().zip(&contents) {
        let head = trace(stored, sent).unwrap();
        let head = String::from_utf8_lossy(head);
        assert!(head.contains("\r\nReceived: from "), "{head}");
        assert!(head.contains("client.test"), "{head}");
    }
}

#[test]
fn one_message_to_several_recipients_of_one_mailbox_is_stored_once() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let to = [DEMO, "demo+one@example.test", "DEMO@example.test"];
    let sent = message(4, 1, 500);
    assert_eq!(smtp.mail("", &to, &sent).unwrap().code, 250);
    let found = take_all(&engine);
    assert_eq!(found.len(), 1);
    let head = trace(&found[0], &sent).unwrap();
    assert!(head.starts_with(b"Return-Path: <>\r\n"));
}

#[test]
fn size_is_refused_when_declared_and_when_reached() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let mut declared = |size: usize| smtp.command(&format!("MAIL FROM:<> SIZE={size}")).unwrap();
    assert!(declared(SIZE + 1).is(552, "5.3.4"));
    assert!(declared(SIZE).is(250, "2.1.0"));
    assert_eq!(smtp.command("RSET").unwrap().code, 250);

    let line = [b"y".repeat(78).as_slice(), b"\r\n"].concat();
    let mut largest = line.repeat(SIZE / 80);
    // An empty header.
    largest[..2].copy_from_slice(b"\r\n");
    assert_eq!(largest.len(), SIZE);
    assert!(smtp.mail("", &[DEMO], &largest).unwrap().is(250, "2.6.0"));
    largest.extend_from_slice(&line);
    assert!(smtp.mail("", &[DEMO], &largest).unwrap().is(552, "5.3.4"));
    assert_eq!(smtp.command("NOOP").unwrap().code, 250, "the session goes on");
    let found = take_all(&engine);
    assert_eq!(found.len(), 1, "nothing is kept of the second");
    trace(&found[0], &largest[..SIZE]).unwrap();
}

#[test]
fn bdat_takes_chunks_of_anything() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let sent = message(5, 1, 100_000);
    let binary = [b"X-A: b\r\n\r\n", &*(0..=255).collect::<Vec<u8>>(), b"\n..\r.\n"].concat();
    for (body, content) in [("8BITMIME", &sent), ("BINARYMIME", &binary)] {
        for chunk in [1_000, 65_536, content.len()] {
            smtp.send(format!("MAIL FROM:<> BODY={body}\r\nRCPT TO:<{DEMO}>\r\n").as_bytes())
                .unwrap();
            let mut count = 2;
            for piece in content.chunks(chunk) {
                smtp.send(format!("BDAT {}\r\n", piece.len()).as_bytes()).unwrap();
                smtp.send(piece).unwrap();
                count += 1;
            }
            smtp.send(b"BDAT 0 LAST\r\n").unwrap();
            for _ in 0..=count {
                let reply = smtp.reply().unwrap();
                assert_eq!(reply.code, 250, "{reply:?}");
            }
        }
    }
    let found = take_all(&engine);
    assert_eq!(found.len(), 6);
    for (stored, sent) in found.iter().zip([&sent, &sent, &sent]) {
        trace(stored, sent).unwrap();
    }
    for stored in found.iter().skip(3) {
        // The last line has no end of its own, and POP3 needs one.
        trace(stored, &[&*binary, b"\r\n"].concat()).unwrap();
    }
}

#[test]
fn bdat_out_of_order_and_too_large_is_swallowed() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    smtp.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n").unwrap();
    assert_eq!(smtp.reply().unwrap().code, 503);
    assert_eq!(smtp.reply().unwrap().code, 250, "the chunk is no command");

    smtp.send(format!("MAIL FROM:<>\r\nRCPT TO:<{DEMO}>\r\nBDAT 2\r\nab").as_bytes()).unwrap();
    for code in [250, 250, 250] {
        assert_eq!(smtp.reply().unwrap().code, code);
    }
    assert_eq!(smtp.command("DATA").unwrap().code, 503, "RFC 3030: not after BDAT");
    assert_eq!(smtp.command("RSET").unwrap().code, 250);

    smtp.send(format!("MAIL FROM:<>\r\nRCPT TO:<{DEMO}>\r\n").as_bytes()).unwrap();
    let chunk = b"z".repeat(SIZE + 1);
    smtp.send(format!("BDAT {} LAST\r\n", chunk.len()).as_bytes()).unwrap();
    smtp.send(&chunk).unwrap();
    for (code, enhanced) in [(250, ""), (250, ""), (552, "5.3.4")] {
        let reply = smtp.reply().unwrap();
        assert!(reply.is(code, enhanced), "{reply:?}");
    }
    assert_eq!(smtp.command("NOOP").unwrap().code, 250);
    assert_eq!(take_all(&engine).len(), 0);
}

#[test]
fn a_message_that_goes_round_is_stopped() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let hops = |count: usize| {
        let hop = "Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n";
        [hop.repeat(count).as_bytes(), b"\r\nReceived: this is no header\r\n"].concat()
    };
    assert!(smtp.mail("", &[DEMO], &hops(90)).unwrap().is(250, "2.6.0"));
    assert!(smtp.mail("", &[DEMO], &hops(110)).unwrap().is(554, "5.4.6"));
    let found = take_all(&engine);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_connection_that_drops_in_the_data_leaves_nothing() {
    let engine = Engine::start().unwrap();
    let whole = stuffed(&message(6, 1, 200_000));
    for bytes in [1, 1_000, 100_000, whole.len() - 1] {
        let mut smtp = engine.smtp().unwrap();
        into_data(&mut smtp);
        smtp.send(&whole[..bytes]).unwrap();
    }
    let mut smtp = engine.smtp().unwrap();
    let sent = message(6, 2, 10);
    assert_eq!(smtp.mail("", &[DEMO], &sent).unwrap().code, 250);
    let found = take_all(&engine);
    assert_eq!(found.len(), 1);
    trace_only(trace(&found[0], &sent).unwrap()).unwrap();
}
