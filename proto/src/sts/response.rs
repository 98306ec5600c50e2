//! The reply of a web server to one request, as far as a policy needs it (RFC 8461 §3.3).
//!
//! The caller sends [`request`], collects what comes, and asks [`read`] after each piece. Limits:
//! those of [`http`](crate::http), and [`POLICY_BYTES_MAX`] for the body. Only `200` with plain
//! text is a reply; nothing is followed elsewhere. Failure: [`ResponseError`].

use core::fmt;

use super::POLICY_BYTES_MAX;
use crate::http::{Fault, head};

/// Where policies lie (RFC 8461 §3.2).
pub const PATH: &str = "/.well-known/mta-sts.txt";

/// What is sent to `host`.
#[must_use]
pub fn request(host: &str) -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fsmtp-engine\r\n\
         Accept: text/plain\r\nConnection: close\r\n\r\n"
    )
}

/// Why a reply is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseError {
    /// It is no HTTP/1 reply.
    Garbage,
    /// Another status than 200.
    Status(u16),
    /// No plain text.
    NotText,
    /// More than is read.
    TooLong,
    /// The connection ended before the reply did.
    Cut,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbage => Fault::Garbage.fmt(f),
            Self::Status(status) => write!(f, "the reply is {status}"),
            Self::NotText => f.write_str("the reply is no plain text"),
            Self::TooLong => Fault::TooLong.fmt(f),
            Self::Cut => Fault::Cut.fmt(f),
        }
    }
}

impl core::error::Error for ResponseError {}

impl From<Fault> for ResponseError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Garbage => Self::Garbage,
            Fault::TooLong => Self::TooLong,
            Fault::Cut => Self::Cut,
        }
    }
}

/// The body of the reply that `bytes` begin with; none as long as some of it is missing. `ended`:
/// no more comes.
///
/// # Errors
/// Why it will never be one.
pub fn read(bytes: &[u8], ended: bool) -> Result<Option<Vec<u8>>, ResponseError> {
    let Some(head) = head(bytes, ended)? else { return Ok(None) };
    // RFC 8461 §3.3: anything else, redirections too, is a failure.
    if head.status != 200 {
        return Err(ResponseError::Status(head.status));
    }
    let kind = head.field("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("text/plain") {
        return Err(ResponseError::NotText);
    }
    Ok(head.body(ended, POLICY_BYTES_MAX)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n";

    fn whole(text: &str) -> Result<String, ResponseError> {
        let body = read(text.as_bytes(), true)?.expect("whole or wrong");
        Ok(String::from_utf8(body).unwrap())
    }

    #[test]
    fn a_body_ends_as_its_header_says() {
        for (rest, body) in [
            ("\r\nabc", "abc"),
            ("\r\n", ""),
            ("Content-Length: 2\r\n\r\nabc", "ab"),
            ("content-length:0\r\n\r\n", ""),
            (
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
                "abc0123456789",
            ),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nab\r\n0\r\n\r\n", "ab"),
        ] {
            assert_eq!(whole(&format!("{TEXT}{rest}")).as_deref(), Ok(body), "{rest}");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        use ResponseError::{Cut, Garbage, NotText, Status, TooLong};
        for (text, error) in [
            ("", Cut),
            ("SSH-2.0-x\r\n\r\n", Garbage),
            ("HTTP/1.1 abc\r\n\r\n", Garbage),
            ("HTTP/2 200 OK\r\n\r\n", Garbage),
            ("HTTP/1.1 301 Moved\r\nLocation: https://a.test/\r\n\r\n", Status(301)),
            ("HTTP/1.1 404 None\r\nContent-Type: text/plain\r\n\r\n", Status(404)),
            ("HTTP/1.1 200 OK\r\n\r\nabc", NotText),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nabc", NotText),
            ("HTTP/1.1 200 OK\r\nno field\r\n\r\n", Garbage),
        ] {
            assert_eq!(whole(text), Err(error), "{text}");
        }
        for (rest, error) in [
            ("Content-Length: 4\r\n\r\nabc", Cut),
            ("Content-Length: -1\r\n\r\nabc", Garbage),
            ("Content-Length: 65537\r\n\r\nabc", TooLong),
            ("Transfer-Encoding: gzip\r\n\r\n", Garbage),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc", Cut),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcde", Garbage),
            ("Transfer-Encoding: chunked\r\n\r\nx\r\n", Garbage),
            ("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", TooLong),
        ] {
            assert_eq!(whole(&format!("{TEXT}{rest}")), Err(error), "{rest}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_read_on() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(crate::http::HEAD_BYTES_MAX));
        assert_eq!(read(endless.as_bytes(), false), Err(ResponseError::TooLong));
        let at_most = format!("{TEXT}\r\n{}", "a".repeat(POLICY_BYTES_MAX));
        assert_eq!(read(at_most.as_bytes(), true).unwrap().unwrap().len(), POLICY_BYTES_MAX);
        assert_eq!(read(format!("{at_most}a").as_bytes(), true), Err(ResponseError::TooLong));
        let chunk = format!("8000\r\n{}\r\n", "a".repeat(0x8000));
        let chunks = format!("{TEXT}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}");
        assert_eq!(read(chunks.as_bytes(), false), Err(ResponseError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_more_of_them_change_no_body(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            header in any::<bool>(),
        ) {
            if header {
                let chunked = format!("{TEXT}Transfer-Encoding: chunked\r\n\r\n");
                bytes.splice(0..0, chunked.into_bytes());
            }
            let mut found = None;
            for end in 0..=bytes.len() {
                if let Ok(Some(body)) = read(&bytes[..end], false) {
                    let first = found.get_or_insert_with(|| body.clone());
                    prop_assert_eq!(&body, first);
                }
            }
            let _ = read(&bytes, true);
        }
    }
}
