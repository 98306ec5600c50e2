//! Composing a message: from a draft to the bytes that DATA carries.
//!
//! Called by whatever sends mail of its own: the command that tries a mail, the sending interface,
//! reports. Pure: the time, the message id and the random bytes for boundaries are given, so the
//! same draft gives the same message. What comes out is US-ASCII in short lines ending in CRLF,
//! except where only 8BITMIME or SMTPUTF8 can say it, and then [`Composed`] tells.
//!
//! Limits: [`PEOPLE_COUNT_MAX`], [`FILES_COUNT_MAX`], [`HEADERS_COUNT_MAX`], [`FIELD_BYTES_MAX`],
//! [`NAME_BYTES_MAX`], [`CONTENT_BYTES_MAX`]. A draft that breaks a rule is refused with a
//! [`DraftError`] that names the field; no value can begin a header line of its own.

mod encode;
mod header;
mod part;
mod template;
mod twin;

use core::fmt;
use std::borrow::Cow;

use fsmtp_proto::smtp::address::{AddressError, Mailbox};
use fsmtp_rt::UnixTime;

pub(crate) use encode::Transfer;
pub(crate) use header::{Fields, is_id};
pub use part::Random;
pub(crate) use part::{Part, transfer_of_message};
pub use template::{FUEL_MAX, Rendered, TEMPLATE_BYTES_MAX, Template, TemplateError};
pub use twin::text_of_html;

/// The most people in To, Cc and Reply-To: as many as one SMTP transaction takes.
pub const PEOPLE_COUNT_MAX: usize = 1000;
/// The most attachments and pictures.
pub const FILES_COUNT_MAX: usize = 100;
/// The most fields of the sender's own.
pub const HEADERS_COUNT_MAX: usize = 50;
/// The longest subject, and value of a field.
pub const FIELD_BYTES_MAX: usize = 2000;
/// The longest name of a person, a file or a field.
pub const NAME_BYTES_MAX: usize = 255;
/// All texts, pictures and attachments before they are encoded; arbitrary, above what servers take.
pub const CONTENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a draft without any text says, as the original did.
const VERSE: &str = include_str!("templates/verse.html");

/// Someone with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Person<'a> {
    /// As it is shown.
    pub name: Option<&'a str>,
    /// Without angle brackets.
    pub address: &'a str,
}

impl<'a> From<&'a str> for Person<'a> {
    fn from(address: &'a str) -> Self {
        Self { name: None, address }
    }
}

/// A file that goes with a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attachment<'a> {
    /// The name it is kept under.
    pub name: &'a str,
    /// Such as `application/pdf`; parameters may follow.
    pub media_type: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// A picture that the HTML shows as `cid:` and its content id.
#[derive(Clone, Copy, Debug, Default)]
pub struct Picture<'a> {
    /// Without angle brackets.
    pub content_id: &'a str,
    /// The picture.
    pub file: Attachment<'a>,
}

/// What is to be sent. Who gets it is said in the envelope, which also holds the blind copies.
#[derive(Clone, Debug, Default)]
pub struct Draft<'a> {
    /// The author.
    pub from: Person<'a>,
    /// To whom it is addressed.
    pub to: Vec<Person<'a>>,
    /// Who gets a copy.
    pub cc: Vec<Person<'a>>,
    /// Where answers go, if not to the author.
    pub reply_to: Vec<Person<'a>>,
    /// What it is about.
    pub subject: &'a str,
    /// The plain text. When there is HTML only, it is made from that.
    pub text: Option<&'a str>,
    /// The same as HTML.
    pub html: Option<&'a str>,
    /// Files.
    pub attachments: Vec<Attachment<'a>>,
    /// Pictures in the HTML.
    pub pictures: Vec<Picture<'a>>,
    /// Further fields, name and value.
    pub headers: Vec<(&'a str, &'a str)>,
    /// When it was written.
    pub date: UnixTime,
    /// Without angle brackets; see [`message_id`].
    pub message_id: &'a str,
}

/// A message that can be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Composed {
    /// Header and body, before dots are stuffed.
    pub bytes: Vec<u8>,
    /// MAIL must say BODY=8BITMIME.
    pub eight_bit: bool,
    /// MAIL must say SMTPUTF8.
    pub utf8: bool,
}

/// Why a draft is no message. `field` is such as `subject` or `to[2].address`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DraftError {
    /// A line end, NUL or another control character where none can be.
    Control {
        /// Where.
        field: String,
    },
    /// Not an address.
    Address {
        /// Where.
        field: String,
        /// What is wrong with it.
        why: AddressError,
    },
    /// Not of the form that the field asks for.
    Form {
        /// Where.
        field: String,
        /// What is wanted.
        wanted: &'static str,
    },
    /// Longer, or more of them, than is taken.
    TooMuch {
        /// Where.
        field: String,
        /// Bytes of a text, or how many of a list.
        max: usize,
    },
}

