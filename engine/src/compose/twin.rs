//! A plain text from HTML, for those who read no HTML.
//!
//! Called by `compose` for a draft without a text. It is honest rather than clever: it keeps the
//! words, the paragraphs, the items of lists and where links lead, and leaves the looks away. Any
//! input gives some text, in one pass; what is cut off in the middle of a tag or comment ends
//! there. The text is not longer than some times the HTML, and never fails.

/// Elements whose content is not for reading.
const UNREAD: [&str; 6] = ["head", "script", "style", "template", "title", "noscript"];
/// Elements that stand on lines of their own.
const BLOCKS: [&str; 22] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "dd",
    "div",
    "dl",
    "dt",
    "figure",
    "footer",
    "form",
    "header",
    "html",
    "main",
    "nav",
    "section",
    "table",
    "tbody",
    "thead",
    "tr",
    "figcaption",
];
/// Elements with an empty line before and behind.
const PARAGRAPHS: [&str; 10] = ["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "pre"];
/// A longer address of a link is not shown.
const LINK_BYTES_MAX: usize = 2000;
/// The longest name of a character, such as `&thetasym;`.
const ENTITY_BYTES_MAX: usize = 10;
/// The names of characters that are written by hand; others stay as they are.
const ENTITIES: [(&str, char); 34] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("euro", '€'),
    ("pound", '£'),
    ("cent", '¢'),
    ("yen", '¥'),
    ("sect", '§'),
    ("deg", '°'),
    ("middot", '·'),
    ("bull", '•'),
    ("hellip", '…'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("times", '×'),
    ("eacute", 'é'),
    ("egrave", 'è'),
    ("euml", 'ë'),
    ("iuml", 'ï'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("szlig", 'ß'),
];

/// The text of HTML.
#[must_use]
pub fn text_of_html(html: &str) -> String {
    let mut text = Text::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (words, tag) = rest.split_at(at);
        text.words(words);
        rest = match Tag::take(tag) {
            Some((tag, after)) => text.tag(&tag, after),
            None => {
                text.words("<");
                tag.get(1..).unwrap_or_default()
            }
        };
    }
    text.words(rest);
    text.finish()
}

/// What stands between `<` and `>`.
struct Tag<'a> {
    name: String,
    closes: bool,
    attributes: &'a str,
}

impl<'a> Tag<'a> {
    /// A tag or comment at the front, and what is behind it; none for a `<` that is only a sign.
    fn take(text: &'a str) -> Option<(Self, &'a str)> {
        let inner = text.strip_prefix('<')?;
        let none = |rest| Some((Self { name: String::new(), closes: false, attributes: "" }, rest));
        if let Some(comment) = inner.strip_prefix("!--") {
            return none(comment.split_once("-->").map_or("", |(_, rest)| rest));
        }
        if inner.starts_with(['!', '?']) {
            return none(inner.split_once('>').map_or("", |(_, rest)| rest));
        }
        let (closes, inner) = inner.strip_prefix('/').map_or((false, inner), |rest| (true, rest));
        if !inner.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let (whole, rest) = inner.split_at(tag_bytes(inner));
        let name = whole.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let attributes = whole.get(name.len()..).unwrap_or_default();
        let name = name.to_ascii_lowercase();
        Some((Self { name, closes, attributes }, rest.strip_prefix('>').unwrap_or(rest)))
    }

    /// The value of an attribute.
    fn attribute(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '/'));
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            let after = after.trim_start();
            let (value, after) = match after.strip_prefix('=') {
                None => ("", after),
                Some(value) => attribute_value(value.trim_start()),
            };
            if name.eq_ignore_ascii_case(wanted) {
                return Some(decoded(value));
            }
            if after.len() >= rest.len() || after.is_empty() {
                return None;
            }
            rest = after;
        }
    }
}

fn attribute_value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.split_once(quote).unwrap_or((inner, ""));
        }
    }
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// Up to the `>` that ends a tag: not one in quotes, unless they are never closed.
fn tag_bytes(inner: &str) -> usize {
    let mut quote = None;
    let mut first = None;
    for (at, byte) in inner.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if byte == open => quote = None,
            (Some(_), b'>') if first.is_none() => first = Some(at),
            _ => {}
        }
    }
    first.unwrap_or(inner.len())
}

/// The text so far, and what has to stand before the next word.
#[derive(Default)]
struct Text {
    out: String,
    /// Line ends that are due, at most two.
    breaks: usize,
    space: bool,
    preformatted: usize,
    /// Where the link leads whose words are being read, and where they begin.
    link: Option<(String, usize)>,
}

impl Text {
    fn words(&mut self, html: &str) {
        for c in decoded(html).chars() {
            match c {
                '\n' if self.preformatted > 0 => self.out.push('\n'),
                c if c.is_whitespace() && self.preformatted == 0 => self.space = true,
                c if c.is_control() && c != '\t' => {}
                c => self.push(c),
            }
        }
    }

    fn push(&mut self, c: char) {
        if !self.out.is_empty() {
            match self.breaks {
                0 if self.space && !self.out.ends_with('\n') => self.out.push(' '),
                0 => {}
                breaks => {
                    let there = self.out.bytes().rev().take_while(|b| *b == b'\n').count();
                    (there..breaks).for_each(|_| self.out.push('\n'));
                }
            }
        }
        self.breaks = 0;
        self.space = false;
        self.out.push(c);
    }

