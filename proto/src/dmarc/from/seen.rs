//! A From field that does not follow the grammar: every domain that a reader could see in it.
//!
//! Called by [`authors`](super::authors()). Programs write `a@d.example <a@d.example>` and
//! `Doe, Jane <jane@d.example>`, and each reader takes its own part of such a field for the author.
//! So what stands behind every `@` is one, in quotes, comments and brackets, too. What would be
//! another name to who passes over a comment, a quote or a letter that is no part of a name, is
//! refused.

use memchr::{memchr, memmem};

use super::{BadFrom, List, blank, canonical, literal};

/// The domains; none when nobody could see one.
pub(super) fn domains(value: &[u8]) -> Result<Vec<String>, BadFrom> {
    if hides_an_address(value) {
        return Err(BadFrom::Syntax);
    }
    // What folds the field at its end says nothing.
    let mut list = List::new(value.trim_ascii_end());
    while let Some(at) = memchr(b'@', list.rest) {
        list.rest = list.rest.get(at + 1..).unwrap_or_default();
        list.one_more()?;
        let front = blank(list.rest);
        let end = front.iter().position(|&byte| !is_of_name(byte)).unwrap_or(front.len());
        let (name, behind) = front.split_at(end);
        match (name.is_empty(), front.first()) {
            (true, None | Some(b'@')) => continue,
            (true, Some(b'[')) => {
                literal(front)?;
                continue;
            }
            (true, Some(_)) => return Err(BadFrom::Syntax),
            (false, _) => {}
        }
        let name = core::str::from_utf8(name).map_err(|_| BadFrom::Syntax)?;
        let domain = canonical(ended(name, behind)?).ok_or(BadFrom::Domain)?;
        // Without a dot nobody takes it for a domain, and no policy is for it.
        if domain.contains('.') {
            list.put(domain)?;
        }
    }
    Ok(list.domains)
}

/// The name, if it ends there for every reader.
fn ended<'n>(name: &'n str, behind: &[u8]) -> Result<&'n str, BadFrom> {
    let (next, after) = (behind.first(), behind.get(1));
    let ends = match next {
        None | Some(b',' | b';' | b':' | b')' | b']' | b'\'' | b'@') => true,
        Some(b'<' | b'>') => after != Some(&b'.'),
        // RFC 5322 §4.4: quotes may stand for a part of a name.
        Some(b'"') => {
            matches!(after, None | Some(b' ' | b'\t' | b'\r' | b'<' | b'>' | b',' | b';'))
        }
        Some(b' ' | b'\t' | b'\r' | b'\n') => match blank(behind) {
            [b'.', ..] => false,
            // RFC 5322 §4.4: a comment may stand before a dot.
            rest @ [b'(', ..] => {
                let mut rest = List::new(rest);
                name.contains('.') && matches!(rest.next(), Ok(next) if next != Some(b'.'))
            }
            _ => true,
        },
        Some(_) => false,
    };
    if !ends {
        return Err(BadFrom::Syntax);
    }
    match name.strip_suffix('.') {
        // One that ends a sentence ends no name that goes on.
        Some(name) if matches!(next, None | Some(b'>' | b',' | b';')) => Ok(name),
        Some(_) => Err(BadFrom::Syntax),
        None => Ok(name),
    }
}

/// What a domain is made of; dots of other scripts are among what is no ASCII.
const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'-' | b'.' | b'_')
}

/// Whether there is an `@` that shows only to who decodes: in words that are encoded (RFC 2047), or
/// in letters that look like it.
fn hides_an_address(value: &[u8]) -> bool {
    let alike = ["\u{ff20}", "\u{fe6b}"];
    alike.iter().any(|letter| memmem::find(value, letter.as_bytes()).is_some())
        || encoded(value).is_none()
}

/// Passes over words that are encoded; none when one of them holds an `@`, or may.
fn encoded(mut value: &[u8]) -> Option<()> {
    while let Some(at) = memmem::find(value, b"=?") {
        let word = core::str::from_utf8(value.get(at + 2..)?).ok();
        // What is no UTF-8 behind it is not decoded by anybody in the same way.
        let mut parts = word?.splitn(3, '?');
        let (charset, coding, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (text, _) = rest.split_once("?=")?;
        // UTF-7 writes `@` in letters.
        if charset.to_ascii_lowercase().contains("utf-7") {
            return None;
        }
        let is_free = match coding {
            "b" | "B" => !crate::dkim::record::decode(text)?.contains(&b'@'),
            "q" | "Q" => !text.contains('@') && !text.contains("=40"),
            _ => false,
        };
        if !is_free {
            return None;
        }
        let behind = value.len() - rest.len() + text.len() + 2;
        value = value.get(behind..)?;
    }
    Some(())
}
