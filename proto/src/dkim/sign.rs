//! Signing: a message streams by, and fields to put in front of it come out.
//!
//! [`Signer::feed`] is given the message as it will be sent: final form, CRLF line ends, no dots
//! doubled, with every field that this host adds (`Received`, `Message-ID`, `Date`). Fields that
//! the transport puts in front afterwards break nothing as long as they are none of those below.
//! [`Signer::finish`] signs with each key; the body is hashed once for all of them.
//!
//! Every field of the table `FIELDS` that is there is signed, each time that it is there. Some are
//! named in `h=` once more than they are there (RFC 6376 §5.4.2), so that whoever adds one breaks
//! the signature; which, says `More`.
//!
//! Memory: the header section ([`HEADER_BYTES_MAX`](super::header::HEADER_BYTES_MAX)), and as much
//! again while it signs. An RSA signature costs the processor about a millisecond, so `finish`
//! belongs on a helper thread. Fails by [`SignError`]; the message can go without a signature then.

use core::fmt::{self, Write as _};
use core::time::Duration;

use super::canon::{BodyHash, Canon};
use super::header::{Field, HeaderError, Section, fields};
use super::key::Key;
use crate::sasl::encode;
use crate::time::UnixTime;

/// The longest line of a field that is made here, without its CRLF (RFC 5322 §2.1.1). A domain or
/// a selector that is longer makes a longer one, for it cannot be folded.
pub const LINE_BYTES_MAX: usize = 78;

/// Which fields are named in `h=` once more than they are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum More {
    /// Those that nobody adds on the way, and that mislead the reader when somebody does.
    Always,
    /// Those that may be once: when one is there, a second is a lie. When none is there a host on
    /// the way may add it.
    Once,
    /// Those that may be there again for each time that a message is resent.
    Never,
}

/// What is signed when it is there: what RFC 6376 §5.4.1 proposes, what says how the body is to be
/// read, `Message-ID`, and `List-Unsubscribe-Post`, which must be signed (RFC 8058 §3.1).
const FIELDS: [(&str, More); 31] = [
    ("from", More::Always),
    ("sender", More::Once),
    ("reply-to", More::Always),
    ("subject", More::Always),
    ("date", More::Once),
    ("message-id", More::Once),
    ("to", More::Always),
    ("cc", More::Always),
    ("mime-version", More::Once),
    ("content-type", More::Once),
    ("content-transfer-encoding", More::Once),
    ("content-id", More::Once),
    ("content-description", More::Once),
    ("content-language", More::Once),
    ("in-reply-to", More::Once),
    ("references", More::Once),
    ("resent-date", More::Never),
    ("resent-from", More::Never),
    ("resent-sender", More::Never),
    ("resent-to", More::Never),
    ("resent-cc", More::Never),
    ("resent-message-id", More::Never),
    ("list-id", More::Once),
    ("list-help", More::Once),
    ("list-unsubscribe", More::Once),
    ("list-unsubscribe-post", More::Once),
    ("list-subscribe", More::Once),
    ("list-post", More::Once),
    ("list-owner", More::Once),
    ("list-archive", More::Once),
    ("autocrypt", More::Once),
];

/// How to sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// How the header is made comparable.
    pub header: Canon,
    /// How the body is.
    pub body: Canon,
    /// For how long the signature is good; none is for as long as its key is published.
    pub valid: Option<Duration>,
}

/// Why a message was not signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignError {
    /// Its header section is over the limits.
    Header(HeaderError),
    /// It has no `From` (RFC 6376 §5.4: that one must be signed).
    NoFrom,
    /// It has several, of which a reader may be shown another than the one that was meant.
    SeveralFrom,
    /// A key does not work: its numbers do not fit together.
    Key,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::NoFrom => f.write_str("the message has no From"),
            Self::SeveralFrom => f.write_str("the message has more than one From"),
            Self::Key => f.write_str("a key does not work"),
        }
    }
}

