//! What a server offers, as its reply to EHLO says.
//!
//! The session makes one from each EHLO reply and forgets it when TLS begins. Whoever has a message
//! to send asks [`Extensions::carries`] first. Unknown keywords and wrong arguments are passed
//! over: an extension that cannot be understood is one that is not there.

use core::fmt;

use super::reply::Reply;
use crate::sasl::{Mechanism, Mechanisms};
use crate::smtp::address::Path;
use crate::smtp::ext::BodyType;
use crate::smtp::server::Sender;
use crate::wire::token;

/// The extensions of one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// CHUNKING (RFC 3030): BDAT.
    pub chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub binary_mime: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtp_utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub start_tls: bool,
    /// SIZE (RFC 1870): MAIL may declare one.
    pub size: bool,
    /// The largest message that it takes, where it says.
    pub size_max: Option<u64>,
    /// AUTH (RFC 4954): the mechanisms of those that we know.
    pub mechanisms: Mechanisms,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
}

/// Why a message cannot go to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// It needs SMTPUTF8.
    Utf8,
    /// It holds bytes above 127.
    EightBit,
    /// It is no text.
    Binary,
    /// It is larger than the server takes.
    Size,
    /// It needs REQUIRETLS.
    RequireTls,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "the server does not offer SMTPUTF8",
            Self::EightBit => "the server does not offer 8BITMIME",
            Self::Binary => "the server does not offer CHUNKING and BINARYMIME",
            Self::Size => "the message is larger than the server takes",
            Self::RequireTls => "the server does not offer REQUIRETLS",
        })
    }
}

impl core::error::Error for Lack {}

impl Extensions {
    /// Reads a reply to EHLO or LHLO.
    #[must_use]
    pub fn parse(reply: &Reply<'_>) -> Self {
        let mut found = Self::default();
        // RFC 5321 §4.1.1.1: the first line greets, each other one names an extension.
        for line in reply.lines().skip(1) {
            let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
            if let Some(keyword) = words.next() {
                found.add(keyword, words);
            }
        }
        found
    }

    fn add<'b>(&mut self, keyword: &[u8], mut arguments: impl Iterator<Item = &'b [u8]>) {
        let flag = match () {
            () if keyword.eq_ignore_ascii_case(b"PIPELINING") => &mut self.pipelining,
            () if keyword.eq_ignore_ascii_case(b"CHUNKING") => &mut self.chunking,
            () if keyword.eq_ignore_ascii_case(b"BINARYMIME") => &mut self.binary_mime,
            () if keyword.eq_ignore_ascii_case(b"8BITMIME") => &mut self.eight_bit_mime,
            () if keyword.eq_ignore_ascii_case(b"SMTPUTF8") => &mut self.smtp_utf8,
            () if keyword.eq_ignore_ascii_case(b"DSN") => &mut self.dsn,
            () if keyword.eq_ignore_ascii_case(b"STARTTLS") => &mut self.start_tls,
            () if keyword.eq_ignore_ascii_case(b"REQUIRETLS") => &mut self.require_tls,
            () if keyword.eq_ignore_ascii_case(b"SIZE") => {
                // RFC 1870 §3: without a number, or with 0, no limit is known.
                let number = arguments.next().and_then(|word| token::decimal(word).ok());
                self.size_max = number.filter(|bytes| *bytes > 0);
                &mut self.size
            }
            () if keyword.eq_ignore_ascii_case(b"AUTH") => {
                let known = arguments.filter_map(Mechanism::find);
                self.mechanisms = known.fold(self.mechanisms, Mechanisms::with);
                return;
            }
            () => return,
        };
        *flag = true;
    }

    /// Whether a message with this sender line can go to the server as it is.
    ///
    /// # Errors
    /// What the server lacks for it. Parameters that only ask for reports or name the submitter are
    /// left out where they are not offered, and are no reason.
    pub fn carries(&self, sender: &Sender<'_>) -> Result<(), Lack> {
        if sender.size.zip(self.size_max).is_some_and(|(bytes, most)| bytes > most) {
            return Err(Lack::Size);
        }
        // RFC 6531 §3.3: without SMTPUTF8 such a message goes back.
        if (sender.utf8 || sender.path.is_internationalized()) && !self.smtp_utf8 {
            return Err(Lack::Utf8);
        }
        // RFC 8689 §5: without a reverse path it is a report, which had better arrive than be lost.
        if sender.require_tls && !self.require_tls && sender.path != Path::Null {
            return Err(Lack::RequireTls);
        }
        match sender.body {
            BodyType::EightBit if !self.eight_bit_mime => Err(Lack::EightBit),
            BodyType::Binary if !(self.binary_mime && self.chunking) => Err(Lack::Binary),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::{Parsed, parse};
    use super::*;
    use crate::smtp::address::Mailbox;

    fn read(text: &str) -> Extensions {
        let Parsed::Whole(reply) = parse(text.as_bytes()) else { panic!("a reply") };
        Extensions::parse(&reply)
    }

    #[test]
    fn what_is_offered_is_read_in_any_case_and_the_rest_passed_over() {
        let found = read(
            "250-mx PIPELINING DSN\r\n250-size 1000\r\n250-Chunking\r\n250-BINARYMIME\r\n\
             250-AUTH PLAIN X-NEW scram-sha-256\r\n250-STARTTLS\r\n250-\r\n250-XCLIENT NAME\r\n\
             250-PIPELININGS\r\n250 8BITMIME\r\n",
        );
        let expected = Extensions {
            chunking: true,
            binary_mime: true,
            eight_bit_mime: true,
            start_tls: true,
            size: true,
            size_max: Some(1000),
            mechanisms: Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::ScramSha256),
            ..Extensions::default()
        };
        assert_eq!(found, expected);
        let sizes = ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999"];
        for line in sizes {
            let found = read(&format!("250-mx\r\n250 {line}\r\n"));
            assert_eq!((found.size, found.size_max), (true, None), "{line}");
        }
    }

    #[test]
    fn a_message_goes_where_everything_it_needs_is_offered() {
        let plain = Sender::new(Path::Null);
        let bob = Path::Mailbox(Mailbox::parse("bob@example.net").unwrap());
        let none = Extensions::default();
        let all = read(
            "250-mx\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-BINARYMIME\r\n\
             250-REQUIRETLS\r\n250 SIZE 10\r\n",
        );
        assert_eq!(none.carries(&plain), Ok(()));
        for (sender, lack) in [
            (Sender { utf8: true, ..plain }, Lack::Utf8),
            (Sender { body: BodyType::EightBit, ..plain }, Lack::EightBit),
            (Sender { body: BodyType::Binary, ..plain }, Lack::Binary),
            (Sender { require_tls: true, ..Sender::new(bob) }, Lack::RequireTls),
        ] {
            assert_eq!(none.carries(&sender), Err(lack));
            assert_eq!(all.carries(&sender), Ok(()));
        }
        assert_eq!(none.carries(&Sender { require_tls: true, ..plain }), Ok(()), "a report");
        assert_eq!(none.carries(&Sender { size: Some(11), ..plain }), Ok(()));
        assert_eq!(all.carries(&Sender { size: Some(11), ..plain }), Err(Lack::Size));
        assert_eq!(all.carries(&Sender { size: Some(10), ..plain }), Ok(()));
    }
}
