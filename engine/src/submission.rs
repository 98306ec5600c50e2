//! A message that a user submits: its header is looked at and mended before it is stored.
//!
//! Called by the desk for users who have signed in. The header is held until it is whole; the body
//! passes through. What leaves is what is stored, and what DKIM signs.
//!
//! * `Message-ID`, `Date` and `From` are added where they are missing (RFC 6409 §8).
//! * `Bcc` (RFC 5322 §3.6.3), `Return-Path` and the `X-Fannst-` fields, which nodes write, go.
//! * `From` and `Sender` must name addresses of the user only, once; whose they are is the caller's
//!   to say. A message that is sent on (`Resent-From`, RFC 5322 §3.6.6) may be from anybody
//!   elsewhere, but not from somebody else here.
//!
//! Limits: those of `dkim::header`. Failure: [`Wrong`], for the reply at the end of the message.

use std::borrow::Cow;

use fsmtp_proto::dkim::header::{Field, HeaderError, Section, fields};
use fsmtp_rt::UnixTime;
use mail_parser::{Address, MessageParser};

use crate::dkim::DomainSigner;

/// Fields that do not leave this node.
const KEPT_BACK: [&str; 2] = ["bcc", "return-path"];
/// The front of the names of fields that nodes write.
const NODES: &[u8] = b"x-fannst-";

/// Why a message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    /// Its header is over a limit.
    Header,
    /// It has several `From`, or one that cannot be read.
    From,
    /// Its `From` names somebody else.
    NotYours,
}

/// Whose an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// The user's.
    Own,
    /// Somebody else's in a domain that is served here.
    Others,
    /// In another domain, or none.
    Elsewhere,
}

/// What a header is mended with.
#[derive(Debug)]
pub(crate) struct Terms<'t> {
    /// For a message without `From`; empty when nobody is known.
    pub(crate) from: &'t str,
    /// For one without `Date`.
    pub(crate) date: UnixTime,
    /// For one without `Message-ID`, with its brackets.
    pub(crate) message_id: &'t str,
}

/// A message on its way in.
#[derive(Debug, Default)]
pub(crate) struct Submission {
    section: Section,
    signer: Option<DomainSigner>,
    /// The header has left.
    passing: bool,
}

impl Submission {
    /// Before the first byte; `signer` is that of the sender's domain.
    pub(crate) fn new(signer: Option<DomainSigner>) -> Self {
        Self { section: Section::new(), signer, passing: false }
    }

