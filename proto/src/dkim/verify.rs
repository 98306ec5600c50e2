//! Verifying: a message streams by, and what its signatures are worth comes out.
//!
//! [`Verifier::feed`] is given the message as it came, CRLF line ends, no dots doubled. When the
//! header is over its signatures are read, and the body is hashed once for each canonical form that
//! one of them asks for, however many there are. [`Verifier::finish`] gives a [`Message`], which
//! [`Message::check`] judges by what is [known](crate::dns::known::Known) of the keys.
//!
//! Limits: [`SIGNATURES_MAX`] signatures, those behind are passed over; a signature of
//! [`SIGNATURE_BYTES_MAX`]; the header's. One RSA signature costs some 30 µs.

use core::fmt;

use ring::digest;

use super::canon::{Body, Canon};
use super::header::{Field, HeaderError, Section, fields};
use super::key::Algorithm;
use super::record::{Record, decode};
use super::tags::{Tags, number, parts, squeezed};
use crate::arc;
use crate::dns::known::{Known, Next};
use crate::dns::{Failure, Kind, Question};
use crate::time::UnixTime;

/// Signatures of a message that are looked at.
pub const SIGNATURES_MAX: usize = 10;
/// The longest signature; arbitrary, ten times what is made.
pub const SIGNATURE_BYTES_MAX: usize = 16 * 1024;
/// Names in `h=`; arbitrary, bounds what choosing among the fields can cost.
pub const NAMES_MAX: usize = 256;
/// Records at one name that are tried; there should be one (RFC 6376 §3.6.2.2).
const RECORDS_MAX: usize = 3;
/// Digits of a time or a length: RFC 6376 §3.5.
const TIME_DIGITS: usize = 12;
const LENGTH_DIGITS: usize = 18;

/// What a signature is worth: RFC 8601 §2.7.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// There is none.
    None,
    /// The domain has signed what is here.
    Pass,
    /// It has not, or not any more.
    Fail,
    /// The DNS gave no answer; later it may.
    Temperror,
    /// It cannot be verified, now or later.
    Permerror,
}

impl Verdict {
    /// As `Authentication-Results` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of one signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// What it is worth.
    pub verdict: Verdict,
    /// Who signed; empty when that cannot be read.
    pub domain: String,
    /// Which of the domain's keys.
    pub selector: String,
    /// For whom: `i=`.
    pub identity: String,
    /// How.
    pub algorithm: Option<Algorithm>,
    /// The bits of the key; 0 when it was not found.
    pub bits: usize,
    /// The first letters of `b=`, which tell signatures of one domain apart (RFC 6008 §4).
    pub mark: String,
    /// The domain only tries it out.
    pub testing: bool,
    /// It covers only so much of the body: `l=`.
    pub length: Option<u64>,
    /// The body goes on behind that, with what anybody may have added.
    pub is_partial: bool,
    /// Why, in words.
    pub why: String,
}

/// The best of some verdicts.
#[must_use]
pub fn sum(all: &[Judged]) -> Verdict {
    let has = |wanted| all.iter().any(|judged| judged.verdict == wanted);
    [Verdict::Pass, Verdict::Temperror, Verdict::Fail, Verdict::Permerror]
        .into_iter()
        .find(|verdict| has(*verdict))
        .unwrap_or(Verdict::None)
}

/// A signature that can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    pub(crate) algorithm: Algorithm,
    pub(crate) signature: Vec<u8>,
    pub(super) body_hash: Vec<u8>,
    pub(super) header: Canon,
    pub(super) body: Canon,
    pub(crate) domain: String,
    pub(super) identity: String,
    pub(crate) selector: String,
    pub(crate) names: Vec<String>,
    pub(super) length: Option<u64>,
    expires: Option<u64>,
    mark: String,
    /// The field with nothing in `b=`.
    pub(super) bare: Vec<u8>,
}

