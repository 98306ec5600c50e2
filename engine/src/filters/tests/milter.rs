//! What a milter is told, says and changes, and how it fails.

use super::*;

#[test]
fn a_milter_is_told_of_everything_in_order() {
    let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
    let heard = scenery.heard.take();
    let text = |at: usize| {
        let (letter, data) = &heard[at];
        format!("{}{}", char::from(*letter), data.escape_ascii())
    };
    let told: Vec<String> = (1..heard.len()).map(text).collect();
    let node = "mx.example.test";
    let connect = format!(
        "DCj\\x00{node}\\x00_\\x00[198.51.100.9] [198.51.100.9]\\x00{{daemon_name}}\\x00{node}\\x00\
         v\\x00fsmtp-engine 0.1.0\\x00{{client_addr}}\\x00198.51.100.9\\x00\
         {{client_name}}\\x00[198.51.100.9]\\x00{{client_ptr}}\\x00[198.51.100.9]\\x00\
         {{client_port}}\\x004025\\x00"
    );
    assert_eq!(
        told,
        [
            &connect,
            "C[198.51.100.9]\\x004\\x0f\\xb9198.51.100.9\\x00",
            "DH{tls_version}\\x00TLS1.3\\x00{cipher}\\x00TLS13_AES_256_GCM_SHA384\\x00",
            "Hclient.example\\x00",
            "DM{mail_addr}\\x00a@sender.example\\x00",
            "M<a@sender.example>\\x00BODY=8BITMIME\\x00",
            "DR{rcpt_addr}\\x00b@example.test\\x00",
            "R<b@example.test>\\x00",
            "DR{rcpt_addr}\\x00c@example.test\\x00",
            "R<c@example.test>\\x00",
            "DTi\\x00ID1\\x00",
            "T",
            "LFrom\\x00a@sender.example\\x00",
            "LSubject\\x00hello\\n\\tworld\\x00",
            "DNi\\x00ID1\\x00",
            "N",
            "Bbody\\r\\nEND\\r\\n",
            "DEi\\x00ID1\\x00",
            "E",
            "Q",
        ]
    );
    assert_eq!(scenery.counters(), [[1, 0, 0, 0, 0, 0]]);
}