    /// Takes the next bytes; gives what is to be stored in their place.
    ///
    /// # Errors
    /// [`Wrong`]; `whose` says whose an address is.
    pub(crate) fn feed<'b>(
        &mut self,
        bytes: &'b [u8],
        terms: &Terms<'_>,
        whose: impl Fn(&str) -> Whose,
    ) -> Result<Cow<'b, [u8]>, Wrong> {
        if self.passing {
            self.sign(bytes);
            return Ok(Cow::Borrowed(bytes));
        }
        let body = self.section.feed(bytes);
        if !self.section.is_over() {
            return match self.section.bytes() {
                Ok(_) => Ok(Cow::Borrowed(&[])),
                Err(_) => Err(Wrong::Header),
            };
        }
        let mut out = self.leave(terms, whose)?;
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        self.sign(&out);
        Ok(Cow::Owned(out))
    }

    /// The message is over; gives what is to be stored behind the rest: the header of a message
    /// that has nothing else.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub(crate) fn end(
        &mut self,
        terms: &Terms<'_>,
        whose: impl Fn(&str) -> Whose,
    ) -> Result<Vec<u8>, Wrong> {
        if self.passing {
            return Ok(Vec::new());
        }
        let out = self.leave(terms, whose)?;
        self.sign(&out);
        Ok(out)
    }

    /// What signs it, once it is over.
    pub(crate) fn signer(self) -> Option<DomainSigner> {
        self.signer
    }

    fn sign(&mut self, bytes: &[u8]) {
        if let Some(signer) = &mut self.signer {
            signer.feed(bytes);
        }
    }

    fn leave(
        &mut self,
        terms: &Terms<'_>,
        whose: impl Fn(&str) -> Whose,
    ) -> Result<Vec<u8>, Wrong> {
        self.passing = true;
        let section = core::mem::take(&mut self.section);
        let bytes = section.bytes().map_err(|_: HeaderError| Wrong::Header)?;
        let fields = fields(bytes).map_err(|_| Wrong::Header)?;
        // What one program takes for a field and another does not could show the reader another
        // sender than the one that was looked at.
        if has_bare_newline(bytes) || fields.iter().any(|field| field.name().is_empty()) {
            return Err(Wrong::Header);
        }
        // RFC 5322 §3.6.6: the newest block of them stands first.
        let resent = fields.iter().find(|field| field.is("resent-from"));
        let resent = match resent {
            None => false,
            Some(field) => {
                let addresses = addresses(field.value()).ok_or(Wrong::From)?;
                if !addresses.iter().all(|address| whose(address) == Whose::Own) {
                    return Err(Wrong::NotYours);
                }
                true
            }
        };
        for name in ["from", "sender"] {
            let mut same = fields.iter().filter(|field| field.is(name));
            // RFC 5322 §3.6: one of each.
            match (same.next(), same.next()) {
                (None, _) => {}
                (Some(_), Some(_)) => return Err(Wrong::From),
                (Some(field), None) => {
                    let addresses = addresses(field.value()).ok_or(Wrong::From)?;
                    let may = |address: &String| match whose(address) {
                        Whose::Own => true,
                        Whose::Others => false,
                        Whose::Elsewhere => resent,
                    };
                    if !addresses.iter().all(may) {
                        return Err(Wrong::NotYours);
                    }
                }
            }
        }
        let mut out = Vec::with_capacity(bytes.len() + 256);
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() && !fields.iter().any(|field| field.is(name)) {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
        };
        add("Message-ID", terms.message_id);
        add("Date", &terms.date.to_string());
        add("From", terms.from);
        for field in fields.iter().filter(|field| leaves(field)) {
            out.extend_from_slice(field.bytes());
            out.extend_from_slice(b"\r\n");
        }
        Ok(out)
    }
}

fn leaves(field: &Field<'_>) -> bool {
    let name = field.name();
    let is_nodes = name.get(..NODES.len()).is_some_and(|front| front.eq_ignore_ascii_case(NODES));
    !is_nodes && !KEPT_BACK.iter().any(|kept| field.is(kept))
}

/// Whether a CR or LF stands alone.
fn has_bare_newline(header: &[u8]) -> bool {
    let mut before = 0;
    for &byte in header {
        if (byte == b'\n') != (before == b'\r') {
            return true;
        }
        before = byte;
    }
    before == b'\r'
}