impl Signature {
    /// Reads a field: RFC 6376 §3.5, §6.1.1.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(field: &Field<'_>) -> Result<Self, String> {
        if field.bytes().len() > SIGNATURE_BYTES_MAX {
            return Err("it is too long".to_owned());
        }
        let tags = Tags::parse(field.value()).map_err(|bad| bad.to_string())?;
        if tags.value("v") != Some("1") {
            let missing = tags.value("v").is_none_or(str::is_empty);
            let why = if missing { "it has no v=" } else { "its version is not known" };
            return Err(why.to_owned());
        }
        let domain = tags.value("d").unwrap_or_default();
        let identity = tags.value("i").map_or_else(|| format!("@{domain}"), squeezed);
        let (_, behind) = identity.rsplit_once('@').ok_or("i= is no address")?;
        // RFC 6376 §6.1.1
        if !is_within(behind, domain) {
            return Err("i= is of another domain than d=".to_owned());
        }
        let signature = Self { identity, ..Self::read(field, &tags, "simple/simple")? };
        if !signature.names.iter().any(|name| name == "from") {
            return Err("From is not signed".to_owned());
        }
        Ok(signature)
    }

    /// Reads what DKIM and ARC have in common; `form` is the canonical form when none is named.
    ///
    /// # Errors
    /// Why it is no signature.
    pub(crate) fn read(field: &Field<'_>, tags: &Tags<'_>, form: &str) -> Result<Self, String> {
        let need = |name: &str| {
            let value = tags.value(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("it has no {name}="))
        };
        let algorithm = match need("a")? {
            "rsa-sha256" => Algorithm::RsaSha256,
            "ed25519-sha256" => Algorithm::Ed25519Sha256,
            // RFC 8301 §3.1
            "rsa-sha1" => return Err("rsa-sha1 proves nothing any more".to_owned()),
            other => return Err(format!("its algorithm {other} is not known")),
        };
        let (header, body) = forms(tags.value("c").unwrap_or(form))
            .ok_or_else(|| "its canonical form is not known".to_owned())?;
        let domain = need("d")?.to_ascii_lowercase();
        let names = tags.value("h").ok_or("it has no h=")?;
        let names: Vec<String> =
            parts(names).take(NAMES_MAX + 1).map(str::to_ascii_lowercase).collect();
        if names.len() > NAMES_MAX {
            return Err("it signs too many fields".to_owned());
        }
        if tags.value("q").is_some_and(|ways| !parts(ways).any(|way| way == "dns/txt")) {
            return Err("its key is not in the DNS".to_owned());
        }
        let time = |name: &str, digits| match tags.value(name) {
            None => Ok(None),
            Some(text) => number(text, digits).map(Some).ok_or_else(|| format!("{name}= is none")),
        };
        let (made, expires) = (time("t", TIME_DIGITS)?, time("x", TIME_DIGITS)?);
        if let (Some(made), Some(expires)) = (made, expires)
            && expires <= made
        {
            return Err("it ends before it begins".to_owned());
        }
        let encoded = need("b")?;
        let signature = decode(encoded).ok_or("b= is no Base64")?;
        let body_hash = decode(need("bh")?).ok_or("bh= is no Base64")?;
        Ok(Self {
            algorithm,
            signature,
            body_hash,
            header,
            body,
            identity: String::new(),
            selector: need("s")?.to_owned(),
            names,
            length: time("l", LENGTH_DIGITS)?,
            expires,
            mark: squeezed(encoded).chars().take(8).collect(),
            bare: without(field, tags),
            domain,
        })
    }

    /// Where its key is: RFC 6376 §3.6.2.1.
    fn place(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The text that was signed: RFC 6376 §3.7, §5.4.2.
    pub(crate) fn text(&self, all: &[Field<'_>], own: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for field in selected(&self.names, all, Some(own)) {
            field.put(self.header, &mut text);
            text.extend_from_slice(b"\r\n");
        }
        Field::new(&self.bare).put(self.header, &mut text);
        text
    }
}

/// The fields that names in `h=` mean, in that order: of each name from the last to the first, and
/// never the signature itself. What is not there stands for nothing: RFC 6376 §5.4.2.
pub(crate) fn selected<'a, 'h>(
    names: &[String],
    all: &'a [Field<'h>],
    own: Option<usize>,
) -> Vec<&'a Field<'h>> {
    let mut taken = vec![false; all.len()];
    let mut next = |name: &String| {
        let (index, field) = all.iter().enumerate().rev().find(|(index, field)| {
            Some(*index) != own && field.is(name) && !taken.get(*index).is_none_or(|taken| *taken)
        })?;
        if let Some(taken) = taken.get_mut(index) {
            *taken = true;
        }
        Some(field)
    };
    names.iter().filter_map(&mut next).collect()
}