impl fmt::Display for DraftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control { field } => {
                write!(f, "{field}: holds a line end or another control character")
            }
            Self::Address { field, why } => write!(f, "{field}: {why}"),
            Self::Form { field, wanted } => write!(f, "{field}: must be {wanted}"),
            Self::TooMuch { field, max } => write!(f, "{field}: more than {max}"),
        }
    }
}

impl core::error::Error for DraftError {}

/// A message id at a host from 64 random bytes: 64 letters and digits, as the original made them.
#[must_use]
pub fn message_id(random: &[u8; 64], host: &str) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |b: &u8| LETTERS.get(usize::from(*b) % LETTERS.len()).copied().map(char::from);
    let mut id: String = random.iter().filter_map(letter).collect();
    id.push('@');
    id.push_str(host);
    id
}

impl Draft<'_> {
    /// Makes the message.
    ///
    /// # Errors
    /// [`DraftError`] for the first field that breaks a rule or a limit.
    pub fn compose(&self, random: &Random) -> Result<Composed, DraftError> {
        self.check()?;
        let body = self.body()?;
        let mut fields = Fields::default();
        for (name, value) in &self.headers {
            fields.push_value(name, value);
        }
        // RFC 5322 §3.6: each of these at most once, Date and From exactly once.
        fields.push_text("Subject", self.subject);
        fields.push("Date", &self.date.to_string());
        fields.push("MIME-Version", "1.0");
        fields.push("Message-ID", &format!("<{}>", self.message_id));
        for (name, people) in [("To", &self.to), ("Cc", &self.cc), ("Reply-To", &self.reply_to)] {
            if !people.is_empty() {
                fields.push_people(name, people.iter().map(|p| (p.name, p.address)));
            }
        }
        fields.push_people("From", [(self.from.name, self.from.address)]);
        let utf8 = !fields.is_ascii() || body.is_international();
        let eight_bit = body.is_eight_bit() || utf8;
        let mut bytes = Vec::new();
        body.write(fields, random, &mut bytes);
        Ok(Composed { bytes, eight_bit, utf8 })
    }

    fn check(&self) -> Result<(), DraftError> {
        let lists = [("to", &self.to), ("cc", &self.cc), ("reply_to", &self.reply_to)];
        let people = lists.iter().map(|(_, people)| people.len()).sum();
        at_most(people, PEOPLE_COUNT_MAX, || "to, cc and reply_to".into())?;
        check_person(&self.from, || "from".into())?;
        for (name, people) in lists {
            for (at, person) in people.iter().enumerate() {
                check_person(person, || format!("{name}[{at}]"))?;
            }
        }
        check_line(self.subject, FIELD_BYTES_MAX, || "subject".into())?;
        if !is_id(self.message_id, false) {
            return Err(form("message_id", "like left@right"));
        }
        at_most(self.headers.len(), HEADERS_COUNT_MAX, || "headers".into())?;
        for (at, (name, value)) in self.headers.iter().enumerate() {
            check_header(name, value, at)?;
        }
        let files = self.attachments.len() + self.pictures.len();
        at_most(files, FILES_COUNT_MAX, || "attachments and pictures".into())?;
        at_most(self.content_bytes(), CONTENT_BYTES_MAX, || "bytes of the content".into())?;
        for (field, text) in [("text", self.text), ("html", self.html)] {
            if text.is_some_and(|t| t.contains('\0')) {
                return Err(DraftError::Control { field: field.into() });
            }
        }
        if !self.pictures.is_empty() && self.html.is_none() {
            return Err(form("pictures", "none when there is no html to show them"));
        }
        Ok(())
    }

    fn content_bytes(&self) -> usize {
        let texts = [self.text, self.html].into_iter().flatten().map(str::len);
        let pictures = self.pictures.iter().map(|p| p.file.bytes.len());
        let attachments = self.attachments.iter().map(|a| a.bytes.len());
        texts.chain(pictures).chain(attachments).fold(0, usize::saturating_add)
    }

    /// Attachments around alternatives, of which the HTML has its pictures with it.
    fn body(&self) -> Result<Part<'_>, DraftError> {
        let html = match (self.text, self.html) {
            (None, None) if self.attachments.is_empty() => Some(VERSE),
            (_, html) => html,
        };
        let shown = match (self.text, html) {
            (text, None) => Part::text("plain", text.unwrap_or_default()),
            (text, Some(html)) => {
                let text = text.map_or_else(|| Cow::Owned(text_of_html(html)), Cow::Borrowed);
                // RFC 2046 §5.1.4: the richest last.
                Part::parts("alternative", vec![Part::text("plain", &text), self.html_part(html)?])
            }
        };
        if self.attachments.is_empty() {
            return Ok(shown);
        }
        let mut parts = vec![shown];
        for (at, file) in self.attachments.iter().enumerate() {
            let part = file_part(file, || format!("attachments[{at}]"))?;
            parts.push(part.with_disposition("attachment", Some(file.name)));
        }
        Ok(Part::parts("mixed", parts))
    }

    fn html_part(&self, html: &str) -> Result<Part<'_>, DraftError> {
        let mut parts = vec![Part::text("html", html)];
        for (at, picture) in self.pictures.iter().enumerate() {
            let field = || format!("pictures[{at}]");
            if !is_id(picture.content_id, true) {
                return Err(form(&format!("{}.content_id", field()), "like left@right"));
            }
            let part = file_part(&picture.file, field)?.with_content_id(picture.content_id);
            parts.push(part.with_disposition("inline", Some(picture.file.name)));
        }
        match (parts.len(), parts.pop()) {
            (1, Some(only)) => Ok(only),
            (_, last) => {
                parts.extend(last);
                // RFC 2387 §3.1: the type of the part that the others belong to.
                Ok(Part::parts("related", parts).with_parameter("type", "text/html"))
            }
        }
    }
}