impl core::error::Error for SignError {}

impl From<HeaderError> for SignError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

/// A message that streams by to be signed.
#[derive(Clone, Debug)]
pub struct Signer {
    terms: Terms,
    section: Section,
    body: BodyHash,
}

impl Signer {
    /// Before the first byte of a message.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, section: Section::new(), body: BodyHash::new(terms.body) }
    }

    /// Takes the next bytes of the message, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.body.feed(self.section.feed(bytes));
    }

    /// The message is over: a `DKIM-Signature` field for each of `keys`, each with its CRLF.
    ///
    /// # Errors
    /// When the message cannot be signed, or a key does not work.
    pub fn finish(self, keys: &[Key], now: UnixTime) -> Result<Vec<u8>, SignError> {
        let Self { terms, section, body } = self;
        let fields = fields(section.bytes()?)?;
        // RFC 6376 §5.3: what does not follow RFC 5322 is better not signed.
        match fields.iter().filter(|field| field.is("from")).count() {
            0 => return Err(SignError::NoFrom),
            1 => {}
            _ => return Err(SignError::SeveralFrom),
        }
        let chosen = choose(&fields);
        let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
        let body_hash = encode(body.finish().as_ref());
        let mut text = signed_text(terms.header, chosen.iter().filter_map(|(_, field)| *field));
        let shared = text.len();
        let mut out = Vec::new();
        for key in keys {
            let mut own = head(key, terms, now, &names, &body_hash);
            // RFC 6376 §3.7: itself comes last, with nothing in `b=` and without its CRLF.
            text.truncate(shared);
            Field::new(own.text.as_bytes()).put(terms.header, &mut text);
            own.push_folded(&encode(&key.sign(&text).map_err(|_| SignError::Key)?));
            out.extend_from_slice(own.text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Ok(out)
    }
}

/// What `h=` names, in its order, and what each means in this message. Where a name comes several
/// times the fields are taken from the last to the first (RFC 6376 §5.4.2); where there is none
/// left, it stands for nothing.
fn choose<'h>(fields: &[Field<'h>]) -> Vec<(&'static str, Option<Field<'h>>)> {
    let mut chosen = Vec::new();
    for (name, more) in FIELDS {
        let there = fields.iter().rev().filter(|field| field.is(name));
        let before = chosen.len();
        chosen.extend(there.map(|field| (name, Some(*field))));
        let some = chosen.len() > before;
        if more == More::Always || more == More::Once && some {
            chosen.push((name, None));
        }
    }
    chosen
}