/// The addresses of a field's value; none when one of them is none, or a group.
fn addresses(value: &[u8]) -> Option<Vec<String>> {
    let field = [b"From:", value, b"\r\n\r\n"].concat();
    let message = MessageParser::default().parse_headers(&field)?;
    let Some(Address::List(list)) = message.from() else { return None };
    let addresses: Option<Vec<String>> =
        list.iter().map(|one| one.address().map(str::to_owned)).collect();
    addresses.filter(|addresses| !addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms<'_> = Terms {
        from: "me@here.test",
        date: UnixTime::from_ms(1_700_000_000_000),
        message_id: "<new@here.test>",
    };
    const ADDED: &str = "Message-ID: <new@here.test>\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n";

    /// What is stored of `message` when it comes cut at `cut`.
    fn stored(message: &str, cut: usize) -> Result<String, Wrong> {
        let (front, rest) = message.as_bytes().split_at(cut.min(message.len()));
        let whose = |address: &str| match address.rsplit_once('@') {
            Some(("me" | "you", "here.test")) => Whose::Own,
            Some((_, "here.test")) => Whose::Others,
            _ => Whose::Elsewhere,
        };
        let mut submission = Submission::new(None);
        let mut out = submission.feed(front, &TERMS, whose)?.into_owned();
        out.extend_from_slice(&submission.feed(rest, &TERMS, whose)?);
        out.extend(submission.end(&TERMS, whose)?);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_missing_is_added_and_what_should_not_leave_goes() {
        let from = "From: \"Me, myself\" <me@here.test>,\r\n (and) you@here.test\r\n";
        let whole = "Date: x\r\nmessage-id: <1>\r\n";
        for (message, wanted) in [
            (
                "Subject: a\r\n\r\nbody\r\n".to_owned(),
                format!("{ADDED}From: me@here.test\r\nSubject: a\r\n\r\nbody\r\n"),
            ),
            (
                format!(
                    "{whole}Bcc: x@y.test,\r\n z@y.test\r\n{from}X-Fannst-Auth: su=pass\r\n\r\n"
                ),
                format!("{whole}{from}\r\n"),
            ),
            (format!("{from}Return-path: <x>\r\n\r\nb"), format!("{ADDED}{from}\r\nb")),
            (
                format!("Resent-From: me@here.test\r\n{whole}From: you@there.test\r\n\r\nb"),
                format!("Resent-From: me@here.test\r\n{whole}From: you@there.test\r\n\r\nb"),
            ),
            // A header without a body, and nothing at all.
            (format!("{whole}{from}"), format!("{whole}{from}")),
            (String::new(), format!("{ADDED}From: me@here.test\r\n")),
            ("\r\nbody".to_owned(), format!("{ADDED}From: me@here.test\r\n\r\nbody")),
        ] {
            for cut in 0..=message.len() {
                assert_eq!(stored(&message, cut).as_ref(), Ok(&wanted), "{message:?} at {cut}");
            }
        }
    }

    #[test]
    fn nobody_sends_as_somebody_else() {
        for (header, wrong) in [
            ("From: you@there.test\r\n", Wrong::NotYours),
            ("From: me@here.test, you@there.test\r\n", Wrong::NotYours),
            ("From: me@here.test <you@there.test>\r\n", Wrong::NotYours),
            ("From: \"me@here.test\" <you@there.test>\r\n", Wrong::NotYours),
            ("From: me@here.test\r\nfrom: you@there.test\r\n", Wrong::From),
            ("From:\r\n", Wrong::From),
            ("From: boss@here.test\r\nResent-From: me@here.test\r\n", Wrong::NotYours),
            ("From: a@there.test\r\nResent-From: b@there.test\r\n", Wrong::NotYours),
            ("From: you@there.test: me@here.test;\r\n", Wrong::From),
            ("From: me@here.test\r\nSender: you@there.test\r\n", Wrong::NotYours),
            // What other programs may take for a From, or for a part of one.
            (" <you@there.test>\r\nSubject: x\r\n", Wrong::Header),
            ("From: you@there.test\r\nFr om: me@here.test\r\n", Wrong::Header),
            ("From: you@there.test\r\n:From: me@here.test\r\n", Wrong::Header),
            ("X: a\nFrom: you@there.test\r\n", Wrong::Header),
            ("X: a\rFrom: you@there.test\r\n", Wrong::Header),
            ("From: you@there.test\r\nX: a\nFrom: me@here.test\r\n", Wrong::Header),
        ] {
            assert_eq!(stored(&format!("{header}\r\nbody"), 5), Err(wrong), "{header}");
        }
        let long = format!("X: {}\r\n\r\n", "x".repeat(300_000));
        assert_eq!(stored(&long, 9), Err(Wrong::Header));
        let many = format!("{}\r\n", "x: y\r\n".repeat(2001));
        assert_eq!(stored(&many, 9), Err(Wrong::Header));
    }
}
