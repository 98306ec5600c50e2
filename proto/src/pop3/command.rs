//! The commands of POP3: one table row each, parsed to a value that needs no further checking.
//!
//! Called by the session with a line that has no CR, LF or NUL in it. Fails with the part of the
//! text that follows `-ERR Syntax Error: `.

/// When a command may be given (RFC 1939 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// Before sign-in.
    Authorization,
    /// After it.
    Transaction,
    /// In both states.
    Always,
}

/// A message number as the client wrote it; 1 is the first, 0 and too large ones name none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Number(pub(super) u32);

/// A command with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command<'b> {
    Auth(&'b [u8]),
    Capa,
    Dele(Number),
    Implementation,
    Lang(Option<&'b [u8]>),
    List(Option<Number>),
    Noop,
    Pass(&'b [u8]),
    Quit,
    Retr(Number),
    Rset,
    Stat,
    Stls,
    Top(Number, u64),
    Uidl(Option<Number>),
    User(&'b [u8]),
    Utf8,
}

/// A row of the command table.
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) when: When,
    parse: for<'b> fn(Option<&'b [u8]>) -> Result<Command<'b>, &'static str>,
}

const fn verb(
    name: &'static str,
    when: When,
    parse: for<'b> fn(Option<&'b [u8]>) -> Result<Command<'b>, &'static str>,
) -> Verb {
    Verb { name, when, parse }
}

/// Every command.
static VERBS: [Verb; 17] = [
    // RFC 5034 §4
    verb("AUTH", When::Authorization, |rest| match rest.map(<[u8]>::trim_ascii_end) {
        Some(rest) if !rest.is_empty() => Ok(Command::Auth(rest)),
        _ => Err("AUTH takes a mechanism."),
    }),
    // RFC 2449 §5
    verb("CAPA", When::Always, |rest| alone(rest, Command::Capa)),
    verb("DELE", When::Transaction, |rest| Ok(Command::Dele(number(rest)?))),
    // The private command of the original: what CAPA says after IMPLEMENTATION.
    verb("IMPLEMENTATION", When::Always, |rest| alone(rest, Command::Implementation)),
    // RFC 6856 §3
    verb("LANG", When::Always, |rest| match words(rest) {
        [None, ..] => Ok(Command::Lang(None)),
        [Some(range), None, _] => Ok(Command::Lang(Some(range))),
        _ => Err("LANG takes one language range."),
    }),
    verb("LIST", When::Transaction, |rest| Ok(Command::List(number_or_none(rest)?))),
    verb("NOOP", When::Transaction, |rest| alone(rest, Command::Noop)),
    // RFC 1939 §7: the argument is one string, and spaces are part of the password.
    verb("PASS", When::Authorization, |rest| match rest {
        Some(rest) if !rest.is_empty() => Ok(Command::Pass(rest)),
        _ => Err("PASS takes a password."),
    }),
    verb("QUIT", When::Always, |rest| alone(rest, Command::Quit)),
    verb("RETR", When::Transaction, |rest| Ok(Command::Retr(number(rest)?))),
    verb("RSET", When::Transaction, |rest| alone(rest, Command::Rset)),
    verb("STAT", When::Transaction, |rest| alone(rest, Command::Stat)),
    // RFC 2595 §4
    verb("STLS", When::Authorization, |rest| alone(rest, Command::Stls)),
    verb("TOP", When::Transaction, |rest| match words(rest) {
        [Some(number), Some(lines), None] => Ok(Command::Top(message(number)?, count(lines)?)),
        _ => Err("TOP takes a message number and a count of lines."),
    }),
    verb("UIDL", When::Transaction, |rest| Ok(Command::Uidl(number_or_none(rest)?))),
    verb("USER", When::Authorization, |rest| match words(rest) {
        [Some(name), None, _] => Ok(Command::User(name)),
        _ => Err("USER takes one name."),
    }),
    // RFC 6856 §2
    verb("UTF8", When::Authorization, |rest| alone(rest, Command::Utf8)),
];