/// The field without what stands behind `b=`: RFC 6376 §3.7.
pub(crate) fn without(field: &Field<'_>, tags: &Tags<'_>) -> Vec<u8> {
    let (bytes, value) = (field.bytes(), field.value());
    let front = bytes.len() - value.len();
    let Some(tag) = tags.get("b") else { return bytes.to_vec() };
    let (from, to) = (front + tag.place.0, front + tag.place.1);
    [bytes.get(..from).unwrap_or_default(), bytes.get(to..).unwrap_or_default()].concat()
}

/// RFC 6376 §3.5: header and body; simple where one is missing.
fn forms(value: &str) -> Option<(Canon, Canon)> {
    let form = |name: &str| match name {
        "simple" => Some(Canon::Simple),
        "relaxed" => Some(Canon::Relaxed),
        _ => None,
    };
    let (header, body) = value.split_once('/').unwrap_or((value, "simple"));
    Some((form(header)?, form(body)?))
}

/// Whether a name is the domain or below it; in any case.
fn is_within(name: &str, domain: &str) -> bool {
    let at = name.len().checked_sub(domain.len());
    let Some((front, end)) = at.and_then(|at| name.split_at_checked(at)) else { return false };
    end.eq_ignore_ascii_case(domain) && (front.is_empty() || front.ends_with('.'))
}

/// The body in one canonical form, hashed whole and up to some lengths.
struct Form {
    body: Body,
    /// What is to be covered, and the hash of it so far.
    hashes: Vec<(Option<u64>, digest::Context)>,
    /// Bytes of the form so far.
    length: u64,
}

impl Form {
    fn new(canon: Canon) -> Self {
        Self { body: Body::new(canon), hashes: Vec::new(), length: 0 }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let Self { body, hashes, length } = self;
        body.feed(bytes, &mut |piece| hash(hashes, length, piece));
    }

    fn finish(self) -> Hashed {
        let Self { body, mut hashes, mut length } = self;
        body.finish(&mut |piece| hash(&mut hashes, &mut length, piece));
        // RFC 6376 §3.5: no more may be covered than there is.
        let whole = |(covered, context): (Option<u64>, digest::Context)| {
            let fits = covered.is_none_or(|covered| covered <= length);
            (covered, fits.then(|| context.finish()))
        };
        Hashed { hashes: hashes.into_iter().map(whole).collect(), length }
    }
}

/// A body in one canonical form that has been hashed.
#[derive(Clone, Debug, Default)]
struct Hashed {
    /// By what is covered; none where that is more than there is.
    hashes: Vec<(Option<u64>, Option<digest::Digest>)>,
    /// Bytes of the form.
    length: u64,
}

fn hash(hashes: &mut [(Option<u64>, digest::Context)], length: &mut u64, piece: &[u8]) {
    for (covered, context) in hashes {
        let left = covered.map_or(u64::MAX, |covered| covered.saturating_sub(*length));
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        context.update(piece.get(..left).unwrap_or_default());
    }
    *length += piece.len() as u64;
}

/// A message that streams by to be verified.
#[derive(Default)]
pub struct Verifier {
    section: Section,
    /// Its signatures, once the header is over.
    signatures: Option<Signatures>,
    simple: Option<Form>,
    relaxed: Option<Form>,
    sealing: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({:?})", self.section)
    }
}

impl Verifier {
    /// Before the first byte of a message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same for a message that will be [sealed](crate::arc::seal): its body is hashed for that,
    /// whatever its signatures ask for.
    #[must_use]
    pub fn sealing() -> Self {
        Self { sealing: true, ..Self::default() }
    }

