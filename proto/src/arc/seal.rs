//! Sealing: RFC 8617 §5.1. What this host has found about a message becomes the next set of its
//! chain.
//!
//! The message has streamed through [`Verifier::sealing`](crate::dkim::verify::Verifier::sealing),
//! and its chain was judged. [`Sealing::begin`] puts together what will be signed, in microseconds;
//! [`Sealing::finish`] signs twice, which costs RSA keys about two milliseconds and belongs on a
//! helper thread. The fields go in front of the message, in front of everything that was there; the
//! message must not be changed after it was hashed.
//!
//! Limits: [`SETS_MAX`] sets, [`RESULTS_BYTES_MAX`] of results. Fails by [`SealError`]; the message
//! can go on without a seal then.

use core::fmt;

use super::{SEAL, SETS_MAX, Verdict, instance, put_set, sets};
use crate::dkim::Canon;
use crate::dkim::header::{Field, HeaderError};
use crate::dkim::key::{Algorithm, Key, host_name};
use crate::dkim::sign::{self, Folded, LINE_BYTES_MAX};
use crate::dkim::tags::Tags;
use crate::dkim::verify::{Message, NAMES_MAX, selected};
use crate::sasl::encode;
use crate::time::UnixTime;

/// The longest results that are sealed; arbitrary, four times what ten signatures make.
pub const RESULTS_BYTES_MAX: usize = 16 * 1024;

/// Why a message was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// Its header section is over the limits.
    Header(HeaderError),
    /// It begins with white space, and so would go on with the last field in front of it.
    Start,
    /// Its body was not hashed: it has streamed through another verifier.
    NoHash,
    /// The chain has ended: it was sealed as failed, or has [`SETS_MAX`] sets.
    Ended,
    /// The chain is said to be none, and is there; or the other way round.
    Chain,
    /// The results are no value of a field.
    Results,
    /// Domain or selector is no name.
    Name,
    /// More names than a verifier looks at.
    Names,
    /// The key is another one, or does not work.
    Key,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::Start => f.write_str("the message begins with white space"),
            Self::NoHash => f.write_str("the body was not hashed"),
            Self::Ended => f.write_str("the chain has ended"),
            Self::Chain => f.write_str("the verdict is that of another chain"),
            Self::Results => f.write_str("the results are no value of a field"),
            Self::Name => f.write_str("the domain or the selector is no name"),
            Self::Names => write!(f, "over {NAMES_MAX} fields are to be signed"),
            Self::Key => f.write_str("the key does not work"),
        }
    }
}

impl core::error::Error for SealError {}

/// Who seals, and what.
#[derive(Clone, Debug)]
pub struct Terms<'t> {
    /// The domain that answers for the seal.
    pub domain: &'t str,
    /// Which of its keys.
    pub selector: &'t str,
    /// How that key signs.
    pub algorithm: Algorithm,
    /// What was found: the value of an `Authentication-Results` field, folded, with what this host
    /// calls itself in front.
    pub results: &'t str,
    /// What the signature of the message covers: [`names`], or less.
    pub names: Vec<String>,
    /// When.
    pub now: UnixTime,
}

impl<'t> Terms<'t> {
    /// Those of a key, with all [`names`] of the message.
    #[must_use]
    pub fn of(key: &'t Key, message: &Message, results: &'t str, now: UnixTime) -> Self {
        Self {
            domain: key.domain(),
            selector: key.selector(),
            algorithm: key.algorithm(),
            results,
            names: names(message),
            now,
        }
    }
}

/// What a signature should cover: what DKIM's covers, and its signatures. Never fields of ARC, nor
/// `Authentication-Results`, which hosts behind this one take away (RFC 8617 §4.1.2).
#[must_use]
pub fn names(message: &Message) -> Vec<String> {
    let fields = message.fields().unwrap_or_default();
    let signatures = fields.iter().filter(|field| field.is("dkim-signature"));
    let signatures = signatures.map(|_| "dkim-signature");
    sign::names(&fields).into_iter().chain(signatures).map(str::to_owned).collect()
}

