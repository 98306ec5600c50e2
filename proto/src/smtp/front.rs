//! What the front of a header field tells: whether it is one that only nodes of ours may write.
//!
//! Called by [`header`](super::header) at the begin of each line. A pure function of the field's
//! first bytes, [`FRONT_BYTES_MAX`] at most; a field whose front is longer, or says no name where
//! one must stand, is taken for one in our name: who reads it later may take it for one, too.

/// So much of a field is looked at. Arbitrary; the name and a domain have 280 bytes.
pub const FRONT_BYTES_MAX: usize = 512;

const NODES: &[u8] = b"x-fannst-";
const RESULTS: &[u8] = b"authentication-results";

/// What a field is, as far as it is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Front {
    /// Too little of it is here.
    Short,
    /// One that anybody may write; the first so many bytes show that.
    Others(usize),
    /// One that only nodes of ours may write. So many bytes are the field's, perhaps more.
    Ours(usize),
}

/// Looks at a field; `own` is the name under which this host writes results.
pub(super) fn front(bytes: &[u8], own: &str) -> Front {
    let bytes = bytes.get(..FRONT_BYTES_MAX).unwrap_or(bytes);
    let found = match bytes.first() {
        Some(b'x' | b'X') => match shared(bytes, NODES) {
            length if length == NODES.len() => Front::Ours(length),
            length if length == bytes.len() => Front::Short,
            length => Front::Others(length),
        },
        Some(b'a' | b'A') => match shared(bytes, RESULTS) {
            length if length == RESULTS.len() => results(bytes, own),
            length if length == bytes.len() => Front::Short,
            length => Front::Others(length),
        },
        Some(_) => Front::Others(0),
        None => Front::Short,
    };
    if found == Front::Short && bytes.len() == FRONT_BYTES_MAX {
        return Front::Ours(FRONT_BYTES_MAX);
    }
    found
}

/// How many bytes a field has in common with a name.
fn shared(bytes: &[u8], name: &[u8]) -> usize {
    bytes.iter().zip(name).take_while(|(byte, wanted)| byte.eq_ignore_ascii_case(wanted)).count()
}

/// Where one reads on in a field.
enum Stop {
    /// There is no more here.
    Short,
    /// The field ends in front of this place.
    End(usize),
}

/// A field that has the name: RFC 8601 §2.2.
fn results(bytes: &[u8], own: &str) -> Front {
    let mut cursor = Cursor { bytes, at: RESULTS.len() };
    match cursor.name() {
        Ok(None) => Front::Others(cursor.at),
        Ok(Some(name)) => {
            let name = name.strip_suffix(b".").unwrap_or(&name);
            // RFC 8601 §5
            if name.eq_ignore_ascii_case(own.as_bytes()) {
                Front::Ours(cursor.at)
            } else {
                Front::Others(cursor.at)
            }
        }
        Err(Stop::Short) => Front::Short,
        Err(Stop::End(at)) => Front::Ours(at),
    }
}

struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Cursor<'_> {
    /// The byte here, past the folds in front of it.
    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let fold = match rest {
                [] | [b'\r'] => return Err(Stop::Short),
                // What lets a lone LF through, takes it for a line end.
                [b'\r', b'\n', ..] => 2,
                [b'\n', ..] => 1,
                [byte, ..] => return Ok(*byte),
            };
            match rest.get(fold) {
                None => return Err(Stop::Short),
                Some(b' ' | b'\t') => self.at += fold,
                Some(_) => return Err(Stop::End(self.at + fold)),
            }
        }
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    /// The name behind the colon; none when there is no colon, and so another field.
    fn name(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        while matches!(self.peek()?, b' ' | b'\t') {
            self.at += 1;
        }
        if self.peek()? != b':' {
            return Ok(None);
        }
        self.at += 1;
        self.pass_white()?;
        let mut name = Vec::new();
        if self.peek()? == b'"' {
            self.at += 1;
            loop {
                match self.next()? {
                    b'"' => return Ok(Some(name)),
                    b'\\' => name.push(self.next()?),
                    byte => name.push(byte),
                }
            }
        }
        loop {
            match self.peek() {
                Ok(b' ' | b'\t' | b';' | b'(') => return Ok(Some(name)),
                Ok(byte) => name.push(byte),
                // The field may end behind it.
                Err(Stop::End(_)) if !name.is_empty() => return Ok(Some(name)),
                Err(stop) => return Err(stop),
            }
            self.at += 1;
        }
    }

    /// White space and comments: RFC 5322 §3.2.2.
    fn pass_white(&mut self) -> Result<(), Stop> {
        let mut depth = 0_usize;
        loop {
            match (self.peek()?, depth) {
                (b'(', _) => depth += 1,
                (b')', 1..) => depth -= 1,
                (b'\\', 1..) => {
                    self.at += 1;
                    self.peek()?;
                }
                (b' ' | b'\t', _) | (_, 1..) => {}
                (_, 0) => return Ok(()),
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_fields_in_our_name_from_others() {
        for (field, is_ours) in [
            ("X-Fannst-Auth: a\r\n", true),
            ("x-fannst-", true),
            ("X-Fannst: a", false),
            ("Authentication-Results: mx.a.example; spf=pass", true),
            ("authentication-RESULTS:MX.A.example;", true),
            ("Authentication-Results: mx.a.example.;", true),
            ("Authentication-Results : mx.a.example ;", true),
            ("Authentication-Results: mx.a.example 1; none", true),
            ("Authentication-Results: mx.a.example(x); none", true),
            ("Authentication-Results: \"mx.a.example\"; none", true),
            ("Authentication-Results: \"mx\\.a.exam\\ple\"; none", true),
            ("Authentication-Results: (a (b \\) c) d) mx.a.example; none", true),
            ("Authentication-Results:\r\n\tmx.a.example;\r\n\tnone", true),
            ("Authentication-Results:\n (a\n b) mx.a.example;", true),
            ("Authentication-Results: mx.a.example\r\nTo: b", true),
            ("Authentication-Results: mx.b.example; mx.a.example", false),
            ("Authentication-Results: xmx.a.example; none", false),
            ("Authentication-Results: mx.a.example.net; none", false),
            ("Authentication-Results-A: mx.a.example; none", false),
            ("Authentication-Result: mx.a.example; none", false),
            ("ARC-Authentication-Results: mx.a.example; none", false),
            ("Authentication-Results mx.a.example; none", false),
            (" Authentication-Results: mx.a.example", false),
            // No name can be read.
            ("Authentication-Results:\r\nTo: b", true),
            ("Authentication-Results: (a\r\nTo: b", true),
            ("Authentication-Results: ; none", false),
        ] {
            let whole = front(field.as_bytes(), "mx.a.example");
            assert_ne!(whole, Front::Short, "{field:?}");
            assert_eq!(matches!(whole, Front::Ours(_)), is_ours, "{field:?}");
            for cut in 0..field.len() {
                let part = front(&field.as_bytes()[..cut], "mx.a.example");
                assert!(part == Front::Short || part == whole, "{field:?} cut at {cut}: {part:?}");
            }
        }
    }

    #[test]
    fn a_front_past_its_limit_is_taken_for_ours() {
        let field = format!("Authentication-Results: ({})", "a".repeat(FRONT_BYTES_MAX));
        let front_of = |length: usize| front(&field.as_bytes()[..length], "mx.a.example");
        assert_eq!(front_of(FRONT_BYTES_MAX - 1), Front::Short);
        assert_eq!(front_of(FRONT_BYTES_MAX), Front::Ours(FRONT_BYTES_MAX));
        assert_eq!(front_of(field.len()), Front::Ours(FRONT_BYTES_MAX));
    }

    #[test]
    fn the_field_ends_where_the_next_line_is_another() {
        let field = b"Authentication-Results:\r\nTo: b";
        assert_eq!(front(field, "a"), Front::Ours(25));
    }
}
