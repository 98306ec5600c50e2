//! What an SMTP client may say, and which replies it must get: the standard's transaction, as a
//! client knows it from the replies that it has read.
//!
//! Written from the RFCs, not from the server, so that it can disagree.

use std::collections::BTreeSet;

use crate::ledger::Ledger;
use crate::mail;

/// One thing that a client says; a message is named by its token.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// EHLO.
    Hello,
    /// With the size that is declared, and whether the body will be binary.
    Mail(Option<u64>, bool),
    /// For an account, or for nobody.
    Rcpt(Option<u32>),
    /// DATA.
    Data(usize),
    /// What follows 354.
    Body(usize),
    /// A stretch of a message.
    Bdat {
        /// Of which.
        token: usize,
        /// Its first byte.
        from: usize,
        /// The byte behind it.
        to: usize,
        /// Whether the message ends with it.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// HELP.
    Help,
    /// No command at all.
    Junk,
    /// A line that is no line of SMTP: too long, or with a byte that may not be in it.
    Spoiled(&'static [u8]),
    /// QUIT.
    Quit,
}

/// Lines for [`Say::Spoiled`].
pub(crate) const SPOILED: [&[u8]; 4] = [b"NOOP \0\r\n", b"NO\rOP\r\n", b"NOOP\nNOOP\r\n", &LONG];

/// A line that is longer than a server must take.
const LONG: [u8; 3000] = {
    let mut line = [b'x'; 3000];
    line[2998] = b'\r';
    line[2999] = b'\n';
    line
};

impl Say {
    /// Whether storage can be the reason to refuse it.
    pub(crate) fn stores(&self) -> bool {
        matches!(
            self,
            Self::Mail(..) | Self::Rcpt(_) | Self::Data(_) | Self::Body(_) | Self::Bdat { .. }
        )
    }
}

/// Where the dialogue stands.
#[derive(Default)]
pub(crate) struct Model {
    hello: bool,
    mail: bool,
    binary: bool,
    /// Recipients that were accepted.
    pub(crate) accounts: BTreeSet<u32>,
    chunks: bool,
    /// Bytes that the chunks so far have declared.
    chunked: u64,
    /// The message whose DATA was answered 354.
    pub(crate) wanted: Option<usize>,
}

impl Model {
    fn reset(&mut self) {
        *self = Self { hello: self.hello, ..Self::default() };
    }

    /// The replies that may follow `say`, as prefixes, where `most` bytes are taken.
    pub(crate) fn expected(
        &self,
        say: &Say,
        ledger: &Ledger,
        most: u64,
    ) -> &'static [&'static str] {
        let ready = self.mail && !self.accounts.is_empty();
        match say {
            Say::Hello => &["250"],
            Say::Noop => &["250 2.0.0 OK - "],
            Say::Rset => &["250 2.0.0 OK, state reset"],
            Say::Vrfy => &["252"],
            Say::Help => &["214"],
            Say::Junk => &["500"],
            Say::Spoiled(_) => &["500 5.5.2"],
            Say::Quit => &["221"],
            Say::Mail(..) if !self.hello || self.mail => &["503"],
            Say::Mail(Some(size), _) if *size > most => &["552 5.3.4"],
            Say::Mail(..) => &["250 2.1.0"],
            Say::Rcpt(_) if !self.mail || self.chunks => &["503"],
            Say::Rcpt(Some(_)) => &["250 2.1.5"],
            Say::Rcpt(None) => &["550 5.1.1"],
            Say::Data(_) if !ready || self.chunks || self.binary => &["503", "554"],
            Say::Data(_) => &["354"],
            Say::Body(token) => {
                let body = &ledger.entries[*token].body;
                match (body.len() as u64 > most, mail::has_bare_newline(body)) {
                    (true, false) => &["552 5.3.4"],
                    (false, true) => &["550 5.6.11"],
                    (true, true) => &["552 5.3.4", "550 5.6.11"],
                    (false, false) => &["250 2.6.0"],
                }
            }
            Say::Bdat { .. } if !ready => &["503", "554"],
            Say::Bdat { from, to, .. } if self.chunked + (to - from) as u64 > most => {
                &["552 5.3.4"]
            }
            Say::Bdat { token, last: true, .. } => {
                let body = &ledger.entries[*token].body;
                let bare = !self.binary && mail::has_bare_newline(body);
                if bare { &["550 5.6.11"] } else { &["250 2.6.0"] }
            }
            Say::Bdat { .. } => &["250 2.0.0 OK, "],
        }
    }

    /// Moves on by the reply to `say`, and enters in the ledger what became of its message.
    pub(crate) fn learn(&mut self, say: &Say, reply: &str, ledger: &mut Ledger) {
        let good = reply.starts_with('2') || reply.starts_with('3');
        if let Say::Body(token) | Say::Bdat { token, last: true, .. } = say {
            if reply.starts_with("250 2.6.0") {
                ledger.ack(*token, self.accounts.iter().copied(), reply);
            } else if !reply.starts_with("451") {
                ledger.refuse(*token);
            }
        }
        match say {
            Say::Hello if good => {
                self.hello = true;
                self.reset();
            }
            Say::Rset if good => self.reset(),
            Say::Mail(_, binary) if good => (self.mail, self.binary) = (true, *binary),
            Say::Rcpt(Some(number)) if good => drop(self.accounts.insert(*number)),
            Say::Data(token) if good => self.wanted = Some(*token),
            Say::Bdat { last: false, from, to, .. } if good => {
                self.chunks = true;
                self.chunked += (to - from) as u64;
            }
            // Out of place, and the transaction goes on, if there is one.
            Say::Data(_) | Say::Bdat { .. } if reply.starts_with("503") => {}
            // With the message the transaction is over, whatever became of it.
            Say::Data(_) | Say::Body(_) | Say::Bdat { .. } => self.reset(),
            _ => {}
        }
    }
}