/// The canonical forms of `fields` (RFC 6376 §3.7).
fn signed_text<'h>(canon: Canon, fields: impl Iterator<Item = Field<'h>>) -> Vec<u8> {
    let mut text = Vec::new();
    for field in fields {
        field.put(canon, &mut text);
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// The field up to and with `b=` (RFC 6376 §3.5).
fn head(key: &Key, terms: Terms, now: UnixTime, names: &[&str], body_hash: &str) -> Folded {
    let Terms { header, body, valid } = terms;
    let mut folded = Folded::new("DKIM-Signature:");
    folded.push(" v=1;");
    folded.push(&format!(" a={};", key.algorithm().name()));
    folded.push(&format!(" c={}/{};", header.name(), body.name()));
    folded.push(&format!(" d={};", key.domain()));
    folded.push(&format!(" s={};", key.selector()));
    folded.push(&format!(" t={};", now.seconds()));
    if let Some(valid) = valid {
        folded.push(&format!(" x={};", now.seconds().saturating_add(valid.as_secs())));
    }
    folded.push_names(names);
    folded.push(&format!(" bh={body_hash};"));
    folded.new_line();
    folded.push(" b=");
    folded
}

/// What of a message is signed when the signer may choose: names for `h=`, in their order.
pub(crate) fn names(fields: &[Field<'_>]) -> Vec<&'static str> {
    choose(fields).into_iter().map(|(name, _)| name).collect()
}

/// A field that is folded while it grows.
#[derive(Clone, Debug)]
pub(crate) struct Folded {
    text: String,
    column: usize,
}

impl Folded {
    pub(crate) fn new(name: &str) -> Self {
        Self { text: name.to_owned(), column: name.len() }
    }

    /// RFC 6376 §3.5: white space may stand in front of tags, and of names in `h=`.
    pub(crate) fn new_line(&mut self) {
        self.text.push_str("\r\n");
        self.column = 0;
    }

    /// Adds `piece`, on a line of its own when this one has no room for it.
    pub(crate) fn push(&mut self, piece: &str) {
        if self.column + piece.len() > LINE_BYTES_MAX {
            self.new_line();
            if !piece.starts_with(' ') {
                self.text.push(' ');
                self.column = 1;
            }
        }
        self.text.push_str(piece);
        self.column += piece.len();
    }

    /// Adds the tag `h=`, which may be folded between names.
    pub(crate) fn push_names(&mut self, names: &[impl AsRef<str>]) {
        let mut tag = String::from(" h=");
        for (index, name) in names.iter().enumerate() {
            let end = if index + 1 == names.len() { ';' } else { ':' };
            let _ = write!(tag, "{}{end}", name.as_ref());
            self.push(&tag);
            tag.clear();
        }
    }

    /// All of it, without a last CRLF.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Adds Base64, which may be folded anywhere.
    pub(crate) fn push_folded(&mut self, mut base64: &str) {
        while !base64.is_empty() {
            if self.column == LINE_BYTES_MAX {
                self.new_line();
                self.text.push(' ');
                self.column = 1;
            }
            let room = (LINE_BYTES_MAX - self.column).min(base64.len());
            let (now, rest) = base64.split_at(room);
            self.text.push_str(now);
            self.column += now.len();
            base64 = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{FIELDS_COUNT_MAX, HEADER_BYTES_MAX};
    use super::super::key::tests::{ed25519_key, rsa_key};
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ring::digest::{SHA256, digest};
    use ring::signature::{
        ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey,
    };

    const NOW: UnixTime = UnixTime::from_ms(1_528_637_909_999);
    const BOTH: [Canon; 2] = [Canon::Simple, Canon::Relaxed];

    fn from_base64(text: &str) -> Vec<u8> {
        let text: String = text.split_ascii_whitespace().collect();
        STANDARD.decode(text).unwrap()
    }

    fn tag(value: &str, name: &str) -> String {
        let tags = value.split(';').filter_map(|tag| tag.trim().split_once('='));
        let found = tags.filter(|(tag, _)| *tag == name).map(|(_, value)| value.to_owned());
        let [value] = &found.collect::<Vec<_>>()[..] else { panic!("one {name}= in {value}") };
        value.clone()
    }

    /// Enough of a verifier to check what is made here and what the RFCs print. Gives back what is
    /// signed (RFC 6376 §3.7), having compared the hash of the body.
    fn text_of(message: &[u8], signature: usize) -> (String, Vec<u8>) {
        let mut section = Section::new();
        let body = section.feed(message).to_vec();
        let fields = fields(section.bytes().unwrap()).unwrap();
        let own = fields.iter().filter(|f| f.is("dkim-signature")).nth(signature).unwrap();
        let value = String::from_utf8(own.value().to_vec()).unwrap();
        let canon = |name: &str| BOTH.into_iter().find(|canon| canon.name() == name).unwrap();
        let c = tag(&value, "c");
        let (header, kind) = c.split_once('/').unwrap();
        let mut hash = BodyHash::new(canon(kind));
        hash.feed(&body);
        assert_eq!(hash.finish().as_ref(), from_base64(&tag(&value, "bh")));

        let mut left: Vec<_> = fields.iter().collect();
        let mut named = Vec::new();
        for name in tag(&value, "h").split(':') {
            if let Some(at) = left.iter().rposition(|field| field.is(name.trim())) {
                named.push(*left.remove(at));
            }
        }
        let mut text = signed_text(canon(header), named.into_iter());
        let b = value.rfind("b=").unwrap() + 2;
        let end = value[b..].find(';').map_or("", |at| &value[b + at..]);
        let own = format!("DKIM-Signature:{}{end}", &value[..b]);
        Field::new(own.as_bytes()).put(canon(header), &mut text);
        (value, text)
    }

    /// A message of the vectors, which have the line ends of Unix.
    fn vector(text: &str) -> Vec<u8> {
        text.replace('\n', "\r\n").into_bytes()
    }

    /// RFC 6376 appendix C.
    const BRISBANE: &str = "\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt\
        IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0\
        fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB";
    /// RFC 8463 appendix A.2.
    const TEST: &str = "\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bd\
        OKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4h\
        stT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

    /// Whether an RSA key in the form that records have it made the signature.
    fn rsa_verifies(public: &[u8], value: &str, text: &[u8]) -> bool {
        // Behind what says that it is RSA: 22 bytes for 1024 bits, 24 for 2048 and more.
        let key = &public[if public.len() < 256 { 22 } else { 24 }..];
        let key = UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key);
        key.verify(text, &from_base64(&tag(value, "b"))).is_ok()
    }

    #[test]
    fn the_example_of_rfc_6376() {
        let message = vector(include_str!("../../../tests/vectors/dkim/rfc6376-a2.eml"));
        let (value, text) = text_of(&message, 0);
        assert!(rsa_verifies(&from_base64(BRISBANE), &value, &text));
    }

    #[test]
    fn the_example_of_rfc_8463() {
        let message = vector(include_str!("../../../tests/vectors/dkim/rfc8463-a3.eml"));
        let (value, text) = text_of(&message, 0);
        let key = ed25519_key("football.example.com", "brisbane");
        assert_eq!(key.sign(&text).unwrap(), from_base64(&tag(&value, "b")), "byte for byte");
        let (value, text) = text_of(&message, 1);
        assert!(rsa_verifies(&from_base64(TEST), &value, &text));
    }

    const MESSAGE: &str = "Received: from a\r\nFrom: Al <al@example.test>\r\n\
        To: b@example.test\r\nSubject: Twice\r\nX-Other: x\r\nSubject:  \t and\r\n once more\r\n\
        Content-Type: text/plain\r\nResent-To: c@example.test\r\n\r\nHi  there\t \r\n\r\n\r\n";

    fn sign(terms: Terms, message: &str, keys: &[Key]) -> String {
        let mut signer = Signer::new(terms);
        signer.feed(message.as_bytes());
        String::from_utf8(signer.finish(keys, NOW).unwrap()).unwrap()
    }

    #[test]
    fn a_signed_message_verifies_with_each_key_and_form() {
        let keys = [ed25519_key("example.test", "e1"), rsa_key()];
        for header in BOTH {
            for body in BOTH {
                let terms = Terms { header, body, valid: Some(Duration::from_secs(604_800)) };
                let out = sign(terms, MESSAGE, &keys);
                let message = [out.as_bytes(), MESSAGE.as_bytes()].concat();
                for (index, key) in keys.iter().enumerate() {
                    let (value, text) = text_of(&message, index);
                    assert_eq!(tag(&value, "a"), key.algorithm().name());
                    assert_eq!(tag(&value, "x"), "1529242709");
                    let (record, signature) = (key.record(), from_base64(&tag(&value, "b")));
                    let public = from_base64(record.rsplit("p=").next().unwrap());
                    if index == 1 {
                        assert!(rsa_verifies(&public, &value, &text));
                    } else {
                        let hash = digest(&SHA256, &text);
                        let public = UnparsedPublicKey::new(&ED25519, public);
                        public.verify(hash.as_ref(), &signature).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn the_field_reads_as_it_should() {
        let out = sign(Terms::default(), MESSAGE, &[ed25519_key("example.test", "e1")]);
        let (front, b) = out.split_once(" b=").unwrap();
        assert_eq!(
            front,
            "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.test;\r\n \
             s=e1; t=1528637909; h=from:from:reply-to:subject:subject:subject:to:to:cc:\r\n \
             content-type:content-type:resent-to;\r\n \
             bh=LaegeaE4sWd4l9K7YWNlAinmqUePEZwKG9dMjiYmLn8=;\r\n"
        );
        assert!(b.len() > 64 && b.ends_with("\r\n"));
    }

    #[test]
    fn lines_are_short() {
        let keys = [ed25519_key(&("a.".repeat(20) + "test"), "s"), rsa_key()];
        let many = "To: x\r\nResent-To: y\r\nContent-Transfer-Encoding: z\r\n".repeat(100);
        for terms in [Terms::default(), Terms { valid: Some(Duration::MAX), ..Terms::default() }] {
            let out = sign(terms, &format!("From: a\r\n{many}\r\n"), &keys);
            for line in out.split("\r\n") {
                assert!(line.len() <= LINE_BYTES_MAX, "{line}");
                assert!(!line.contains(['\r', '\n']) && !line.ends_with(' '), "{line:?}");
            }
            let fields = fields(out.as_bytes()).unwrap();
            assert!(fields.len() == 2 && fields.iter().all(|f| f.is("DKIM-Signature")));
        }
    }

    /// The signature does not depend on how the message was cut.
    #[test]
    fn any_cut_gives_the_same() {
        let keys = [ed25519_key("example.test", "e1")];
        let due = sign(Terms::default(), MESSAGE, &keys);
        for cut in 0..MESSAGE.len() {
            let mut signer = Signer::new(Terms::default());
            signer.feed(&MESSAGE.as_bytes()[..cut]);
            signer.feed(&MESSAGE.as_bytes()[cut..]);
            assert_eq!(signer.finish(&keys, NOW).unwrap(), due.as_bytes(), "cut at {cut}");
        }
    }

    #[test]
    fn who_adds_a_field_breaks_the_signature() {
        let key = ed25519_key("example.test", "e1");
        let out = sign(Terms::default(), MESSAGE, core::slice::from_ref(&key));
        for (added, breaks) in [
            ("From: x", true),
            ("Subject: x", true),
            ("Cc: x", true),
            ("Content-Type: text/html", true),
            ("Received: x", false),
            ("Date: x", false),
            ("Resent-To: x", false),
        ] {
            let message = format!("{added}\r\n{out}{MESSAGE}");
            let (value, text) = text_of(message.as_bytes(), 0);
            let good = key.sign(&text).unwrap() == from_base64(&tag(&value, "b"));
            assert_eq!(good, !breaks, "{added}");
        }
    }

    #[test]
    fn what_cannot_be_signed_says_why() {
        let fail = |message: &[u8]| {
            let mut signer = Signer::new(Terms::default());
            message.chunks(1000).for_each(|piece| signer.feed(piece));
            signer.finish(&[], NOW).unwrap_err()
        };
        assert_eq!(fail(b""), SignError::NoFrom);
        assert_eq!(fail(b"\r\nFrom: a\r\n"), SignError::NoFrom);
        assert_eq!(fail(b"X: a\r\n From: b\r\n\r\n"), SignError::NoFrom);
        assert_eq!(fail(b"From: a\r\nfrom : b\r\n\r\n"), SignError::SeveralFrom);
        let many = b"X:y\r\n".repeat(FIELDS_COUNT_MAX + 1);
        assert_eq!(fail(&many), SignError::Header(HeaderError::TooManyFields));
        let long = vec![b'x'; HEADER_BYTES_MAX + 1];
        assert_eq!(fail(&long), SignError::Header(HeaderError::TooLong));
    }

    #[test]
    fn no_keys_no_fields() {
        assert_eq!(sign(Terms::default(), "From:\r\n\r\n", &[]), "");
    }
}
