//! The table of verbs: what the first word of a command line means.
//!
//! The session calls [`find`] for each command. A new verb is a new row here and a handler beside
//! the others in `server/command.rs`. The words that clients send most stand first.

use super::reply::Reply;
use super::server::command as handlers;
use super::server::{Session, Then, auth, starttls, su};
use crate::wire::outbox::Outbox;

/// Carries out one command. The argument is what follows the verb and one space, without trailing
/// white space; the session waits for a command when it is called.
pub(crate) type Handler = for<'b> fn(&mut Session, &'b [u8], &mut Outbox) -> Then<'b>;

struct Row {
    key: u64,
    run: Handler,
}

const VERB_BYTES_MAX: usize = 8;

static VERBS: [Row; 17] = [
    row("MAIL", handlers::mail),
    row("RCPT", handlers::recipient),
    row("DATA", handlers::data),
    row("BDAT", handlers::chunk),
    row("EHLO", handlers::ehlo),
    row("QUIT", handlers::quit),
    row("RSET", handlers::reset),
    row("HELO", handlers::helo),
    // RFC 5321 §4.1.1.9, §4.1.1.7, §4.1.1.8.
    row("NOOP", |session, _, out| session.say(Reply::Noop, out)),
    row("VRFY", handlers::verify),
    row("EXPN", |session, _, out| session.say(Reply::NoExpansion, out)),
    row("HELP", |session, _, out| session.say(Reply::Help, out)),
    // The seeds' question whether this peer speaks their extensions.
    row("FCAPA", |session, _, out| session.say(Reply::ExtensionsHere, out)),
    // And the one by which nodes of one owner get in at each other.
    row("SU", su::su),
    row("AUTH", auth::auth),
    row("STARTTLS", starttls::start_tls),
    // A known word of a command that this server does not have (RFC 5321 §4.2.4: 502, not 500).
    row("TURN", |session, _, out| session.say(Reply::NotImplemented, out)),
];

const fn row(name: &str, run: Handler) -> Row {
    assert!(name.len() <= VERB_BYTES_MAX, "the key holds eight letters");
    Row { key: key(name.as_bytes()), run }
}

/// Up to eight letters as one number, their case folded. Only letters fold onto letters.
const fn key(name: &[u8]) -> u64 {
    let mut key = 0;
    let mut i = 0;
    while i < name.len() && i < VERB_BYTES_MAX {
        key = key << 8 | (name[i] & 0xdf) as u64;
        i += 1;
    }
    key
}

/// Finds the handler of a command line and its argument.
pub(crate) fn find(line: &[u8]) -> (Handler, &[u8]) {
    // Nearly all verbs have four letters.
    let end = match line {
        [_, _, _, _] | [_, _, _, _, b' ', ..] => 4,
        _ => line.iter().position(|b| *b == b' ').unwrap_or(line.len()),
    };
    let (verb, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let key = match verb {
        [a, b, c, d] => u64::from(u32::from_be_bytes([*a, *b, *c, *d]) & 0xdfdf_dfdf),
        _ if verb.len() <= VERB_BYTES_MAX => key(verb),
        _ => return (handlers::unknown, rest),
    };
    let handler = VERBS.iter().find(|row| row.key == key).map(|row| row.run);
    // RFC 5321 §4.1.1: tolerate white space at the end.
    let argument = rest.get(1..).unwrap_or_default().trim_ascii_end();
    (handler.unwrap_or(handlers::unknown), argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_found_in_any_case_and_nothing_else_is() {
        let is = |line: &[u8], handler: Handler, argument: &[u8]| {
            let (found, rest) = find(line);
            core::ptr::fn_addr_eq(found, handler) && rest == argument
        };
        assert!(is(b"MAIL FROM:<>", handlers::mail, b"FROM:<>"));
        assert!(is(b"mAiL FROM:<> \t", handlers::mail, b"FROM:<>"));
        assert!(is(b"QUIT", handlers::quit, b""));
        assert!(is(b"QUIT  ", handlers::quit, b""));
        for line in [
            &b""[..],
            b" MAIL",
            b"MAI",
            b"MAILX",
            b"MAIL\tx",
            b"\x0dAIL",
            b"-!),",
            b"STARTTLSX Y",
            b"mail:x",
        ] {
            assert!(core::ptr::fn_addr_eq(find(line).0, handlers::unknown as Handler), "{line:?}");
        }
        let mut keys: Vec<_> = VERBS.iter().map(|row| row.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), VERBS.len());
    }
}
