//! `Authentication-Results` (RFC 8601), and what is written like it.
//!
//! [`Results`] writes one field: methods, verdicts, and what they were found of. Whatever strangers
//! have chosen of it is a token, or quoted, without controls, and at most [`VALUE_BYTES_MAX`] long,
//! so a line has at most some 400 bytes and nothing can end the field.

use core::fmt::Write as _;

/// The longest value that is written; what is longer is cut. RFC 5321 §4.5.3.1.3 lets a path have
/// 256.
pub const VALUE_BYTES_MAX: usize = 256;
/// RFC 5322 §2.1.1
const LINE_BYTES: usize = 78;

/// A field in the making.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Results {
    text: String,
    /// Where the line that is being written begins.
    line: usize,
    is_empty: bool,
}

impl Results {
    /// A field of this name by the host that calls itself `own`.
    #[must_use]
    pub fn new(field: &str, own: &str) -> Self {
        Self { text: format!("{field}: {own}"), line: 0, is_empty: true }
    }

    /// Begins with a method and its verdict; both are ours.
    pub fn method(&mut self, name: &str, verdict: &str) -> &mut Self {
        self.is_empty = false;
        self.text.push(';');
        self.fold();
        let _ = write!(self.text, "{name}={verdict}");
        self
    }

    /// Says in words why; in brackets.
    pub fn comment(&mut self, words: &str) -> &mut Self {
        if words.is_empty() {
            return self;
        }
        let mut text = String::from("(");
        for c in cut(words).chars().filter(|c| !c.is_control()) {
            if matches!(c, '(' | ')' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push(')');
        self.add(&text)
    }

    /// Says of what it was found: `smtp.mailfrom` and the like. A value of which nothing can be
    /// shown is left out.
    pub fn property(&mut self, name: &str, value: &str) -> &mut Self {
        if cut(value).chars().all(char::is_control) {
            return self;
        }
        self.add(&format!("{name}={}", quoted(value)))
    }

    /// The field, with its CRLF; it says so when there are no results.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.is_empty {
            // RFC 8601 §2.2: no-result
            self.text.push_str("; none");
        }
        self.end()
    }

    /// The field as it is, with its CRLF: for fields that are only written like results.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.text.push_str("\r\n");
        self.text.into_bytes()
    }

    fn add(&mut self, text: &str) -> &mut Self {
        if self.text.len() - self.line + 1 + text.len() > LINE_BYTES {
            self.fold();
        } else {
            self.text.push(' ');
        }
        self.text.push_str(text);
        self
    }

    fn fold(&mut self) {
        self.text.push_str("\r\n");
        self.line = self.text.len();
        self.text.push('\t');
    }
}

/// Whether the value of a field of another host says that a method had this verdict; what stands
/// in comments and between quotes does not count.
#[must_use]
pub fn says(value: &str, method: &str, verdict: &str) -> bool {
    let wanted = format!("{method}={verdict}");
    let bare = bare(value);
    // The first part is the name of the host.
    bare.split(';').skip(1).any(|part| {
        let mut words = part.split_ascii_whitespace();
        words.next().is_some_and(|first| first.eq_ignore_ascii_case(&wanted))
    })
}

/// A value without its comments and what is quoted: RFC 5322 §3.2.2, §3.2.4.
fn bare(value: &str) -> String {
    let (mut out, mut depth, mut is_quoted) = (String::new(), 0_usize, false);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' if depth == 0 => {
                is_quoted = !is_quoted;
                out.push(' ');
            }
            _ if is_quoted => {}
            '(' => depth += 1,
            ')' => {
                depth = depth.saturating_sub(1);
                out.push(' ');
            }
            _ if depth > 0 => {}
            _ => out.push(c),
        }
    }
    out
}

/// As much of a text as is written.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or(text)
}

