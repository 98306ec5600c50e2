//! ARC (RFC 8617): what the hosts on the way of a message have found, and sealed; [`seal`] adds
//! what this one has found.
//!
//! A pure function of a message that has streamed through [`dkim::verify`](crate::dkim::verify) and
//! of what is [known](crate::dns::known::Known) of the keys. Limits: [`SETS_MAX`] sets; what is
//! beyond, or not in order, is a chain that fails.

pub mod seal;

use core::fmt;

use crate::dkim::Canon;
use crate::dkim::header::Field;
use crate::dkim::key::Algorithm;
use crate::dkim::record::{Record, decode};
use crate::dkim::tags::{Tags, number};
use crate::dkim::verify::{Message, SIGNATURE_BYTES_MAX, Signature, without};
use crate::dns::known::{Known, Next};
use crate::dns::{Failure, Kind};

/// Sets of a chain: RFC 8617 §4.2.1.
pub const SETS_MAX: usize = 50;

const RESULTS: &str = "arc-authentication-results";
const SIGNATURE: &str = "arc-message-signature";
const SEAL: &str = "arc-seal";

/// What a chain is worth: RFC 8617 §4.4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// There is none.
    None,
    /// Every host has sealed what it had, and nothing was changed since the last.
    Pass,
    /// Otherwise.
    Fail,
}

impl Verdict {
    /// As `Authentication-Results` and `cv=` write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a chain was judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// What it is worth.
    pub verdict: Verdict,
    /// The domains that sealed it, the first host's first.
    pub domains: Vec<String>,
    /// The DNS gave no answer for one of the keys: later the chain may be worth more.
    pub temporary: bool,
    /// Why it fails, in words.
    pub why: String,
    /// What the last host has found, where the chain is good and that host has signed who the
    /// author is: the value of its field.
    pub results: Option<String>,
}

/// What one host has added: the places of its three fields.
#[derive(Clone, Copy, Default)]
struct Set {
    results: Option<usize>,
    signature: Option<usize>,
    seal: Option<usize>,
}

/// A seal.
struct Seal {
    algorithm: Algorithm,
    signature: Vec<u8>,
    chain: String,
    domain: String,
    selector: String,
    bare: Vec<u8>,
}

