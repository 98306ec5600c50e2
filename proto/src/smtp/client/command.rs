//! Writes the commands of a client session to its outbox.
//!
//! The session calls these with room for [`COMMAND_BYTES_MAX`]. Only parsed addresses and checked
//! values come in, so no argument can hold a newline; parameters stand only where the server has
//! offered their extension.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::extensions::Extensions;
use crate::sasl::{NAME_BYTES_MAX, PASSWORD_BYTES_MAX};
use crate::smtp::ext::{BodyType, Notify, Return, Submitter};
use crate::smtp::server::{Recipient, Sender};
use crate::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use crate::wire::token::{DECIMAL_BYTES_MAX, push_decimal};

/// The longest command that is written: AUTH with the longest name and password.
pub const COMMAND_BYTES_MAX: usize = 16 + (NAME_BYTES_MAX + PASSWORD_BYTES_MAX + 2).div_ceil(3) * 4;

const _: () = assert!(COMMAND_BYTES_MAX < OUTBOX_BYTES_MAX, "an empty outbox takes any command");
// RCPT with a path, NOTIFY, and an ORCPT of 500 bytes.
const _: () = assert!(COMMAND_BYTES_MAX > 1024, "the longest MAIL and RCPT fit, too");

fn number(value: u64, out: &mut Outbox) {
    let mut buffer = [0; DECIMAL_BYTES_MAX];
    out.push(push_decimal(value, &mut buffer));
}

/// EHLO, HELO or LHLO.
pub(super) fn hello(verb: &str, name: &str, out: &mut Outbox) {
    for part in [verb, " ", name, "\r\n"] {
        out.push(part.as_bytes());
    }
}

/// RFC 5321 §4.1.1.2, with the parameters of RFC 1870, 3461, 4954, 6152, 6531 and 8689.
pub(super) fn mail(sender: &Sender<'_>, offered: &Extensions, authed: bool, out: &mut Outbox) {
    out.push(b"MAIL FROM:<");
    out.push(sender.path.text().as_bytes());
    out.push(b">");
    if let Some(bytes) = sender.size.filter(|_| offered.size) {
        out.push(b" SIZE=");
        number(bytes, out);
    }
    match sender.body {
        BodyType::EightBit if offered.eight_bit_mime => out.push(b" BODY=8BITMIME"),
        BodyType::Binary if offered.binary_mime => out.push(b" BODY=BINARYMIME"),
        _ => true,
    };
    if sender.utf8 && offered.smtp_utf8 {
        out.push(b" SMTPUTF8");
    }
    // RFC 8689 §4.2.1
    if sender.require_tls && offered.require_tls {
        out.push(b" REQUIRETLS");
    }
    if offered.dsn {
        match sender.ret {
            Some(Return::Full) => out.push(b" RET=FULL"),
            Some(Return::Headers) => out.push(b" RET=HDRS"),
            None => true,
        };
        if let Some(id) = sender.envelope_id {
            out.push(b" ENVID=");
            out.push(id.encoded().as_bytes());
        }
    }
    // RFC 4954 §5: to a server that we have signed in at.
    match sender.submitter.filter(|_| authed) {
        Some(Submitter::Unknown) => out.push(b" AUTH=<>"),
        Some(Submitter::Mailbox(mailbox)) => {
            out.push(b" AUTH=") && out.push(mailbox.encoded().as_bytes())
        }
        None => true,
    };
    out.push(b"\r\n");
}

/// RFC 5321 §4.1.1.3, with the parameters of RFC 3461.
pub(super) fn rcpt(recipient: &Recipient<'_>, offered: &Extensions, out: &mut Outbox) {
    out.push(b"RCPT TO:<");
    out.push(recipient.path.text().as_bytes());
    out.push(b">");
    if offered.dsn {
        if let Some(notify) = recipient.notify {
            out.push(b" NOTIFY=");
            out.push(words(notify).as_bytes());
        }
        if let Some(original) = recipient.original {
            for part in [" ORCPT=", original.kind, ";", original.address.encoded()] {
                out.push(part.as_bytes());
            }
        }
    }
    out.push(b"\r\n");
}

/// RFC 3461 §4.1.
const fn words(notify: Notify) -> &'static str {
    match (notify.success, notify.failure, notify.delay) {
        (false, false, false) => "NEVER",
        (true, false, false) => "SUCCESS",
        (false, true, false) => "FAILURE",
        (false, false, true) => "DELAY",
        (true, true, false) => "SUCCESS,FAILURE",
        (true, false, true) => "SUCCESS,DELAY",
        (false, true, true) => "FAILURE,DELAY",
        (true, true, true) => "SUCCESS,FAILURE,DELAY",
    }
}

/// RFC 3030 §2.
pub(super) fn bdat(bytes: u64, last: bool, out: &mut Outbox) {
    out.push(b"BDAT ");
    number(bytes, out);
    out.push(if last { b" LAST\r\n" } else { b"\r\n" });
}

/// RFC 4954 §4 with an initial response: the message of RFC 4616 §2. False, and nothing is written,
/// when name or password are too long or hold a NUL.
pub(super) fn auth_plain(user: &str, password: &[u8], out: &mut Outbox) -> bool {
    if user.len() > NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
        return false;
    }
    if user.bytes().chain(password.iter().copied()).any(|byte| byte == 0) {
        return false;
    }
    // Wiped; what is in the outbox goes to the wire and is written over by what follows.
    let message = Zeroizing::new([b"\0", user.as_bytes(), b"\0", password].concat());
    let text = Zeroizing::new(STANDARD.encode(&*message));
    out.push(b"AUTH PLAIN ");
    out.push(text.as_bytes());
    out.push(b"\r\n")
}