    /// Takes the next bytes of the message, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let body = self.section.feed(bytes);
        if !self.section.is_over() {
            return;
        }
        if self.signatures.is_none() {
            self.begin();
        }
        for form in [&mut self.simple, &mut self.relaxed].into_iter().flatten() {
            form.feed(body);
        }
    }

    /// Begins the hashes that the signatures ask for.
    fn begin(&mut self) {
        let fields = self.fields().unwrap_or_default();
        let signatures = signatures(&fields);
        let ours = signatures.iter().filter_map(|(_, signature)| signature.as_ref().ok());
        let ours = ours.map(|signature| (signature.body, signature.length));
        let sealed = arc::last_signature(&fields).map(|last| (last.body, last.length));
        let own = self.sealing.then_some((Canon::Relaxed, None));
        for (body, length) in ours.chain(sealed).chain(own) {
            let form = match body {
                Canon::Simple => &mut self.simple,
                Canon::Relaxed => &mut self.relaxed,
            };
            let form = form.get_or_insert_with(|| Form::new(body));
            if !form.hashes.iter().any(|(covered, _)| *covered == length) {
                form.hashes.push((length, digest::Context::new(&digest::SHA256)));
            }
        }
        self.signatures = Some(signatures);
    }

    /// What [`Message::check`] and [`arc::check`](crate::arc::check()) will ask; nothing before the
    /// header is over. Who asks now has the answers when the message is over.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        let Some(signatures) = &self.signatures else { return Vec::new() };
        let fields = self.fields().unwrap_or_default();
        let ours = signatures.iter().filter_map(|(_, signature)| signature.as_ref().ok());
        let keys = ours.filter_map(|signature| Question::new(&signature.place(), Kind::Txt).ok());
        keys.chain(arc::questions(&fields)).collect()
    }

    /// Its signatures as they stand before their keys are known; none before the header is over.
    #[must_use]
    pub fn expected(&self) -> Vec<Judged> {
        let all = self.signatures.iter().flatten();
        let readable = all.filter_map(|(_, signature)| signature.as_ref().ok());
        let expect = |signature: &Signature| Judged {
            verdict: Verdict::Temperror,
            ..judged(signature, String::new())
        };
        readable.map(expect).collect()
    }

    /// Whether the header is over.
    #[must_use]
    pub const fn is_in_body(&self) -> bool {
        self.signatures.is_some()
    }

    /// Bytes of the header section that it holds; none when that is over the limits.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        self.section.bytes().map_or(0, <[u8]>::len)
    }

    /// The fields that have come so far.
    ///
    /// # Errors
    /// As [`Message::fields`].
    pub fn fields(&self) -> Result<Vec<Field<'_>>, HeaderError> {
        fields(self.section.bytes()?)
    }

    /// The message is over.
    #[must_use]
    pub fn finish(mut self) -> Message {
        if self.signatures.is_none() {
            // A header without a body has an empty one.
            self.begin();
        }
        let done = |form: Option<Form>| form.map(Form::finish).unwrap_or_default();
        Message {
            simple: done(self.simple.take()),
            relaxed: done(self.relaxed.take()),
            signatures: self.signatures.unwrap_or_default(),
            section: self.section,
        }
    }
}

/// The signatures of a header, by the places of their fields, or why one is none.
type Signatures = Vec<(usize, Result<Signature, String>)>;

