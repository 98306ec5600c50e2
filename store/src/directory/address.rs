//! Addresses as the directory keeps them: checked and folded to one spelling.
//!
//! Called when something is stored (strict, with reasons) and for each recipient (lenient, no
//! allocation). Folding is Unicode lower case, character by character, so that `Alice@EXAMPLE.test`
//! and `alice@example.test` are one account; RFC 5321 §2.4 leaves local parts to the host that owns
//! them. Domains are compared as written: `bücher.test` and its `xn--` form are two domains.

use crate::StoreError;

/// The longest local part, in bytes (RFC 5321 §4.5.3.1.1).
pub const LOCAL_BYTES_MAX: usize = 64;
/// The longest domain, in bytes (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Local part, `@` and domain.
const FOLDED_BYTES_MAX: usize = LOCAL_BYTES_MAX + 1 + DOMAIN_BYTES_MAX;

/// A folded `local@domain` on the stack.
pub(super) struct Folded {
    bytes: [u8; FOLDED_BYTES_MAX],
    at: usize,
    end: usize,
}

impl Folded {
    /// Folds both parts; `None` when one of them is too long to exist.
    pub(super) fn new(local: &str, domain: &str) -> Option<Self> {
        let mut folded = Self { bytes: [0; FOLDED_BYTES_MAX], at: 0, end: 0 };
        folded.push(local, LOCAL_BYTES_MAX)?;
        folded.at = folded.end;
        *folded.bytes.get_mut(folded.end)? = b'@';
        folded.end += 1;
        folded.push(domain, folded.end + DOMAIN_BYTES_MAX)?;
        Some(folded)
    }

    fn push(&mut self, text: &str, end_max: usize) -> Option<()> {
        if text.is_ascii() {
            let end = self.end + text.len();
            if end > end_max {
                return None;
            }
            let room = self.bytes.get_mut(self.end..end)?;
            room.copy_from_slice(text.as_bytes());
            room.make_ascii_lowercase();
            self.end = end;
            return Some(());
        }
        for folded in text.chars().flat_map(char::to_lowercase) {
            let bytes = folded.len_utf8();
            if self.end + bytes > end_max {
                return None;
            }
            folded.encode_utf8(self.bytes.get_mut(self.end..self.end + bytes)?);
            self.end += bytes;
        }
        Some(())
    }

    /// The whole address.
    pub(super) fn address(&self) -> &str {
        self.part(0, self.end)
    }

    /// The part before the `@`.
    pub(super) fn local(&self) -> &str {
        self.part(0, self.at)
    }

    /// The part behind it.
    pub(super) fn domain(&self) -> &str {
        self.part(self.at + 1, self.end)
    }

    fn part(&self, from: usize, to: usize) -> &str {
        let bytes = self.bytes.get(from..to).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Checks and folds a domain that shall be stored.
///
/// # Errors
/// [`StoreError::Invalid`] with the reason: labels of 1 to 63 letters, digits and inner hyphens are
/// accepted, letters beyond ASCII included (RFC 6531 §3.3); address literals are not.
pub(super) fn domain(text: &str) -> Result<String, StoreError> {
    let bad = |why: &str| Err(StoreError::Invalid(format!("{text:?} is not a domain: {why}")));
    let folded = text.to_lowercase();
    if folded.is_empty() || folded.len() > DOMAIN_BYTES_MAX {
        return bad("1 to 255 bytes are allowed");
    }
    for label in folded.split('.') {
        if label.is_empty() || label.len() > 63 {
            return bad("a label has 1 to 63 bytes");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("a label neither begins nor ends with a hyphen");
        }
        if !label.chars().all(|c| c == '-' || c.is_alphanumeric()) {
            return bad("labels consist of letters, digits and hyphens");
        }
    }
    Ok(folded)
}

/// Checks and folds an address that shall be stored: a dot-atom (RFC 5321 §4.1.2), `@`, a domain.
///
/// # Errors
/// [`StoreError::Invalid`] with the reason. Local parts that would need quotes are refused.
pub(super) fn address(text: &str) -> Result<String, StoreError> {
    let bad = |why: &str| Err(StoreError::Invalid(format!("{text:?} is not an address: {why}")));
    let Some((local, host)) = text.rsplit_once('@') else {
        return bad("it has no @");
    };
    let host = domain(host)?;
    let local = local.to_lowercase();
    if local.is_empty() || local.len() > LOCAL_BYTES_MAX {
        return bad("1 to 64 bytes are allowed before the @");
    }
    if local == "*" {
        return bad("that is the catch-all, an alias");
    }
    if !local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)) {
        return bad("letters, digits and !#$%&'*+-/=?^_`{|}~ are allowed, dots between them");
    }
    Ok(format!("{local}@{host}"))
}

/// Like [`address`], but `*@domain` is meant as the catch-all of the domain.
///
/// # Errors
/// Those of [`address`].
pub(super) fn alias(text: &str) -> Result<String, StoreError> {
    match text.strip_prefix("*@") {
        Some(host) => Ok(format!("*@{}", domain(host)?)),
        None => address(text),
    }
}

/// RFC 5322 §3.2.3 and RFC 6532 §3.2, of the latter only letters and digits.
fn is_atext(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_folded() {
        for (text, folded) in [
            ("Alice@Example.TEST", "alice@example.test"),
            ("a.b+c@x", "a.b+c@x"),
            ("ÄRGER@Bücher.test", "ärger@bücher.test"),
            ("o'brien@xn--bcher-kva.test", "o'brien@xn--bcher-kva.test"),
        ] {
            assert_eq!(address(text).unwrap(), folded);
        }
        for bad in [
            "",
            "alice",
            "@x",
            "a@",
            "a@@x ",
            ".a@x",
            "a.@x",
            "a..b@x",
            "a b@x",
            "\"a b\"@x",
            "a@[127.0.0.1]",
            "a@-x",
            "a@x-",
            "a@x..y",
            "a@x_y",
            "a\r\n@x",
            "a\0@x",
            "a@x.",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let local = "l".repeat(LOCAL_BYTES_MAX);
        let host = format!("{0}.{0}.{0}.{1}", "d".repeat(63), "e".repeat(63));
        assert_eq!(host.len(), DOMAIN_BYTES_MAX);
        let longest = format!("{local}@{host}");
        assert_eq!(address(&longest).unwrap(), longest);
        assert!(address(&format!("l{longest}")).is_err());
        assert!(address(&format!("{longest}e")).is_err());
        assert!(address(&format!("a@{}", "d".repeat(64))).is_err());
        assert_eq!(Folded::new(&local, &host).unwrap().address(), longest);
        assert!(Folded::new(&format!("l{local}"), &host).is_none());
        assert!(Folded::new(&local, &format!("{host}e")).is_none());
        // A letter that grows when it is folded must not overrun.
        assert!(Folded::new(&"\u{130}".repeat(32), "x").is_none());
    }

    #[test]
    fn the_catch_all_is_an_alias_only() {
        assert_eq!(alias("*@Example.test").unwrap(), "*@example.test");
        assert_eq!(alias("Sales@Example.test").unwrap(), "sales@example.test");
        assert!(alias("*@").is_err());
    }

    #[test]
    fn parts_come_apart_again() {
        let folded = Folded::new("Alice+News", "Example.Test").unwrap();
        assert_eq!(folded.local(), "alice+news");
        assert_eq!(folded.domain(), "example.test");
    }
}