/// The row for `line` and the bytes behind the first space, if there is one.
pub(super) fn find(line: &[u8]) -> Option<(&'static Verb, Option<&[u8]>)> {
    let mut parts = line.splitn(2, |&byte| byte == b' ');
    let name = parts.next()?;
    // RFC 1939 §3: keywords are case-insensitive.
    let verb = VERBS.iter().find(|verb| verb.name.as_bytes().eq_ignore_ascii_case(name))?;
    Some((verb, parts.next()))
}

impl Verb {
    /// Parses the arguments.
    pub(super) fn parse<'b>(&self, rest: Option<&'b [u8]>) -> Result<Command<'b>, &'static str> {
        (self.parse)(rest)
    }
}

/// The first three words of `rest`; more spaces than one between them do no harm.
fn words(rest: Option<&[u8]>) -> [Option<&[u8]>; 3] {
    let mut words =
        rest.unwrap_or_default().split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    [words.next(), words.next(), words.next()]
}

fn alone<'b>(rest: Option<&[u8]>, command: Command<'b>) -> Result<Command<'b>, &'static str> {
    if let [None, ..] = words(rest) { Ok(command) } else { Err("no argument expected.") }
}

fn number(rest: Option<&[u8]>) -> Result<Number, &'static str> {
    match words(rest) {
        [Some(word), None, _] => message(word),
        _ => Err("one message number expected."),
    }
}

fn number_or_none(rest: Option<&[u8]>) -> Result<Option<Number>, &'static str> {
    match words(rest) {
        [None, ..] => Ok(None),
        _ => number(rest).map(Some),
    }
}

fn message(word: &[u8]) -> Result<Number, &'static str> {
    // A number past every maildrop names no message, like any other that is too large.
    count(word).map(|value| Number(u32::try_from(value).unwrap_or(u32::MAX)))
}

/// A decimal number; one that is too large for the type is as good as its largest value.
fn count(word: &[u8]) -> Result<u64, &'static str> {
    word.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'9' => Ok(value.saturating_mul(10).saturating_add(u64::from(byte - b'0'))),
        _ => Err("a number expected."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[u8]) -> Result<Command<'_>, &'static str> {
        let (verb, rest) = find(line).ok_or("unknown")?;
        verb.parse(rest)
    }

    #[test]
    fn arguments_come_out_as_values() {
        for (line, command) in [
            (&b"noop"[..], Command::Noop),
            (b"NOOP ", Command::Noop),
            (b"LIST", Command::List(None)),
            (b"list 3", Command::List(Some(Number(3)))),
            (b"UIDL 3 ", Command::Uidl(Some(Number(3)))),
            (b"RETR 0003", Command::Retr(Number(3))),
            (b"DELE 99999999999999999999999", Command::Dele(Number(u32::MAX))),
            (b"TOP 1 0", Command::Top(Number(1), 0)),
            (b"TOP 1  99999999999999999999999", Command::Top(Number(1), u64::MAX)),
            (b"PASS  two  spaces ", Command::Pass(b" two  spaces ")),
            (b"USER a@example.test", Command::User(b"a@example.test")),
            (b"LANG", Command::Lang(None)),
            (b"AUTH PLAIN dGVzdA== ", Command::Auth(b"PLAIN dGVzdA==")),
            (b"stls", Command::Stls),
            (b"LANG *", Command::Lang(Some(b"*"))),
        ] {
            assert_eq!(parse(line), Ok(command), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_a_command_is_refused() {
        for line in [
            &b""[..],
            b" NOOP",
            b"NOOP x",
            b"NOOPS",
            b"LIST x",
            b"LIST 1 2",
            b"LIST -1",
            b"RETR",
            b"RETR 1 2",
            b"TOP 1",
            b"TOP 1 2 3",
            b"TOP 1 x",
            b"USER",
            b"USER a b",
            b"PASS",
            b"AUTH",
            b"AUTH ",
            b"STLS now",
            b"PASS ",
            b"LANG en nl",
            b"UTF8 USER",
            b"APOP a b",
        ] {
            assert!(parse(line).is_err(), "{}", line.escape_ascii());
        }
    }
}