    /// Does what a tag means, and returns what is still to be read behind it.
    fn tag<'a>(&mut self, tag: &Tag<'_>, rest: &'a str) -> &'a str {
        let name = tag.name.as_str();
        if UNREAD.contains(&name) && !tag.closes {
            return behind_closing(name, rest);
        }
        match name {
            "br" => self.line_end(),
            "hr" => self.due(2),
            "li" if !tag.closes => {
                self.due(1);
                self.push('-');
                self.space = true;
            }
            "td" | "th" => self.space = true,
            "a" => self.link(tag),
            "img" => self.words(&tag.attribute("alt").unwrap_or_default()),
            _ if PARAGRAPHS.contains(&name) => {
                self.due(2);
                if name == "pre" {
                    let depth = self.preformatted;
                    self.preformatted =
                        if tag.closes { depth.saturating_sub(1) } else { depth + 1 };
                }
            }
            _ if BLOCKS.contains(&name) => self.due(1),
            _ => {}
        }
        rest
    }

    fn due(&mut self, breaks: usize) {
        self.breaks = self.breaks.max(breaks);
    }

    fn line_end(&mut self) {
        self.space = false;
        self.breaks = (self.breaks + 1).min(2);
    }

    /// Says behind the words of a link where it leads, unless they are just that.
    fn link(&mut self, tag: &Tag<'_>) {
        if let Some((target, start)) = self.link.take() {
            let words = self.out.get(start..).unwrap_or_default().trim();
            let bare = target.strip_prefix("mailto:").unwrap_or(&target);
            if !words.is_empty() && words != target && words != bare {
                self.space = true;
                self.push('(');
                self.out.push_str(bare);
                self.out.push(')');
            }
        }
        if !tag.closes
            && let Some(target) = tag.attribute("href")
            && ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
            && target.len() <= LINK_BYTES_MAX
            && !target.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            self.link = Some((target, self.out.len()));
        }
    }

    fn finish(mut self) -> String {
        let end = self.out.trim_end().len();
        self.out.truncate(end);
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }
}

/// What stands behind the end tag of an element, nothing if it has none.
fn behind_closing<'a>(name: &str, html: &'a str) -> &'a str {
    let mut rest = html;
    while let Some(at) = rest.find("</") {
        let (_, tag) = rest.split_at(at + 2);
        let found = tag.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name));
        if found {
            return tag.split_once('>').map_or("", |(_, after)| after);
        }
        rest = tag;
    }
    ""
}

/// Replaces `&name;` and `&#number;`.
fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        out.push_str(before);
        let name = entity.bytes().take(ENTITY_BYTES_MAX + 2).position(|b| b == b';');
        let name = name.and_then(|end| Some((entity.get(1..end)?, entity.get(end + 1..)?)));
        match name.and_then(|(name, after)| Some((character(name)?, after))) {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = entity.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let hex = number.strip_prefix(['x', 'X']);
        let code = match hex {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|c| *c != '\0');
    }
    ENTITIES.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_paragraphs_lists_and_links_stay() {
        for (html, text) in [
            ("", ""),
            ("plain words", "plain words\n"),
            ("<p>one</p><p>two<br>three</p>", "one\n\ntwo\nthree\n"),
            ("<h1>Title</h1>\n <div>a\n b</div><div>c</div>", "Title\n\na b\nc\n"),
            ("<ul><li>one<li>two</ul>end", "- one\n- two\n\nend\n"),
            ("<a href='https://a.test/x?a=1&amp;b'>here</a>.", "here (https://a.test/x?a=1&b).\n"),
            ("<a href=https://a.test>https://a.test</a>", "https://a.test\n"),
            ("<a href=\"mailto:a@b.test\">a@b.test</a>", "a@b.test\n"),
            ("<a href='javascript:x()'>no</a>", "no\n"),
            ("<pre>a\n  b</pre>", "a\n  b\n"),
            ("<img src=x alt='A &lt;cat&gt;'>", "A <cat>\n"),
            ("&euro;&#8364;&#x20AC;&unknown;&", "€€€&unknown;&\n"),
            ("1 < 2 && 3 > 2", "1 < 2 && 3 > 2\n"),
            ("<!doctype html><!-- no --><title>t</title>yes", "yes\n"),
            ("<STYLE>p{}</STYLE><script>if (a<b) {}</script>yes", "yes\n"),
            ("<b title='>'>bold</b> <tr><td>1</td><td>2</td></tr>", "bold\n1 2\n"),
            ("a&#0;&#13;b\u{7}c", "a&#0; bc\n"),
        ] {
            assert_eq!(text_of_html(html), text, "{html}");
        }
    }

    #[test]
    fn what_is_cut_off_ends_there() {
        for (html, text) in [
            ("a<!-- b", "a\n"),
            ("a<script>b", "a\n"),
            ("a<b title=\"x", "a\n"),
            ("a<b title=\"x>c", "ac\n"),
            ("a<", "a<\n"),
            ("a</", "a</\n"),
        ] {
            assert_eq!(text_of_html(html), text, "{html}");
        }
    }

    #[test]
    fn the_verse_reads_as_the_original_wrote_it() {
        let text = "Roses are red.\nViolets are blue.\nSomeone did NOT specify an message body.\n";
        assert_eq!(text_of_html(super::super::VERSE), text);
    }

    proptest! {
        #[test]
        fn any_input_gives_a_text_without_controls(html in "[<>a&;#'\"=/! \\-\\n\u{0}é]{0,200}") {
            let text = text_of_html(&html);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
