//! Hostile filters: a session under any bytes does not panic, makes progress, changes nothing
//! before the end of a message nor beyond its limits, stays dead when it has died, and hears the
//! same however the stream is cut. The first bytes choose what was agreed on and the cut. And the
//! reply of a web server is judged once.
#![no_main]

use core::net::Ipv4Addr;
use core::time::Duration;

use fsmtp_proto::http;
use fsmtp_proto::milter::{
    Actions, CHANGES_COUNT_MAX, Command, Session, Stage, Then, Timeouts, Verdict,
};
use fsmtp_proto::time::Instant;
use libfuzzer_sys::fuzz_target;

const COMMANDS: [Command<'_>; 9] = [
    Command::Connect("a.test", core::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 25),
    Command::Helo("a.test"),
    Command::Mail("<a@a.test>", &[]),
    Command::Recipient("<b@b.test>", &[]),
    Command::Data,
    Command::Field(b"Subject", b" a\r\n b"),
    Command::FieldsEnd,
    Command::Body(b"a"),
    Command::End,
];

fn play(agreement: &[u8], bytes: &[u8], piece: usize) -> Vec<String> {
    let now = Instant::from_ns(0);
    let patience = Duration::from_secs(1);
    let timeouts = Timeouts { command: patience, message: patience };
    let actions = Actions::ADD_FIELDS | Actions::CHANGE_FIELDS | Actions::QUARANTINE;
    let (mut heard, mut out) = (Vec::new(), Vec::new());
    let mut session = Session::new(timeouts, actions, now, &mut out);
    let bytes = [agreement, bytes].concat();
    let (mut at, mut end, mut next, mut changes) = (0, 0, 0, 0);
    for _ in 0..10_000 {
        let turn = session.turn(now, &bytes[at..end]);
        assert!(turn.consumed <= end - at);
        at += turn.consumed;
        match turn.then {
            Then::NeedInput if end == bytes.len() => break,
            Then::NeedInput => end = (end + piece).min(bytes.len()),
            Then::Again => {
                assert!(turn.consumed > 0);
                end = at;
            }
            Then::Ready if next == 3 * COMMANDS.len() => break,
            Then::Ready => {
                out.clear();
                let command = COMMANDS[next % COMMANDS.len()];
                let wanted = command.stage() == Stage::Mail || session.wants(command.stage());
                session.tell(now, &command, &[("i", "1")], &mut out);
                assert!(wanted || out.is_empty());
                changes = 0;
                next += 1;
            }
            Then::Change(change) => {
                changes += 1;
                assert!(changes <= CHANGES_COUNT_MAX);
                assert_eq!((next - 1) % COMMANDS.len(), COMMANDS.len() - 1);
                heard.push(format!("{change:?}"));
            }
            Then::Heard(stage, verdict) => {
                assert!(verdict != Verdict::Discard || !stage.is_of_connection());
                heard.push(format!("{stage:?} {verdict:?}"));
                // A filter that waits for commands has sent no more.
                end = at;
            }
            Then::Failed(failure) => {
                assert_eq!(session.turn(now, b"").then, Then::Failed(failure));
                heard.push(failure.to_string());
                break;
            }
        }
    }
    heard
}

fuzz_target!(|data: &[u8]| {
    let [piece, rest @ ..] = data else { return };
    let (steps, bytes) = rest.split_at(rest.len().min(3));
    let mut agreement = vec![0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 0, 0x31, 0];
    agreement.extend(steps.iter().chain([0, 0, 0].iter()).take(3));
    let piece = usize::from(*piece) + 1;
    assert_eq!(play(&agreement, bytes, bytes.len() + 17), play(&agreement, bytes, piece));
    let read = |bytes: &[u8], ended| Some(http::head(bytes, ended).ok()??.body(ended, 1000));
    if let Some(Ok(Some(body))) = read(bytes, false) {
        assert!(body.len() <= 1000);
        assert_eq!(read(bytes, true), Some(Ok(Some(body))));
    }
});