#[test]
fn what_is_stored_does_not_depend_on_how_it_came() {
    let bare = ["", "\r\n", "\r\nbody\r\n", "X: 1\r\n", "X: 1", "no field\r\n\r\n", "X: 1\r\n\r\n"];
    for message in bare.into_iter().chain([MESSAGE]) {
        for piece in [1, 2, 3, 7, usize::MAX] {
            let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
            let came = scenery.session(false, &[message], piece);
            assert_eq!(came, [stored(message)], "{piece}");
            let body = scenery.heard.take().into_iter().filter(|(letter, _)| *letter == b'B');
            let body: Vec<u8> = body.flat_map(|(_, data)| data).collect();
            let expected = message.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let expected = message.strip_prefix("\r\n").unwrap_or(expected);
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
    }
}

#[test]
fn a_milter_may_refuse_at_every_step() {
    let says = |letter: u8, text: &str| packet(letter, text.as_bytes());
    for (at, sent, came) in [
        (b'C', says(b'r', ""), Came::Early("550 5.7.1 Refused".into())),
        (b'H', says(b'y', "554 5.7.0 not you\0"), Came::Early("554 5.7.0 not you".into())),
        (b'M', says(b't', ""), Came::Early("451 4.7.1 Try again later".into())),
        (b'R', says(b'y', "450 greylisted\0"), Came::Early("450 4.7.1 greylisted".into())),
        (b'R', says(b'4', ""), Came::Early("421 4.7.0 Try again later".into())),
        (b'T', says(b'r', ""), Came::Early("550 5.7.1 Refused".into())),
        (b'L', says(b'r', ""), Came::Late(refused(550, "5.7.1 Refused"))),
        (b'N', says(b't', ""), Came::Late(refused(451, "4.7.1 Try again later"))),
        (b'B', says(b'y', "552 5.3.4 too much\0"), Came::Late(refused(552, "5.3.4 too much"))),
        (b'E', says(b'y', "550 5.7.1 spam\0"), Came::Late(refused(550, "5.7.1 spam"))),
        (b'M', says(b'd', ""), Came::Late(Verdict::Discard)),
        (b'R', says(b'd', ""), Came::Late(Verdict::Discard)),
        (b'B', says(b'd', ""), Came::Late(Verdict::Discard)),
        (b'E', says(b'd', ""), Came::Late(Verdict::Discard)),
    ] {
        let discards = came == Came::Late(Verdict::Discard);
        let mut scenery = one(Protocol::Milter, move |letter, _| {
            if letter == at { Do::Say(sent.clone()) } else { goes_on(letter) }
        });
        let twice = scenery.session(false, &[MESSAGE, MESSAGE], usize::MAX);
        // The second message over the same connection fares as the first.
        assert_eq!(twice, [came.clone(), came], "{}", char::from(at));
        let event = if discards { "filter-discarded" } else { "filter-refused" };
        assert!(scenery.event().contains(event));
        assert_eq!(scenery.letters().matches('O').count(), 1);
    }
}

#[test]
fn one_recipient_may_be_refused_and_the_others_get_it() {
    let mut scenery = one(Protocol::Milter, |letter, data| match letter {
        b'R' if data.starts_with(b"<b@") => Do::Say(packet(b'r', b"")),
        _ => goes_on(letter),
    });
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
    let line = scenery.event();
    assert!(line.contains("filter-refused filter=tested") && line.contains("to=b@example.test"));
    assert_eq!(scenery.counters(), [[1, 1, 0, 0, 0, 0]]);
}

#[test]
fn what_a_milter_accepts_it_is_not_told_more_of() {
    for (at, letters) in [
        (b'C', "ODCQ"),
        (b'M', "ODCDHDMDMQ"),
        (b'R', "ODCDHDMDRDMDRQ"),
        (b'N', "ODCDHDMDRDRDTLLDNDMDRDRDTLLDNQ"),
    ] {
        let mut scenery = one(Protocol::Milter, move |letter, _| {
            if letter == at { Do::Say(packet(b'a', b"")) } else { goes_on(letter) }
        });
        let came = scenery.session(false, &[MESSAGE, MESSAGE], usize::MAX);
        assert_eq!(came, [stored(MESSAGE), stored(MESSAGE)]);
        assert_eq!(scenery.letters(), letters);
    }
}

#[test]
fn a_milter_that_leaves_steps_out_hears_of_what_is_left() {
    let no_replies = 0x80 | 0xf_f000;
    for (steps, letters) in [
        (0x37f, "ODEQ"),
        (no_replies, "ODCDHDMDRDRDTLLDNBDEQ"),
        (no_replies | 0x30, "ODCDHDMDRDRDTDNDEQ"),
    ] {
        let mut scenery = one(Protocol::Milter, move |letter, _| match letter {
            b'O' => agreement(0, steps),
            b'E' => Do::Say(packet(b'c', b"")),
            _ => Do::Say(Vec::new()),
        });
        assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
        assert_eq!(scenery.letters(), letters);
    }
}

#[test]
fn a_milter_changes_what_it_likes_but_the_body() {
    let mut scenery = one(Protocol::Milter, |letter, _| changing(letter));
    let came = Came::Stored(Verdict::Junk("looks odd".into()), CHANGED.into(), changed());
    assert_eq!(scenery.deliver(MESSAGE), came);
    assert_eq!(scenery.counters(), [[1, 0, 0, 1, 0, 0]]);
    assert!(scenery.event().contains("filter-junk filter=tested id=ID1 why=\"looks odd\""));
}

#[test]
fn of_a_users_mail_only_new_fields_are_put_in_front() {
    let plan = Plan { users: true, ..plan(Protocol::Milter, WhenAway::Defer) };
    let mut scenery = scenery(&[plan], Options::calm(), |letter, _| changing(letter));
    let text =
        format!("X-Last: one\r\n two\r\nX-First: a\r\n\tSmuggled: b\r\nX-Spam: Yes\r\n{MESSAGE}");
    let came = scenery.session(true, &[MESSAGE], 5);
    assert_eq!(came, [Came::Stored(Verdict::Junk("looks odd".into()), text, changed())]);
    let mail = scenery.heard.take().into_iter().filter(|(letter, _)| *letter == b'D');
    let mail: Vec<u8> = mail.flat_map(|(_, data)| data).collect();
    assert!(mail.escape_ascii().to_string().contains("{auth_authen}\\x00me@example.test"));
}

#[test]
fn mail_of_users_passes_by_filters_that_are_not_for_it() {
    let filters = Filters::new(&[plan(Protocol::Milter, WhenAway::Defer)]);
    assert!(filters.passage::<SimRuntime>(true).is_none());
    assert!(filters.passage::<SimRuntime>(false).is_some());
    assert!(Filters::default().passage::<SimRuntime>(false).is_none());
}

#[test]
fn each_policy_holds_however_a_milter_fails() {
    let silent = "cannot receive from 192.0.2.1:7357: timed out";
    let closed = "it has closed the connection";
    // One that does not even agree is left alone for a while.
    assert_eq!(away(Protocol::Milter, silent, |_| Do::Hang), 1);
    assert_eq!(away(Protocol::Milter, closed, |_| Do::Close), 1);
    let speaks = |_: u8| Do::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    assert_eq!(away(Protocol::Milter, "the filter sent a packet of 1213486160 bytes", speaks), 1);
    let greedy = |letter: u8| if letter == b'O' { agreement(0, 0x800) } else { goes_on(letter) };
    assert_eq!(away(Protocol::Milter, "the filter needs steps 0x800", greedy), 1);
    // One that fails a message is asked about the next.
    let hangs = |letter: u8| if letter == b'B' { Do::Hang } else { goes_on(letter) };
    assert_eq!(away(Protocol::Milter, silent, hangs), 2);
    let closes = |letter: u8| if letter == b'E' { Do::Close } else { goes_on(letter) };
    assert_eq!(away(Protocol::Milter, closed, closes), 2);
    let nonsense = |letter: u8| match letter {
        b'N' => Do::Say(packet(b'c', b"what?")),
        _ => goes_on(letter),
    };
    assert_eq!(away(Protocol::Milter, "the filter sent `c`, with wrong data", nonsense), 2);
    let replaces = |letter: u8| match letter {
        b'E' => Do::Say(packet(b'b', b"a new body")),
        _ => goes_on(letter),
    };
    assert_eq!(away(Protocol::Milter, "`b`, which was not agreed on", replaces), 2);
}

#[test]
fn a_filter_that_cannot_be_reached_is_left_alone_and_tried_again() {
    let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
    let mut plans = vec![plan(Protocol::Milter, WhenAway::Accept)];
    plans[0].address = scenery.rt.address(1);
    scenery.filters = Filters::new(&plans);
    for _ in 0..3 {
        assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
    }
    assert_eq!(scenery.event().matches("filter-away").count(), 1);
    let rt = scenery.rt.clone();
    scenery.world.block_on(&scenery.rt, async move { rt.sleep_until(rt.now() + PAUSE).await });
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
    assert_eq!(scenery.event().matches("filter-away").count(), 1);
    assert_eq!(scenery.counters(), [[0, 0, 0, 0, 4, 0]]);
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_opened_again() {
    let closed = Cell::new(false);
    let mut scenery = one(Protocol::Milter, move |letter, _| match letter {
        b'M' if closed.replace(true) => {
            closed.set(false);
            Do::Close
        }
        _ => goes_on(letter),
    });
    let came = scenery.session(false, &[MESSAGE, MESSAGE], usize::MAX);
    assert_eq!(came, [stored(MESSAGE), stored(MESSAGE)]);
    assert_eq!(scenery.letters().matches('O').count(), 2);
    assert_eq!(scenery.counters(), [[2, 0, 0, 0, 0, 0]]);
}

#[test]
fn a_long_header_is_stored_at_once_and_only_added_to() {
    let message = format!("From: a\r\nX: {}\r\n\r\nbody\r\n", "x\r\n ".repeat(20_000));
    for piece in [1, 1000, 65_000, 90_000, usize::MAX] {
        let mut scenery = one(Protocol::Milter, |letter, _| changing(letter));
        let text = format!(
            "X-Last: one\r\n two\r\nX-First: a\r\n\tSmuggled: b\r\nX-Spam: Yes\r\n{message}"
        );
        let came = scenery.session(false, &[&message, MESSAGE], piece);
        let junk = Verdict::Junk("looks odd".into());
        assert_eq!(came[0], Came::Stored(junk.clone(), text, changed()));
        // The next message is held back again.
        assert_eq!(came[1], Came::Stored(junk, CHANGED.into(), changed()));
    }
}

#[test]
fn new_fields_are_bounded_for_all_filters_together() {
    let milter = plan(Protocol::Milter, WhenAway::Defer);
    let field = packet(b'h', format!("X\0{}\0", "a".repeat(900)).as_bytes());
    let mut scenery =
        scenery(&[milter.clone(), milter], Options::calm(), move |letter, _| match letter {
            b'E' => Do::Say([field.repeat(30), packet(b'c', b"")].concat()),
            _ => goes_on(letter),
        });
    let Came::Stored(_, text, _) = scenery.deliver(MESSAGE) else { panic!("it is taken") };
    assert_eq!(text.matches("X: aaa").count(), 36, "32 KiB of 905 bytes each");
}
