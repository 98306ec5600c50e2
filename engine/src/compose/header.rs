//! Header fields: written word by word, folded between words, never holding what could begin a
//! line of its own.
//!
//! `compose` and `report` push fields; values are checked before they come here ([`is_safe`]), and
//! what is not plain US-ASCII becomes encoded words, so that a line is never longer than RFC 5322
//! §2.1.1 allows. An address is written as it is; what is not US-ASCII in it is told to the caller
//! by [`Fields::is_ascii`], for only SMTPUTF8 can carry it.

use super::encode::encoded_words;

/// RFC 5322 §2.1.1: the length of a line that should not be exceeded, without CRLF.
pub(crate) const FOLD_BYTES: usize = 78;
/// A word that is longer can stand on no line (RFC 5322 §2.1.1: 998), with its name before it.
const WORD_BYTES_MAX: usize = 700;
/// A name that is longer is written in encoded words, which can be folded.
const QUOTED_NAME_BYTES_MAX: usize = 60;

/// The fields of a header section, each ending in CRLF.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    text: String,
    column: usize,
}

impl Fields {
    /// Begins a field.
    pub(crate) fn begin(&mut self, name: &str) {
        self.text.push_str(name);
        self.text.push(':');
        self.column = name.len() + 1;
    }

    /// Adds a word behind a space, on a new line when this one is full. The first word stays with
    /// the name: a field that begins with an empty line is legal and misread by some.
    pub(crate) fn word(&mut self, word: &str) {
        let first = self.text.ends_with(':');
        // RFC 5322 §2.2.3: folding.
        if !first && self.column + 1 + word.len() > FOLD_BYTES {
            self.text.push_str("\r\n");
            self.column = 0;
        }
        self.text.push(' ');
        self.text.push_str(word);
        self.column += 1 + word.len();
    }

    /// Ends the field.
    pub(crate) fn end(&mut self) {
        self.text.push_str("\r\n");
        self.column = 0;
    }

    /// A whole field of words that hold no text of people.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.begin(name);
        value.split(' ').for_each(|word| self.word(word));
        self.end();
    }

    /// A whole field of a sender's own. Its words stay as they are, where they can: it may be of a
    /// kind that knows no encoded words, such as one with addresses of pages.
    pub(crate) fn push_value(&mut self, name: &str, value: &str) {
        let words = || value.split_ascii_whitespace();
        if is_printable(value) && words().all(|word| word.len() <= WORD_BYTES_MAX) {
            self.begin(name);
            words().for_each(|word| self.word(word));
            self.end();
        } else {
            self.push_text(name, value);
        }
    }

    /// A whole field of free text, such as Subject (RFC 5322 §3.6.5), which reads back exactly.
    pub(crate) fn push_text(&mut self, name: &str, text: &str) {
        self.begin(name);
        if is_plain(text) {
            text.split(' ').for_each(|word| self.word(word));
        } else {
            self.encoded(text);
        }
        self.end();
    }

    /// A whole field of addresses (RFC 5322 §3.4).
    pub(crate) fn push_people<'a>(
        &mut self,
        name: &str,
        people: impl IntoIterator<Item = (Option<&'a str>, &'a str)>,
    ) {
        self.begin(name);
        let mut people = people.into_iter().peekable();
        while let Some((name, address)) = people.next() {
            if let Some(name) = name.filter(|n| !n.is_empty()) {
                self.phrase(name);
            }
            let comma = if people.peek().is_some() { "," } else { "" };
            self.word(&format!("<{address}>{comma}"));
        }
        self.end();
    }

    /// The name of a person: a quoted string, or encoded words (RFC 2047 §5).
    fn phrase(&mut self, name: &str) {
        if is_plain(name) && name.len() <= QUOTED_NAME_BYTES_MAX {
            self.word(&format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
        } else {
            self.encoded(name);
        }
    }

    fn encoded(&mut self, text: &str) {
        let room = FOLD_BYTES.saturating_sub(self.column + 1);
        encoded_words(text, room).iter().for_each(|word| self.word(word));
    }

    /// Whether any mail server can carry the fields.
    #[must_use]
    pub(crate) fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// What was written.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Whether a text can stand in a header as it is. What looks like an encoded word cannot.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~')) && !looks_encoded(text)
}

/// Whether a text can be folded, and comes out again as it went in.
fn is_plain(text: &str) -> bool {
    is_printable(text) && text.split(' ').all(|word| !word.is_empty() && word.len() < FOLD_BYTES)
}

/// Whether a reader could take a part of the text for an encoded word.
pub(crate) fn looks_encoded(text: &str) -> bool {
    text.split("=?").skip(1).any(|behind| behind.contains("?="))
}

/// Whether a text may go into a header at all: it has no controls, so no CR, LF or NUL.
#[must_use]
pub(crate) fn is_safe(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Whether a text is a name of a field (RFC 5322 §2.2).
#[must_use]
pub(crate) fn is_field_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b':')
}