/// Why a chain ends here.
enum Stop {
    Ask(Vec<crate::dns::Question>),
    Fail { why: String, temporary: bool },
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Fail { why, temporary: false }
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

/// Judges the chain of a message, or says what must be known first: RFC 8617 §5.2.
#[must_use]
pub fn check(message: &Message, known: &Known) -> Next<Judged> {
    let judged = |verdict, domains, temporary, why| {
        Next::Done(Judged { verdict, domains, temporary, why, results: None })
    };
    let Ok(fields) = message.fields() else {
        return judged(Verdict::None, Vec::new(), false, String::new());
    };
    let mut domains = Vec::new();
    match chain(message, &fields, known, &mut domains) {
        Ok(None) => judged(Verdict::None, domains, false, String::new()),
        Ok(Some(results)) => judged(Verdict::Pass, domains, false, String::new())
            .map(|judged| Judged { results, ..judged }),
        Err(Stop::Ask(questions)) => Next::Ask(questions),
        Err(Stop::Fail { why, temporary }) => judged(Verdict::Fail, domains, temporary, why),
    }
}

/// Whether there is a chain, if it is a good one; what its last host has found, if that counts.
fn chain(
    message: &Message,
    fields: &[Field<'_>],
    known: &Known,
    domains: &mut Vec<String>,
) -> Result<Option<Option<String>>, Stop> {
    let sets = sets(fields)?;
    let field = |place: Option<usize>| place.and_then(|place| fields.get(place));
    let mut seals = Vec::with_capacity(sets.len());
    for (set, instance) in sets.iter().zip(1..) {
        let seal = field(set.seal).ok_or("a seal is missing")?;
        let seal = Seal::read(seal).map_err(|why| format!("seal {instance}: {why}"))?;
        // RFC 8617 §5.2, steps 2 and 3
        let wanted = if instance == 1 { Verdict::None } else { Verdict::Pass };
        if seal.chain != wanted.name() {
            return Err(format!("seal {instance} says that the chain was {}", seal.chain).into());
        }
        domains.push(seal.domain.clone());
        seals.push(seal);
    }
    let (Some(last), Some(place)) = (sets.last(), sets.last().and_then(|set| set.signature)) else {
        return Ok(None);
    };
    let signature = field(last.signature).ok_or("a signature is missing")?;
    let signature = read_signature(signature).map_err(|why| format!("the signature: {why}"))?;
    let keys = keys(known, &signature, &seals)?;
    let Some((of_signature, of_seals)) = keys.split_first() else { return Ok(None) };
    if !message.hashes_to(&signature) {
        return Err("the body was changed since the last host".into());
    }
    let text = signature.text(fields, place);
    let verified = |key: &Key, algorithm, text: &[u8], signature: &[u8]| {
        let mut fits = key.iter().filter(|record| record.algorithm == algorithm);
        fits.any(|record| record.verify(text, signature).is_ok())
    };
    if !verified(of_signature, signature.algorithm, &text, &signature.signature) {
        return Err("the header was changed since the last host".into());
    }
    for ((count, seal), key) in (1..).zip(&seals).zip(of_seals) {
        let text = sealed_text(fields, sets.get(..count).unwrap_or_default(), seal);
        if !verified(key, seal.algorithm, &text, &seal.signature) {
            return Err(format!("seal {count} is none of {}", seal.domain).into());
        }
    }
    // RFC 8617 §4.1.2 lets who seals leave From out; then anybody may have put another one there.
    let is_signed = signature.names.iter().any(|name| name == "from");
    let results = field(last.results).map(|field| String::from_utf8_lossy(field.value()));
    Ok(Some(results.filter(|_| is_signed).map(|value| value.into_owned())))
}

/// The sets in their order: RFC 8617 §5.2, step 3.
fn sets(fields: &[Field<'_>]) -> Result<Vec<Set>, Stop> {
    let mut sets: Vec<Set> = Vec::new();
    for (place, field) in fields.iter().enumerate() {
        if !is_arc(field) {
            continue;
        }
        let instance = instance(field).ok_or("a field has no instance")?;
        if sets.len() < instance {
            sets.resize(instance, Set::default());
        }
        let Some(set) = sets.get_mut(instance - 1) else { continue };
        let own = match () {
            () if field.is(RESULTS) => &mut set.results,
            () if field.is(SIGNATURE) => &mut set.signature,
            () => &mut set.seal,
        };
        if own.replace(place).is_some() {
            return Err(format!("set {instance} has a field twice").into());
        }
    }
    let is_whole =
        |set: &Set| set.results.is_some() && set.signature.is_some() && set.seal.is_some();
    match sets.iter().position(|set| !is_whole(set)) {
        Some(missing) => Err(format!("set {} is not whole", missing + 1).into()),
        None => Ok(sets),
    }
}

fn is_arc(field: &Field<'_>) -> bool {
    [RESULTS, SIGNATURE, SEAL].iter().any(|name| field.is(name))
}

/// `i=` of a field: RFC 8617 §4.2.1.
fn instance(field: &Field<'_>) -> Option<usize> {
    let value = if field.is(RESULTS) {
        let value = core::str::from_utf8(field.value()).ok()?;
        let (front, _) = value.split_once(';')?;
        let (name, value) = front.split_once('=')?;
        let trimmed = crate::dkim::tags::trim;
        (trimmed(name) == "i").then(|| trimmed(value).to_owned())?
    } else {
        Tags::parse(field.value()).ok()?.value("i")?.to_owned()
    };
    let instance = usize::try_from(number(&value, 2)?).ok()?;
    (1..=SETS_MAX).contains(&instance).then_some(instance)
}

fn read_signature(field: &Field<'_>) -> Result<Signature, String> {
    if field.bytes().len() > SIGNATURE_BYTES_MAX {
        return Err("it is too long".to_owned());
    }
    let tags = Tags::parse(field.value()).map_err(|bad| bad.to_string())?;
    // RFC 8617 §4.1.2 changes nothing about c=, but who leaves it out has signed this form: the
    // field was drafted with it.
    let signature = Signature::read(field, &tags, "relaxed/relaxed")?;
    // RFC 8617 §4.1.2. That From is signed is not asked for: who seals without it is taken at his
    // word by the suite of the draft.
    if signature.names.iter().any(|name| name == SEAL) {
        return Err("it signs seals".to_owned());
    }
    Ok(signature)
}

/// The signature whose hash of the body counts: that of the last set.
pub(crate) fn last_signature(fields: &[Field<'_>]) -> Option<Signature> {
    let sets = sets(fields).ok()?;
    let field = fields.get(sets.last()?.signature?)?;
    read_signature(field).ok()
}

/// What must be known of a chain that is in order; its keys are asked for while the body comes.
pub(crate) fn questions(fields: &[Field<'_>]) -> Vec<crate::dns::Question> {
    let (Ok(sets), Some(signature)) = (sets(fields), last_signature(fields)) else {
        return Vec::new();
    };
    let seals = sets.iter().filter_map(|set| Seal::read(fields.get(set.seal?)?).ok());
    match keys(&Known::default(), &signature, &seals.collect::<Vec<_>>()) {
        Err(Stop::Ask(questions)) => questions,
        _ => Vec::new(),
    }
}

impl Seal {
    /// RFC 8617 §4.1.3
    fn read(field: &Field<'_>) -> Result<Self, String> {
        if field.bytes().len() > SIGNATURE_BYTES_MAX {
            return Err("it is too long".to_owned());
        }
        let tags = Tags::parse(field.value()).map_err(|bad| bad.to_string())?;
        let need = |name: &str| {
            let value = tags.value(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("it has no {name}="))
        };
        if tags.get("h").is_some() {
            return Err("it has h=".to_owned());
        }
        if tags.value("t").is_some_and(|time| number(time, 12).is_none()) {
            return Err("t= is none".to_owned());
        }
        let algorithm = match need("a")? {
            "rsa-sha256" => Algorithm::RsaSha256,
            "ed25519-sha256" => Algorithm::Ed25519Sha256,
            other => return Err(format!("its algorithm {other} proves nothing")),
        };
        Ok(Self {
            algorithm,
            signature: decode(need("b")?).ok_or("b= is no Base64")?,
            chain: need("cv")?.to_owned(),
            domain: need("d")?.to_ascii_lowercase(),
            selector: need("s")?.to_owned(),
            bare: without(field, &tags),
        })
    }
}

/// What a seal signs: all sets up to its own, in their order (RFC 8617 §5.1.1).
fn sealed_text(fields: &[Field<'_>], sets: &[Set], seal: &Seal) -> Vec<u8> {
    let mut text = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        put_set(fields, set, index + 1 == sets.len(), &mut text);
    }
    Field::new(&seal.bare).put(Canon::Relaxed, &mut text);
    text
}

/// Appends the canonical form of a set, each field with its CRLF; of a seal's own set without it.
fn put_set(fields: &[Field<'_>], set: &Set, own: bool, text: &mut Vec<u8>) {
    let places = [set.results, set.signature, set.seal.filter(|_| !own)];
    for field in places.into_iter().flatten().filter_map(|place| fields.get(place)) {
        field.put(Canon::Relaxed, text);
        text.extend_from_slice(b"\r\n");
    }
}

/// The records at one name.
type Key = Vec<Record>;

/// The keys of the last signature and of each seal; all are asked for at one time.
fn keys(known: &Known, signature: &Signature, seals: &[Seal]) -> Result<Vec<Key>, Stop> {
    let own = (signature.selector.as_str(), signature.domain.as_str());
    let theirs = seals.iter().map(|seal| (seal.selector.as_str(), seal.domain.as_str()));
    let (mut keys, mut missing) = (Vec::new(), Vec::new());
    for (selector, domain) in core::iter::once(own).chain(theirs) {
        let name = format!("{selector}._domainkey.{domain}");
        match known.get(&name, Kind::Txt) {
            Err(question) => missing.push(question),
            Ok(Ok(found)) => {
                let records = found.texts().filter_map(|text| Record::parse(text).ok());
                keys.push(records.take(3).collect());
            }
            Ok(Err(failure)) => {
                let permanent =
                    matches!(failure, Failure::BadName(_) | Failure::NoSuchName | Failure::NoData);
                return Err(Stop::Fail {
                    why: format!("{name}: {failure}"),
                    temporary: !permanent,
                });
            }
        }
    }
    if missing.is_empty() { Ok(keys) } else { Err(Stop::Ask(missing)) }
}

#[cfg(test)]
mod tests;
