//! SMTP as a client sees it: greeting, verbs, order of commands, addresses, pipelining.

use std::io::Write;

use wire_tests::mail::{Rng, message, stuffed};
use wire_tests::{DEMO, Engine, Options, Smtp};

fn codes(smtp: &mut Smtp, count: usize) -> Vec<u16> {
    (0..count).map(|_| smtp.reply().map_or(0, |r| r.code)).collect()
}

#[test]
fn greeting_and_replies_have_the_shape_of_the_seeds() {
    let engine = Engine::shared().unwrap();
    let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
    let greeting = smtp.reply().unwrap();
    assert_eq!(greeting.code, 220);
    assert!(greeting.text().contains(" Fannst ESMTP Mail service ready at "), "{greeting:?}");
    for (line, code) in [
        ("HELO client.test", 250),
        ("NOOP", 250),
        ("HELP", 214),
        ("FCAPA", 601),
        ("RSET", 250),
        ("VRFY demo", 252),
        ("QUIT", 221),
    ] {
        let reply = smtp.command(line).unwrap();
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        assert_eq!(reply.lines.len(), 1, "{line}: {reply:?}");
        assert!(reply.text().ends_with(" - fsmtp"), "{line}: {reply:?}");
    }
    assert!(smtp.ended().unwrap());
}

#[test]
fn the_node_names_itself_and_not_its_mail_domain() {
    let config = "[server]\nnode = \"MX_A1.example.test\"\ndomain = \"mail.test\"\n";
    let options = [(Options::default(), "dev.example.test"), {
        let options = Options { config: Some(config.to_owned()), ..Options::default() };
        (options, "MX_A1.example.test")
    }];
    for (options, node) in options {
        let engine = Engine::with(options).unwrap();
        let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
        let greeting = smtp.reply().unwrap();
        assert!(greeting.text().starts_with(&format!("{node} Fannst ESMTP ")), "{greeting:?}");
        let hello = smtp.command("EHLO client.test").unwrap();
        let first = format!("{node}, at your service ");
        assert!(hello.lines[0].starts_with(&first), "{hello:?}");
        assert_eq!(smtp.mail("", &[DEMO], &message(13, 1, 100)).unwrap().code, 250);
        let stored = engine.pop().unwrap().message(1).unwrap();
        let by = format!("\r\n\tby {node} with ESMTP id ");
        let found = stored.windows(by.len()).any(|part| part == by.as_bytes());
        assert!(found, "RFC 5321 4.4: {}", String::from_utf8_lossy(&stored));
    }
}

#[test]
fn ehlo_lists_what_is_kept() {
    let engine = Engine::shared().unwrap();
    let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
    smtp.expect(220).unwrap();
    let reply = smtp.command("EHLO [127.0.0.1]").unwrap();
    assert_eq!(reply.code, 250);
    let keywords: Vec<&str> = reply.lines.iter().skip(1).map(String::as_str).collect();
    for wanted in [
        "PIPELINING",
        "SIZE 10485760",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "BINARYMIME",
        "ENHANCEDSTATUSCODES",
        "DSN",
    ] {
        assert!(keywords.contains(&wanted), "{wanted} is not among {keywords:?}");
    }
    let limits = keywords.iter().find(|k| k.starts_with("LIMITS ")).unwrap();
    assert!(limits.contains("RCPTMAX=1000"), "{limits}");
}

#[test]
fn commands_out_of_order_are_refused_and_change_nothing() {
    let engine = Engine::shared().unwrap();
    let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
    smtp.expect(220).unwrap();
    for (line, code) in [
        ("MAIL FROM:<a@sender.test>", 503),
        ("EHLO client.test", 250),
        ("RCPT TO:<demo@example.test>", 503),
        ("DATA", 503),
        ("MAIL FROM:<a@sender.test>", 250),
        ("MAIL FROM:<b@sender.test>", 503),
        ("DATA", 503),
        ("RCPT TO:<demo@example.test>", 250),
        ("RSET", 250),
        ("RCPT TO:<demo@example.test>", 503),
        ("NONSENSE", 500),
        ("MAIL FROM:<a@sender.test>", 250),
        ("EHLO client.test", 250),
        ("RCPT TO:<demo@example.test>", 503),
    ] {
        let reply = smtp.command(line).unwrap();
        assert_eq!(reply.code, code, "{line}: {reply:?}");
    }
}

#[test]
fn senders_are_judged_by_their_syntax_and_parameters() {
    let engine = Engine::shared().unwrap();
    let mut smtp = engine.smtp().unwrap();
    for (argument, code) in [
        ("<>", 250),
        ("<a@sender.test>", 250),
        ("<\"a b\"@sender.test>", 250),
        ("<a@[192.0.2.1]>", 250),
        ("<a@[IPv6:2001:db8::1]>", 250),
        ("<a@sender.test> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=QQ314159", 250),
        ("<a@sender.test> SMTPUTF8", 250),
        ("<a@sender.test> SIZE=x", 501),
        ("<a@sender.test> BODY=NONE", 504),
        ("<a@sender.test> COLOUR=RED", 555),
        ("<a@sender.test", 501),
        ("a b@sender.test", 501),
        ("<a@@sender.test>", 501),
        ("<a@-sender.test>", 501),
    ] {
        let reply = smtp.command(&format!("MAIL FROM:{argument}")).unwrap();
        assert_eq!(reply.code, code, "{argument}: {reply:?}");
        assert_eq!(smtp.command("RSET").unwrap().code, 250);
    }
}