/// A value: as it is where it is a word or an address made of such, else quoted (RFC 8601 §2.2).
fn quoted(value: &str) -> String {
    let value = cut(value);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`{|}~@".contains(c);
    let parts = value.split_once('@');
    // A local part may be left out: `@example.org` is whom DKIM names by itself.
    let is_word = parts.is_none_or(|(_, domain)| !domain.contains('@'));
    let dots = |part: &str| part.starts_with('.') || part.ends_with('.') || part.contains("..");
    let odd = parts.is_some_and(|(local, domain)| dots(local) || dots(domain));
    if is_word && !odd && value.chars().all(is_plain) {
        return value.to_owned();
    }
    let mut text = String::from("\"");
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(fill: impl FnOnce(&mut Results)) -> String {
        let mut results = Results::new("Authentication-Results", "mx.a.example");
        fill(&mut results);
        String::from_utf8(results.finish()).unwrap()
    }

    #[test]
    fn reads_as_the_rfc_shows_it() {
        assert_eq!(written(|_| {}), "Authentication-Results: mx.a.example; none\r\n");
        let text = written(|results| {
            results.method("spf", "pass").property("smtp.mailfrom", "me@b.example");
            results.method("dkim", "fail").comment("the body (all) was changed");
            results.property("header.d", "b.example").property("header.i", "@b.example");
            results.property("header.b", "ab/c+1").property("header.s", "");
            results.property("header.a", "\r\n\u{7}");
        });
        let expected = "Authentication-Results: mx.a.example;\r\n\
            \tspf=pass smtp.mailfrom=me@b.example;\r\n\
            \tdkim=fail (the body \\(all\\) was changed) header.d=b.example\r\n\
            \theader.i=@b.example header.b=\"ab/c+1\"\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_strangers_choose_is_quoted_and_cut() {
        for (value, expected) in [
            ("a b@c.example", "\"a b@c.example\""),
            ("a\"\\\r\nX: b", "\"a\\\"\\\\X: b\""),
            ("a@b@c", "\"a@b@c\""),
            ("@b@c", "\"@b@c\""),
            ("@b", "@b"),
            (".a@b", "\".a@b\""),
            ("2001:db8::1", "\"2001:db8::1\""),
            ("p\u{f6}st@\u{f6}.example", "\"p\u{f6}st@\u{f6}.example\""),
            ("a;b=c", "\"a;b=c\""),
        ] {
            assert_eq!(quoted(value), expected);
        }
        assert_eq!(quoted(&"a".repeat(VALUE_BYTES_MAX + 1)).len(), VALUE_BYTES_MAX);
    }

    #[test]
    fn what_another_host_says_is_read_without_comments_and_quotes() {
        for (value, expected) in [
            ("i=1; mx.a.example; spf=pass; dmarc=pass (p=none) header.from=b.example", true),
            ("mx.a.example;\r\n\tDMARC=Pass", true),
            ("mx.a.example; (a) dmarc=pass(b)", true),
            ("mx.a.example; dmarc=fail", false),
            ("mx.a.example; spf=pass (; dmarc=pass)", false),
            ("mx.a.example; spf=pass (a (b) ; dmarc=pass)", false),
            ("mx.a.example; spf=pass smtp.mailfrom=\"; dmarc=pass\"", false),
            ("mx.a.example; spf=pass (\\); dmarc=pass)", false),
            ("mx.a.example; spf=fail dmarc=pass", false),
            ("dmarc=pass", false),
            ("mx.a.example; dmarc=passed", false),
            ("", false),
        ] {
            assert_eq!(says(value, "dmarc", "pass"), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn nothing_ends_the_field(value in any::<String>(), words in any::<String>()) {
            let text = written(|results| {
                results.method("spf", "none").comment(&words).property("smtp.helo", &value);
            });
            let body = text.strip_suffix("\r\n").unwrap();
            prop_assert!(body.split("\r\n").skip(1).all(|line| line.starts_with('\t')));
            prop_assert!(body.split("\r\n").all(|line| line.len() < 998));
            let whole = body.replace("\r\n\t", "");
            prop_assert!(!whole.chars().any(|c| c.is_control() && c != '\t'));
        }
    }
}