/// A set that wants to be signed.
#[derive(Clone, Debug)]
pub struct Sealing {
    instance: usize,
    algorithm: Algorithm,
    domain: String,
    selector: String,
    results: String,
    signature: Unsigned,
    seal: Unsigned,
    /// The fields that the signature covers, in their canonical form.
    covered: Vec<u8>,
    /// Likewise the sets in front of this one that the seal covers.
    sets: Vec<u8>,
}

impl Sealing {
    /// Puts the set together. `chain` is what [`check`](super::check) has made of the message.
    ///
    /// # Errors
    /// When there is nothing to be sealed, or not with these terms.
    pub fn begin(message: &Message, chain: Verdict, terms: &Terms<'_>) -> Result<Self, SealError> {
        let fields = message.fields().map_err(SealError::Header)?;
        // RFC 5322 §2.2.3
        if fields.first().is_some_and(|field| matches!(field.bytes(), [b' ' | b'\t', ..])) {
            return Err(SealError::Start);
        }
        let domain = host_name(terms.domain).ok_or(SealError::Name)?;
        let selector = host_name(terms.selector).ok_or(SealError::Name)?;
        if terms.names.len() > NAMES_MAX || terms.names.iter().any(|name| !is_name(name)) {
            return Err(SealError::Names);
        }
        let body_hash = encode(message.relaxed_hash().ok_or(SealError::NoHash)?);
        let instance = next_instance(&fields)?;
        if (instance == 1) != (chain == Verdict::None) && chain != Verdict::Fail {
            return Err(SealError::Chain);
        }
        let [algorithm, time] =
            [terms.algorithm.name(), &terms.now.seconds().to_string()].map(str::to_owned);
        let mut signature = Unsigned::new("ARC-Message-Signature:", &algorithm);
        signature.push(&format!(" bh={body_hash};"));
        signature.push(" c=relaxed/relaxed;");
        signature.push(&format!(" d={domain};"));
        signature.back.push_names(&terms.names);
        let mut seal = Unsigned::new("ARC-Seal:", &algorithm);
        seal.push(&format!(" cv={};", chain.name()));
        seal.push(&format!(" d={domain};"));
        for field in [&mut signature, &mut seal] {
            field.push(&format!(" i={instance};"));
            field.push(&format!(" s={selector};"));
            field.push(&format!(" t={time}"));
        }
        let mut covered = Vec::new();
        for field in selected(&terms.names, &fields, None) {
            field.put(Canon::Relaxed, &mut covered);
            covered.extend_from_slice(b"\r\n");
        }
        Ok(Self {
            instance,
            algorithm: terms.algorithm,
            results: results(instance, terms.results)?,
            sets: earlier(&fields, chain)?,
            domain,
            selector,
            signature,
            seal,
            covered,
        })
    }

    /// Which set of its chain this is.
    #[must_use]
    pub const fn instance(&self) -> usize {
        self.instance
    }

    /// The three fields, each with its CRLF, the seal first.
    ///
    /// # Errors
    /// When it is not the key of the terms, or does not work.
    pub fn finish(self, key: &Key) -> Result<Vec<u8>, SealError> {
        let own = (key.domain(), key.selector(), key.algorithm());
        if own != (&self.domain, &self.selector, self.algorithm) {
            return Err(SealError::Key);
        }
        self.finish_with(|text| key.sign(text).ok())
    }