fn form(field: &str, wanted: &'static str) -> DraftError {
    DraftError::Form { field: field.into(), wanted }
}

fn at_most(count: usize, max: usize, field: impl FnOnce() -> String) -> Result<(), DraftError> {
    if count > max { Err(DraftError::TooMuch { field: field(), max }) } else { Ok(()) }
}

fn check_line(
    text: &str,
    bytes_max: usize,
    field: impl FnOnce() -> String,
) -> Result<(), DraftError> {
    if !header::is_safe(text) {
        return Err(DraftError::Control { field: field() });
    }
    at_most(text.len(), bytes_max, field)
}

fn check_person(person: &Person<'_>, field: impl Fn() -> String) -> Result<(), DraftError> {
    let name = person.name.unwrap_or_default();
    check_line(name, NAME_BYTES_MAX, || format!("{}.name", field()))?;
    match Mailbox::parse(person.address) {
        Ok(_) => Ok(()),
        Err(why) => Err(DraftError::Address { field: format!("{}.address", field()), why }),
    }
}

fn check_header(name: &str, value: &str, at: usize) -> Result<(), DraftError> {
    /// What the draft says elsewhere, and what only servers write.
    const OURS: [&str; 12] = [
        "bcc",
        "cc",
        "content-",
        "date",
        "dkim-signature",
        "from",
        "message-id",
        "mime-version",
        "received",
        "reply-to",
        "return-path",
        "subject",
    ];
    let field = || format!("headers[{at}]");
    if !header::is_field_name(name) {
        return Err(form(&field(), "named in printable US-ASCII without a colon"));
    }
    let lower = name.to_ascii_lowercase();
    if lower == "to" || OURS.iter().any(|o| lower == *o || o.ends_with('-') && lower.starts_with(o))
    {
        return Err(form(&field(), "a field that the draft does not write itself"));
    }
    at_most(name.len(), NAME_BYTES_MAX, field)?;
    check_line(value, FIELD_BYTES_MAX, field)
}

/// A file as a part. Messages go as they are, the rest in base64, so nothing is changed on the way.
fn file_part<'a>(
    file: &Attachment<'a>,
    field: impl Fn() -> String,
) -> Result<Part<'a>, DraftError> {
    check_line(file.name, NAME_BYTES_MAX, || format!("{}.name", field()))?;
    at_most(file.media_type.len(), NAME_BYTES_MAX, || format!("{}.media_type", field()))?;
    let wanted = "a media type like application/pdf, and no multipart";
    let kind = media_type_of(file.media_type);
    let kind = kind.ok_or_else(|| form(&format!("{}.media_type", field()), wanted))?;
    let transfer = if kind == "message" {
        // RFC 2046 §5.2.1: a message inside another is not encoded.
        let wanted = "in lines of at most 998 bytes that end in CRLF, for it is a message";
        transfer_of_message(file.bytes)
            .ok_or_else(|| form(&format!("{}.bytes", field()), wanted))?
    } else {
        Transfer::Base64
    };
    Ok(Part::content(file.media_type, transfer, Cow::Borrowed(file.bytes)))
}

/// The type before the slash, in lower case, of what may be attached (RFC 2045 §5.1).
fn media_type_of(text: &str) -> Option<String> {
    let token = |t: &str| {
        !t.is_empty()
            && t.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let (media_type, parameters) = match text.split_once(';') {
        Some((media_type, parameters)) => (media_type, Some(parameters)),
        None => (text, None),
    };
    let (kind, subtype) = media_type.split_once('/')?;
    let is_parameter = |p: &str| {
        let (name, value) = p.trim().split_once('=').unwrap_or_default();
        let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let inside = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
        token(name) && (token(value) || quoted.is_some_and(|v| v.bytes().all(inside)))
    };
    let parameters_fit = parameters.is_none_or(|p| p.split(';').all(is_parameter));
    let kind_is_a_file = !kind.eq_ignore_ascii_case("multipart");
    let fits = token(kind) && token(subtype) && parameters_fit && kind_is_a_file;
    fits.then(|| kind.to_ascii_lowercase())
}

#[cfg(test)]
pub(crate) mod tests;
