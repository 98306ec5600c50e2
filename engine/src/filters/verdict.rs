//! What filters think of a message, in words that the desk can act on.

use fsmtp_proto::milter::{self, Said};
use fsmtp_proto::smtp::reply::Code;

/// The longest text that is told to a client; what echoes may have in a reply, less the code.
const TEXT_BYTES_MAX: usize = 200;

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The code.
    pub code: Code,
    /// An enhanced code of its class and a text, printable ASCII.
    pub text: Box<str>,
}

/// What becomes of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is taken as junk, for this reason.
    Junk(Box<str>),
    /// It is taken, and nobody gets it.
    Discard,
    /// It is not taken.
    Refused(Refused),
}

impl Refused {
    /// With a code and a text of a filter, which may be anything.
    pub(super) fn new(code: Code, text: &[u8]) -> Self {
        let class = code.number() / 100;
        let printable =
            |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { ' ' };
        let text: String = text.iter().take(TEXT_BYTES_MAX).map(printable).collect();
        let mut words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let enhanced = words.first().copied().filter(|word| is_enhanced(word));
        let right = enhanced.is_some_and(|word| word.starts_with(&class.to_string()));
        if enhanced.is_some() && !right {
            words.remove(0);
        }
        let own = format!("{class}.7.1");
        if !right {
            words.insert(0, &own);
        }
        if words.len() == 1 {
            words.push(if class == 4 { "Try again later" } else { "Refused" });
        }
        Self { code, text: words.join(" ").into() }
    }

    /// In our own words.
    pub(super) fn plain(code: u16, text: &str) -> Self {
        Self::new(Code::new(code).unwrap_or(Code::LATER), text.as_bytes())
    }

    /// For now, because of us.
    pub(super) fn later(text: &str) -> Self {
        Self::plain(451, text)
    }

    /// In the words of a filter, the code in front of each line.
    fn said(said: &Said<'_>) -> Self {
        let lines = said.text.split(|byte| *byte == b'\n');
        let texts: Vec<&[u8]> = lines
            .enumerate()
            .map(|(index, line)| {
                let line = line.get(4..).unwrap_or_default();
                let (word, rest) = line.split_at(line.iter().take_while(|b| **b != b' ').count());
                let again = index > 0 && core::str::from_utf8(word).is_ok_and(is_enhanced);
                if again { rest } else { line }
            })
            .collect();
        let code = Code::new(said.code).unwrap_or(Code::LATER);
        Self::new(code, &texts.join(&b' '))
    }
}

/// Whether a word is a code of RFC 3463.
fn is_enhanced(word: &str) -> bool {
    let number = |part: &str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    // RFC 3463 §2
    let parts: Vec<&str> = word.split('.').collect();
    matches!(parts[..], ["2" | "4" | "5", subject, detail] if number(subject) && number(detail))
}

/// What a filter has said to one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Go on.
    GoOn,
    /// Nothing more of it.
    Enough,
    /// It is thrown away.
    Discard,
    /// It is refused.
    Refuse(Refused),
}

impl From<milter::Verdict<'_>> for Answer {
    fn from(verdict: milter::Verdict<'_>) -> Self {
        use milter::Verdict as V;
        match verdict {
            V::Continue => Self::GoOn,
            V::Accept => Self::Enough,
            V::Discard => Self::Discard,
            V::Reject => Self::Refuse(Refused::plain(550, "5.7.1 Refused")),
            V::Tempfail => Self::Refuse(Refused::later("4.7.1 Try again later")),
            V::Says(said) => Self::Refuse(Refused::said(&said)),
            V::Shutdown => Self::Refuse(Refused::plain(421, "4.7.0 Try again later")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (u16, String) {
        let code = text.get(..3).unwrap().parse().unwrap();
        let refused = Refused::said(&Said { code, text: text.as_bytes() });
        (refused.code.number(), refused.text.into())
    }

    #[test]
    fn words_of_a_filter_become_one_line_with_a_code_that_fits() {
        for (text, code, line) in [
            ("550 5.7.1 no", 550, "5.7.1 no"),
            ("550 no", 550, "5.7.1 no"),
            ("554", 554, "5.7.1 Refused"),
            ("450 ", 450, "4.7.1 Try again later"),
            ("451 5.7.1 later", 451, "4.7.1 later"),
            ("550-5.7.1 one\r\n550-5.7.1 two\r\n550 three", 550, "5.7.1 one two three"),
            ("550 5.7.1 a\tb\x1b[2Jc\u{e9}", 550, "5.7.1 a b [2Jc"),
            ("550 5.7 a", 550, "5.7.1 5.7 a"),
            ("550 5.7.1234 a", 550, "5.7.1 5.7.1234 a"),
        ] {
            assert_eq!(said(text), (code, line.to_owned()), "{text}");
        }
        let (_, long) = said(&format!("550 5.7.1 {}", "x".repeat(1000)));
        assert_eq!(long.len(), TEXT_BYTES_MAX);
    }
}
