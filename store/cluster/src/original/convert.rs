//! What values of the older program are here: pure functions.
//!
//! Called by the reader of its rows and by the command that takes them over.

use core::fmt;

use scylla::value::CqlTimeuuid;

/// 100 ns steps between the beginning of UUIDs' time, 15 October 1582, and 1970 (RFC 9562 §5.1).
const STEPS_TO_1970: u64 = 0x01b2_1dd2_1381_4000;
const STEPS_PER_MS: u64 = 10_000;

/// The name of an account or a message: a UUID that holds a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimeUuid(pub u128);

impl TimeUuid {
    /// When it was made, in milliseconds since 1970; 0 for what is older.
    #[must_use]
    pub const fn ms(self) -> u64 {
        let low = (self.0 >> 96) as u64;
        let middle = (self.0 >> 80) as u64 & 0xffff;
        let high = (self.0 >> 64) as u64 & 0x0fff;
        let steps = (high << 48) | (middle << 32) | low;
        steps.saturating_sub(STEPS_TO_1970) / STEPS_PER_MS
    }
}

impl fmt::Display for TimeUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, digits: u32| (self.0 >> shift) & ((1 << (digits * 4)) - 1);
        let [a, b, c, d, e] = [part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12)];
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl From<CqlTimeuuid> for TimeUuid {
    fn from(uuid: CqlTimeuuid) -> Self {
        Self(uuid.as_u128())
    }
}

impl From<TimeUuid> for CqlTimeuuid {
    fn from(uuid: TimeUuid) -> Self {
        Self::from_u128(uuid.0)
    }
}

/// Where mail of a mailbox belongs here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Folder {
    /// What comes in.
    Inbox,
    /// Copies of what the owner has sent.
    Sent,
}

impl Folder {
    /// None for a mailbox that has no place here.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        // RFC 3501 §5.1: INBOX in any case.
        if path.eq_ignore_ascii_case("INBOX") {
            Some(Self::Inbox)
        } else if path.eq_ignore_ascii_case("INBOX.Sent") {
            Some(Self::Sent)
        } else {
            None
        }
    }
}

/// The address of an account.
#[must_use]
pub fn address(user: &str, domain: &str) -> String {
    format!("{user}@{domain}")
}

/// The same text with CRLF at each end of line and at its end, whatever it had: a CR or an LF that
/// stands alone ends a line, too.
#[must_use]
pub fn with_crlf(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32 + 2);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(other),
        }
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_tells_its_time() {
        for (uuid, ms, text) in [
            // RFC 9562 A.1: Tuesday, February 22, 2022 2:22:22 PM GMT-05:00.
            (
                0xC232_AB00_9414_11EC_B3C8_9F6B_DECE_D846,
                1_645_557_742_000,
                "c232ab00-9414-11ec-b3c8-9f6bdeced846",
            ),
            (0x1381_4000_1dd2_11b2_8000_0000_0000_0000, 0, "13814000-1dd2-11b2-8000-000000000000"),
            (0x0000_0000_0000_1000_8000_0000_0000_0000, 0, "00000000-0000-1000-8000-000000000000"),
        ] {
            let uuid = TimeUuid(uuid);
            assert_eq!((uuid.ms(), uuid.to_string().as_str()), (ms, text));
            assert_eq!(TimeUuid::from(CqlTimeuuid::from(uuid)), uuid);
        }
    }

    #[test]
    fn two_mailboxes_have_a_place() {
        for (path, folder) in [
            ("INBOX", Some(Folder::Inbox)),
            ("inbox", Some(Folder::Inbox)),
            ("INBOX.Sent", Some(Folder::Sent)),
            ("INBOX.Spam", None),
            ("INBOX.Sent.2020", None),
            ("", None),
        ] {
            assert_eq!(Folder::of(path), folder, "{path}");
        }
    }

    #[test]
    fn lines_end_in_crlf_whatever_they_ended_in() {
        for (stored, wanted) in [
            ("", "\r\n"),
            ("a", "a\r\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\nb\n", "a\r\nb\r\n"),
            ("a\rb", "a\r\nb\r\n"),
            ("a\r\r\nb\n\r\n", "a\r\n\r\nb\r\n\r\n"),
            ("\n.\n", "\r\n.\r\n"),
            ("é\n", "é\r\n"),
        ] {
            assert_eq!(with_crlf(stored), wanted.as_bytes(), "{stored:?}");
            let once = with_crlf(stored);
            assert_eq!(with_crlf(core::str::from_utf8(&once).unwrap()), once);
        }
    }
}