#[test]
fn recipients_are_judged_before_the_data() {
    let engine = Engine::shared().unwrap();
    let mut smtp = engine.smtp().unwrap();
    assert_eq!(smtp.command("MAIL FROM:<>").unwrap().code, 250);
    for (recipient, code, enhanced) in [
        ("<demo@example.test>", 250, "2.1.5"),
        ("<DEMO@EXAMPLE.TEST>", 250, "2.1.5"),
        ("<\"demo\"@example.test>", 250, "2.1.5"),
        ("<demo+tag@example.test>", 250, "2.1.5"),
        ("<postmaster>", 250, "2.1.5"),
        ("<nobody@example.test>", 550, "5.1.1"),
        ("<demo@elsewhere.test>", 550, "5.7.1"),
        ("<discard@example.test>", 250, "2.1.5"),
        ("<550@example.test>", 550, "5.1.1"),
        ("<452@example.test>", 452, "4.2.2"),
        ("<demo@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;demo@example.test", 250, "2.1.5"),
        ("<demo@example.test> NOTIFY=NEVER,SUCCESS", 501, ""),
        ("<demo@example.test> COLOUR=RED", 555, ""),
        ("<>", 501, ""),
        ("<421@example.test>", 421, "4.3.2"),
    ] {
        let reply = smtp.command(&format!("RCPT TO:{recipient}")).unwrap();
        assert!(reply.is(code, enhanced), "{recipient}: {reply:?}");
    }
    assert!(smtp.ended().unwrap());
}

#[test]
fn a_pipelined_group_is_answered_in_order() {
    let engine = Engine::shared().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let group = "MAIL FROM:<a@sender.test>\r\nRCPT TO:<discard@example.test>\r\n\
                 RCPT TO:<nobody@example.test>\r\nDATA\r\n";
    for _ in 0..3 {
        smtp.send(group.as_bytes()).unwrap();
        assert_eq!(codes(&mut smtp, 4), [250, 250, 550, 354]);
        smtp.send(&stuffed(&message(1, 1, 3_000))).unwrap();
        assert_eq!(codes(&mut smtp, 1), [250]);
    }
    let mut flood = b"NOOP\r\n".repeat(5_000);
    flood.extend_from_slice(b"QUIT\r\n");
    let mut half = smtp.socket().try_clone().unwrap();
    let writer = std::thread::spawn(move || half.write_all(&flood));
    assert!(codes(&mut smtp, 5_000).iter().all(|&c| c == 250));
    assert_eq!(codes(&mut smtp, 1), [221]);
    writer.join().unwrap().unwrap();
}

#[test]
fn the_dialogue_does_not_depend_on_how_the_stream_is_cut() {
    let engine = Engine::shared().unwrap();
    let mut dialogue = b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\n\
        RCPT TO:<discard@example.test>\r\nRCPT TO:<nobody@example.test>\r\nDATA\r\n"
        .to_vec();
    dialogue.extend(stuffed(b".\r\n..\r\nline\r\n.x\r\n"));
    dialogue.extend(b"NOOP\r\nNONSENSE\r\nMAIL FROM:<>\r\nRCPT TO:<discard@example.test>\r\n");
    dialogue.extend(b"BDAT 7\r\nab\r\n.\r\nBDAT 2 LAST\r\n\r\nNOOP\r\nQUIT\r\n");
    let expected = [220, 250, 250, 250, 550, 354, 250, 250, 500, 250, 250, 250, 250, 250, 221];
    let mut rng = Rng::new(20);
    for longest in [1, 2, 3, 7, 79, 10_000] {
        let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
        let mut rest = dialogue.as_slice();
        while !rest.is_empty() {
            let bytes = (1 + rng.below(longest) as usize).min(rest.len());
            let (piece, after) = rest.split_at(bytes);
            smtp.send(piece).unwrap();
            rest = after;
        }
        assert_eq!(codes(&mut smtp, expected.len()), expected, "pieces up to {longest}");
        assert!(smtp.ended().unwrap());
    }
}

#[test]
fn a_connection_carries_many_transactions() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let mut ids: Vec<String> = (0..200)
        .map(|n| {
            let reply = smtp.mail("a@sender.test", &[DEMO], &message(2, n, 200)).unwrap();
            assert!(reply.is(250, "2.6.0"), "{reply:?}");
            reply.queue_id().unwrap().to_owned()
        })
        .collect();
    let mut pop = engine.pop().unwrap();
    assert_eq!(pop.ids().unwrap(), ids, "in the order of their arrival");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}
