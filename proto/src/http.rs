//! The reply of a web server to one request (RFC 9112), for clients that ask once and close.
//!
//! [`sts`](crate::sts::response) fetches policies with it, the engine asks rspamd. The caller
//! collects what comes, asks [`head`] after each piece and [`Head::body`] when there is one.
//! Limits: [`HEAD_BYTES_MAX`], and for the body what the caller says. Nothing is followed
//! elsewhere. Failure: [`Fault`].

use core::fmt;

/// The longest status line and fields; arbitrary, what common servers take.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a reply is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is no HTTP/1 reply.
    Garbage,
    /// More than is read.
    TooLong,
    /// The connection ended before the reply did.
    Cut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "the reply is no HTTP",
            Self::TooLong => "the reply is too long",
            Self::Cut => "the reply is cut short",
        })
    }
}

impl core::error::Error for Fault {}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    After(usize),
    Chunked,
    WithConnection,
}

/// Status and fields of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'b> {
    /// The status.
    pub status: u16,
    fields: &'b str,
    end: End,
    rest: &'b [u8],
}

/// The head of the reply that `bytes` begin with; none as long as some of it is missing. `ended`:
/// no more comes.
///
/// # Errors
/// Why it will never be one.
pub fn head(bytes: &[u8], ended: bool) -> Result<Option<Head<'_>>, Fault> {
    let within = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    let Some(at) = memchr::memmem::find(within, b"\r\n\r\n") else {
        return match (ended, bytes.len() >= HEAD_BYTES_MAX) {
            (_, true) => Err(Fault::TooLong),
            (true, _) => Err(Fault::Cut),
            (false, _) => Ok(None),
        };
    };
    let (header, rest) = bytes.split_at(at);
    let header = core::str::from_utf8(header).map_err(|_| Fault::Garbage)?;
    let (status, fields) = header.split_once("\r\n").unwrap_or((header, ""));
    // RFC 9112 §4
    let status = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or(Fault::Garbage)?;
    let mut end = End::WithConnection;
    for line in fields.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(Fault::Garbage)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            // RFC 9112 §6.3: it goes before a length.
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Fault::Garbage);
            }
            end = End::Chunked;
        } else if name.eq_ignore_ascii_case("content-length") && end != End::Chunked {
            end = End::After(value.parse().map_err(|_| Fault::Garbage)?);
        }
    }
    Ok(Some(Head { status, fields, end, rest: rest.get(4..).unwrap_or_default() }))
}

impl<'b> Head<'b> {
    /// The value of the first field of this name, in any case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'b str> {
        let mut fields = self.fields.split("\r\n").filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body, as far as it goes up to `bytes_max`; none while some of it is missing.
    ///
    /// # Errors
    /// Why it will never be one.
    pub fn body(&self, ended: bool, bytes_max: usize) -> Result<Option<Vec<u8>>, Fault> {
        let body = match self.end {
            End::After(length) if length > bytes_max => return Err(Fault::TooLong),
            End::After(length) => self.rest.get(..length).map(<[u8]>::to_vec),
            End::WithConnection if self.rest.len() > bytes_max => return Err(Fault::TooLong),
            End::WithConnection => ended.then(|| self.rest.to_vec()),
            End::Chunked => chunks(self.rest, bytes_max)?,
        };
        if body.is_none() && ended { Err(Fault::Cut) } else { Ok(body) }
    }
}

/// What chunks may add to a body; arbitrary, for sizes and extensions of some thousand of them.
const CHUNKS_BYTES_MAX: usize = 64 * 1024;

/// Puts chunks together (RFC 9112 §7.1); none while some are missing. What stands behind the last
/// one is of no interest.
fn chunks(all: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, Fault> {
    let mut body = Vec::new();
    let mut rest = all;
    let missing = || match all.len() > bytes_max.saturating_add(CHUNKS_BYTES_MAX) {
        true => Err(Fault::TooLong),
        false => Ok(None),
    };
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return missing() };
        let (size, behind) = rest.split_at(end);
        let size = size.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let size = core::str::from_utf8(size).ok().filter(|text| !text.starts_with('+'));
        let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or(Fault::Garbage)?;
        if size == 0 {
            return Ok(Some(body));
        }
        if size > bytes_max {
            return Err(Fault::TooLong);
        }
        let behind = behind.get(2..).unwrap_or_default();
        let (Some(chunk), Some(end)) = (behind.get(..size), behind.get(size..size + 2)) else {
            return missing();
        };
        if end != b"\r\n" {
            return Err(Fault::Garbage);
        }
        body.extend_from_slice(chunk);
        if body.len() > bytes_max {
            return Err(Fault::TooLong);
        }
        rest = behind.get(size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 64;

    fn whole(text: &str) -> Result<(u16, String), Fault> {
        let head = head(text.as_bytes(), true)?.expect("whole or wrong");
        let body = head.body(true, MAX)?.expect("whole or wrong");
        Ok((head.status, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn a_body_ends_as_its_header_says() {
        for (rest, status, body) in [
            ("200 OK\r\n\r\nabc", 200, "abc"),
            ("404 None\r\nContent-Length: 2\r\n\r\nabc", 404, "ab"),
            ("204\r\n\r\n", 204, ""),
            (
                "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n\
                 0\r\n\r\n",
                200,
                "abc0123456789",
            ),
        ] {
            assert_eq!(whole(&format!("HTTP/1.1 {rest}")), Ok((status, body.into())), "{rest}");
        }
    }

    #[test]
    fn fields_are_found_in_any_case() {
        let head = head(b"HTTP/1.0 200 OK\r\nA: 1\r\nContent-TYPE:  b \r\nA: 2\r\n\r\n", false);
        let head = head.unwrap().unwrap();
        assert_eq!(head.field("content-type"), Some("b"));
        assert_eq!((head.field("a"), head.field("c")), (Some("1"), None));
    }

    #[test]
    fn every_limit_is_kept() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(head(endless.as_bytes(), false), Err(Fault::TooLong));
        let long = "a".repeat(MAX + 1);
        for (rest, fault) in [
            (format!("\r\n{long}"), Fault::TooLong),
            (format!("Content-Length: {}\r\n\r\n", MAX + 1), Fault::TooLong),
            (format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", MAX + 1), Fault::TooLong),
            (
                format!(
                    "Transfer-Encoding: chunked\r\n\r\n1;{}",
                    "x".repeat(CHUNKS_BYTES_MAX + MAX)
                ),
                Fault::TooLong,
            ),
            ("Content-Length: 4\r\n\r\nabc".to_owned(), Fault::Cut),
            ("Content-Length: x\r\n\r\nabc".to_owned(), Fault::Garbage),
            ("Transfer-Encoding: gzip\r\n\r\n".to_owned(), Fault::Garbage),
        ] {
            assert_eq!(whole(&format!("HTTP/1.1 200 OK\r\n{rest}")), Err(fault), "{rest:.60}");
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_read(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0..3_usize,
        ) {
            let field = ["", "Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"][kind];
            bytes.splice(0..0, format!("HTTP/1.1 200 OK\r\n{field}\r\n").into_bytes());
            let mut found = None;
            for end in 0..=bytes.len() {
                let Ok(Some(head)) = head(&bytes[..end], false) else { continue };
                if let Ok(Some(body)) = head.body(false, 1000) {
                    let first = found.get_or_insert_with(|| body.clone());
                    prop_assert_eq!(&body, first);
                }
            }
        }
    }
}