fn signatures(fields: &[Field<'_>]) -> Signatures {
    let ours = fields.iter().enumerate().filter(|(_, field)| field.is("dkim-signature"));
    let read = |(place, field)| (place, Signature::parse(field));
    ours.take(SIGNATURES_MAX).map(read).collect()
}

/// A message that has streamed by.
#[derive(Clone, Debug)]
pub struct Message {
    section: Section,
    signatures: Signatures,
    simple: Hashed,
    relaxed: Hashed,
}

impl Message {
    /// Its fields.
    ///
    /// # Errors
    /// When its header is over the limits.
    pub fn fields(&self) -> Result<Vec<Field<'_>>, HeaderError> {
        fields(self.section.bytes()?)
    }

    /// What each of its signatures is worth, in their order; none when there are none, or when
    /// its header is over the limits.
    #[must_use]
    pub fn check(&self, known: &Known, now: UnixTime) -> Next<Vec<Judged>> {
        let fields = self.fields().unwrap_or_default();
        let (mut all, mut missing) = (Vec::new(), Vec::new());
        for (place, signature) in &self.signatures {
            match signature {
                Ok(signature) => match self.judge(signature, &fields, *place, known, now) {
                    Next::Done(judged) => all.push(judged),
                    Next::Ask(questions) => missing.extend(questions),
                },
                Err(why) => all.push(unreadable(why.clone())),
            }
        }
        if missing.is_empty() { Next::Done(all) } else { Next::Ask(missing) }
    }

    fn judge(
        &self,
        signature: &Signature,
        fields: &[Field<'_>],
        place: usize,
        known: &Known,
        now: UnixTime,
    ) -> Next<Judged> {
        let mut judged = Judged {
            is_partial: self.goes_on_behind(signature),
            ..judged(signature, String::new())
        };
        // Both before the key is asked for: what has failed for sure is not one that nobody knows.
        if !self.hashes_to(signature) {
            (judged.verdict, judged.why) = (Verdict::Fail, "the body was changed".to_owned());
            return Next::Done(judged);
        }
        // RFC 6376 §3.5
        if signature.expires.is_some_and(|expires| expires <= now.seconds()) {
            (judged.verdict, judged.why) = (Verdict::Fail, "it has expired".to_owned());
            return Next::Done(judged);
        }
        let name = signature.place();
        let found = match known.get(&name, Kind::Txt) {
            Ok(found) => found,
            Err(question) => return Next::Ask(vec![question]),
        };
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                judged.why = format!("{name}: {failure}");
                let permanent =
                    matches!(failure, Failure::BadName(_) | Failure::NoSuchName | Failure::NoData);
                if !permanent {
                    judged.verdict = Verdict::Temperror;
                }
                return Next::Done(judged);
            }
        };
        let text = signature.text(fields, place);
        for record in found.texts().take(RECORDS_MAX) {
            verified(signature, record, &text, &mut judged);
            if judged.verdict == Verdict::Pass {
                break;
            }
        }
        Next::Done(judged)
    }

    /// The hash of the whole body in its relaxed form, if somebody has asked for it.
    pub(crate) fn relaxed_hash(&self) -> Option<&[u8]> {
        let whole = self.relaxed.hashes.iter().find(|(covered, _)| covered.is_none());
        whole.and_then(|(_, hash)| hash.as_ref()).map(AsRef::as_ref)
    }

    /// The body as a signature has it.
    const fn body_of(&self, signature: &Signature) -> &Hashed {
        match signature.body {
            Canon::Simple => &self.simple,
            Canon::Relaxed => &self.relaxed,
        }
    }

    /// Whether the body goes on behind what was signed of it: RFC 6376 §8.2.
    fn goes_on_behind(&self, signature: &Signature) -> bool {
        signature.length.is_some_and(|covered| covered < self.body_of(signature).length)
    }

    /// Whether the body is the one that was signed.
    pub(crate) fn hashes_to(&self, signature: &Signature) -> bool {
        let hashes = &self.body_of(signature).hashes;
        let found = hashes.iter().find(|(covered, _)| *covered == signature.length);
        let hash = found.and_then(|(_, hash)| hash.as_ref());
        hash.is_some_and(|hash| hash.as_ref() == signature.body_hash)
    }
}

/// Tries a record.
fn verified(signature: &Signature, record: &[u8], text: &[u8], judged: &mut Judged) {
    let record = match Record::parse(record) {
        Ok(record) => record,
        Err(bad) => {
            judged.why = bad.to_string();
            return;
        }
    };
    if record.algorithm != signature.algorithm {
        "the key is of another kind".clone_into(&mut judged.why);
        return;
    }
    let (_, behind) = signature.identity.rsplit_once('@').unwrap_or_default();
    // RFC 6376 §3.6.1, t=s
    if record.strict && !behind.eq_ignore_ascii_case(&signature.domain) {
        "the key is not for what is below its domain".clone_into(&mut judged.why);
        return;
    }
    (judged.bits, judged.testing) = (record.bits, record.testing);
    (judged.verdict, judged.why) = match record.verify(text, &signature.signature) {
        Ok(()) => (Verdict::Pass, String::new()),
        Err(_) => (Verdict::Fail, "the header was changed, or another key has signed".to_owned()),
    };
}

/// A signature that nothing is known of but what it says.
fn judged(signature: &Signature, why: String) -> Judged {
    Judged {
        domain: signature.domain.clone(),
        selector: signature.selector.clone(),
        identity: signature.identity.clone(),
        algorithm: Some(signature.algorithm),
        mark: signature.mark.clone(),
        length: signature.length,
        ..unreadable(why)
    }
}

fn unreadable(why: String) -> Judged {
    Judged {
        verdict: Verdict::Permerror,
        domain: String::new(),
        selector: String::new(),
        identity: String::new(),
        algorithm: None,
        bits: 0,
        mark: String::new(),
        testing: false,
        length: None,
        is_partial: false,
        why,
    }
}

#[cfg(test)]
mod tests;