    /// The same, signed by somebody else: `sign` gives the signature of a text, first for the
    /// message, then for the chain. With Ed25519 what is signed is the SHA-256 of the text
    /// (RFC 8463 §3).
    ///
    /// # Errors
    /// When it gives none.
    pub fn finish_with(
        self,
        mut sign: impl FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, SealError> {
        let Self { results, signature, seal, covered: mut text, sets, .. } = self;
        let put = |field: &str, text: &mut Vec<u8>| {
            Field::new(field.as_bytes()).put(Canon::Relaxed, text);
        };
        put(&signature.with(""), &mut text);
        let signature = signature.with(&encode(&sign(&text).ok_or(SealError::Key)?));
        // RFC 8617 §5.1.1: the sets in their order, of each results, signature and seal.
        text = sets;
        for field in [&results, &signature] {
            put(field, &mut text);
            text.extend_from_slice(b"\r\n");
        }
        put(&seal.with(""), &mut text);
        let seal = seal.with(&encode(&sign(&text).ok_or(SealError::Key)?));
        Ok([seal, signature, results].map(|field| field + "\r\n").concat().into_bytes())
    }
}

/// A field whose `b=` is open. The lines behind it are folded as if it were not there, so that it
/// does not matter to them how long it is.
#[derive(Clone, Debug)]
struct Unsigned {
    front: Folded,
    back: Folded,
}

impl Unsigned {
    fn new(name: &str, algorithm: &str) -> Self {
        let mut front = Folded::new(name);
        front.push(&format!(" a={algorithm};"));
        front.new_line();
        front.push(" b=");
        let mut back = Folded::new("");
        back.new_line();
        Self { front, back }
    }

    fn push(&mut self, tag: &str) {
        self.back.push(tag);
    }

    fn with(&self, base64: &str) -> String {
        let mut front = self.front.clone();
        front.push_folded(base64);
        format!("{};{}", front.into_text(), self.back.clone().into_text())
    }
}

/// The results with their instance in front: RFC 8617 §4.1.1.
fn results(instance: usize, text: &str) -> Result<String, SealError> {
    let name = "ARC-Authentication-Results:";
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let folded = text.split("\r\n").skip(1).all(|line| line.starts_with([' ', '\t']));
    let printable = |byte: u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    let plain = text.split("\r\n").all(|line| line.bytes().all(printable));
    if text.is_empty() || text.len() > RESULTS_BYTES_MAX || !folded || !plain {
        return Err(SealError::Results);
    }
    let first = text.split("\r\n").next().unwrap_or_default();
    let short = format!("{name} i={instance}; {first}").len() <= LINE_BYTES_MAX;
    let between = if short { " " } else { "\r\n " };
    Ok(format!("{name} i={instance};{between}{text}"))
}

/// Whether `h=` can hold it, and RFC 8617 §4.1.2 lets it.
fn is_name(name: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b';');
    !name.is_empty() && name.bytes().all(visible) && !name.eq_ignore_ascii_case(SEAL)
}

/// One more than the highest of a chain, whether that is a good one or not.
fn next_instance(fields: &[Field<'_>]) -> Result<usize, SealError> {
    let arc = |field: &&Field<'_>| super::is_arc(field);
    let highest = fields.iter().filter(arc).filter_map(instance).max().unwrap_or_default();
    let has_failed = |field: &Field<'_>| {
        let tags = field.is(SEAL).then(|| Tags::parse(field.value()).ok()).flatten();
        tags.is_some_and(|tags| tags.value("cv") == Some(Verdict::Fail.name()))
    };
    // RFC 8617 §4.2.1, §5.1.2: nobody adds to a chain that is full, or was sealed as failed.
    if highest >= SETS_MAX || fields.iter().any(has_failed) {
        return Err(SealError::Ended);
    }
    Ok(highest + 1)
}

/// What the seal covers of the sets that are there.
fn earlier(fields: &[Field<'_>], chain: Verdict) -> Result<Vec<u8>, SealError> {
    let mut text = Vec::new();
    // RFC 8617 §5.1.2: who finds a chain broken seals his own set, as if there were no other.
    if chain != Verdict::Fail {
        let sets = sets(fields).map_err(|_| SealError::Chain)?;
        sets.iter().for_each(|set| put_set(fields, set, false, &mut text));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