/// Whether a text is what stands between the brackets of a message or content id (RFC 5322
/// §3.6.4). An id of a content may lack its `@` and the right side: HTML is full of such.
#[must_use]
pub(crate) fn is_id(text: &str, side_may_lack: bool) -> bool {
    const ID_BYTES_MAX: usize = 250;
    let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let side = |side: &str| !side.is_empty() && side.bytes().all(atom);
    let right = |text: &str| {
        let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-');
        side(text) || literal.is_some_and(|t| !t.is_empty() && t.bytes().all(inside))
    };
    text.len() <= ID_BYTES_MAX
        && match text.split_once('@') {
            Some((id_left, id_right)) => side(id_left) && right(id_right),
            None => side_may_lack && side(text),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        let mut fields = Fields::default();
        fields.push_text("Subject", text);
        fields.text
    }

    #[test]
    fn plain_text_is_folded_between_words() {
        assert_eq!(text("Hello, world: 3 < 4"), "Subject: Hello, world: 3 < 4\r\n");
        let long = "word ".repeat(30);
        let folded = text(long.trim_end());
        assert!(folded.lines().all(|l| l.len() <= FOLD_BYTES), "{folded}");
        assert_eq!(folded.replace("\r\n ", " "), format!("Subject: {}\r\n", long.trim_end()));
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        for not_plain in ["é", "=?utf-8?Q?x?=", "two  spaces", " front", "end ", ""] {
            assert!(!is_plain(not_plain), "{not_plain:?}");
        }
        assert_eq!(text("née"), "Subject: =?utf-8?Q?n=C3=A9e?=\r\n");
        assert_eq!(text("é"), "Subject: =?utf-8?B?w6k=?=\r\n");
        assert_eq!(text(""), "Subject:\r\n");
        assert!(text(&"x".repeat(2000)).lines().all(|l| l.len() <= FOLD_BYTES));
        assert!(text(&"日".repeat(2000)).lines().all(|l| l.len() <= FOLD_BYTES));
    }

    #[test]
    fn words_of_a_value_stay_as_they_are() {
        let value = |value: &str| {
            let mut fields = Fields::default();
            fields.push_value("List-Unsubscribe", value);
            fields.text
        };
        let page = format!("<https://a.test/?q=?{}>", "x".repeat(100));
        assert_eq!(
            value(&format!("{page},  <mailto:a@a.test>")),
            format!("List-Unsubscribe: {page},\r\n <mailto:a@a.test>\r\n")
        );
        assert_eq!(value(""), "List-Unsubscribe:\r\n");
        for encoded in ["é".to_owned(), "x".repeat(WORD_BYTES_MAX + 1), "=?a?Q?b?=".to_owned()] {
            assert!(value(&encoded).contains("=?utf-8?"), "{encoded}");
        }
        let longest_name = "N".repeat(255);
        let mut fields = Fields::default();
        fields.push_value(&longest_name, &"x".repeat(WORD_BYTES_MAX));
        assert!(fields.text.trim_end().len() <= 998);
    }

    #[test]
    fn people_have_their_names_quoted_or_encoded() {
        let mut fields = Fields::default();
        let long = "N".repeat(61);
        fields.push_people(
            "To",
            [
                (Some("Bob \"B\" \\ Doe"), "bob@example.org"),
                (None, "a@example.org"),
                (Some("Zoë, the first"), "zoe@example.org"),
                (Some(&long), "n@example.org"),
            ],
        );
        let text = fields.text;
        assert!(text.starts_with("To: \"Bob \\\"B\\\" \\\\ Doe\" <bob@example.org>,"), "{text}");
        assert!(text.contains(" <a@example.org>,"));
        assert!(text.contains("=?utf-8?Q?Zo=C3=AB=2C_the_first?= <zoe@example.org>,"), "{text}");
        assert!(text.ends_with("<n@example.org>\r\n"));
        assert!(text.lines().all(|l| l.len() <= FOLD_BYTES));
    }

    #[test]
    fn ids_and_names_are_checked() {
        for (id, whole, part) in [
            ("a.b@c.d", true, true),
            ("a@[192.0.2.1]", true, true),
            ("logo", false, true),
            ("", false, false),
            ("a@", false, false),
            ("a b@c", false, false),
            ("a>@c", false, false),
            ("a@b@c", false, false),
        ] {
            assert_eq!((is_id(id, false), is_id(id, true)), (whole, part), "{id:?}");
        }
        assert!(!is_id(&"x".repeat(251), true));
        assert!(is_field_name("X-Mailer") && !is_field_name("X Mailer") && !is_field_name("X:"));
        assert!(!is_field_name("") && !is_field_name("Ü"));
        assert!(is_safe("a b") && !is_safe("a\rb") && !is_safe("a\0b") && !is_safe("a\u{85}b"));
    }
}
