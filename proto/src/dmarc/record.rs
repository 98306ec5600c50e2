//! The record that says what a domain wants of mail in its name: RFC 9989 §4.7, and what RFC 7489
//! §6.3 had besides (`pct`, `ri`, limits of sizes behind addresses).
//!
//! Read by `check` from text that anybody may have published, and by whoever sends reports. What is
//! broken in a record is passed over, as both RFCs demand; the names of such tags are kept for
//! people. Limits: [`RECORD_BYTES_MAX`], [`URIS_MAX`]. What cannot be used at all is [`BadRecord`].

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use crate::dkim::tags::{number, trim};
use crate::smtp::address::Mailbox;

/// The longest record that is read; arbitrary, as for SPF.
pub const RECORD_BYTES_MAX: usize = 5120;
/// Addresses of `rua` and `ruf` that are looked at, each; arbitrary, two must be (RFC 7489 §6.2).
pub const URIS_MAX: usize = 10;
/// `ri` where a record says nothing: a day (RFC 7489 §6.3).
pub const INTERVAL_S: u32 = 86_400;

/// What is to become of mail that fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Policy {
    /// Nothing in particular.
    #[default]
    None,
    /// It is suspicious.
    Quarantine,
    /// It is not to be taken.
    Reject,
}

impl Policy {
    /// As records and `Authentication-Results` write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }

    /// Reads it; in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::None, Self::Quarantine, Self::Reject];
        all.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(text))
    }

    /// The next milder one.
    #[must_use]
    pub const fn milder(self) -> Self {
        match self {
            Self::None | Self::Quarantine => Self::None,
            Self::Reject => Self::Quarantine,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How near a domain that was proved must be to the author's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Alignment {
    /// Of the same organisation.
    #[default]
    Relaxed,
    /// The same.
    Strict,
}

impl Alignment {
    /// As records and reports write it.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Relaxed => "r",
            Self::Strict => "s",
        }
    }
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        })
    }
}

/// Whether others register domains below one: `psd`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Suffix {
    /// It does not say.
    #[default]
    Unsaid,
    /// They do.
    Yes,
    /// They do not: it is an organisation's own.
    No,
}

/// Where reports are to go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uri {
    /// The address, without the limit behind it.
    pub text: String,
    /// The largest report that is wanted there, in bytes.
    pub bytes_max: Option<u64>,
}

impl Uri {
    /// Reads one, with the limit of RFC 7489 §6.4 behind it. RFC 9989 has none any more, but who
    /// still says one means it.
    fn parse(text: &str) -> Option<Self> {
        let (text, limit) = match text.split_once('!') {
            Some((text, limit)) => (text, Some(limit)),
            None => (text, None),
        };
        let (scheme, rest) = text.split_once(':')?;
        // RFC 3986 §3.1
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_scheme || !scheme.bytes().all(letters) || rest.is_empty() {
            return None;
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let bytes_max = limit.map(|limit| size(limit).ok_or(())).transpose().ok()?;
        let uri = Self { text: text.to_owned(), bytes_max };
        // One that we could send to must be one.
        let is_mail = scheme.eq_ignore_ascii_case("mailto");
        (!is_mail || uri.mailbox().is_some()).then_some(uri)
    }

    /// The mailbox, when it is one: RFC 6068 §2, without the fields behind a `?`.
    #[must_use]
    pub fn mailbox(&self) -> Option<String> {
        let (scheme, rest) = self.text.split_once(':')?;
        let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
        if !scheme.eq_ignore_ascii_case("mailto") {
            return None;
        }
        let address = unescape(rest)?;
        Mailbox::parse(&address).is_ok().then_some(address)
    }
}

/// RFC 7489 §6.4: a number, and k, m, g or t behind it for powers of 1024.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    number(digits, 19)?.checked_mul(1 << (10 * unit))
}

/// RFC 3986 §2.1
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Why a record says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BadRecord {
    /// It is one of something else.
    Version,
    /// It has more than [`RECORD_BYTES_MAX`] bytes.
    TooLong,
    /// It has no policy that can be read, and no address for reports.
    Policy,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("it is no record of DMARC"),
            Self::TooLong => write!(f, "it has over {RECORD_BYTES_MAX} bytes"),
            Self::Policy => {
                f.write_str("its policy cannot be read, and it has no address for reports")
            }
        }
    }
}

impl core::error::Error for BadRecord {}

/// What a domain wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `p`: for the domain itself, and for those below where nothing else is said.
    pub policy: Policy,
    /// `sp`: for the domains below.
    pub below: Option<Policy>,
    /// `np`: for those below that do not exist.
    pub missing: Option<Policy>,
    /// `adkim`
    pub dkim: Alignment,
    /// `aspf`
    pub spf: Alignment,
    /// `fo`: which failures are to be reported; `0` where nothing is said.
    pub failures: String,
    /// `pct`: of 100 messages that fail, how many the policy is for.
    pub percent: u8,
    /// `t`: the domain only tries it out.
    pub testing: bool,
    /// `psd`
    pub suffix: Suffix,
    /// `rua`: where reports of many messages go.
    pub aggregate: Vec<Uri>,
    /// `ruf`: where reports of one message go.
    pub failure: Vec<Uri>,
    /// `ri`: the seconds between two reports that are asked for.
    pub interval_s: u32,
    /// Names of tags that were passed over because they are broken.
    pub broken: Vec<&'static str>,
}

/// The tags that are read. `rf` names the form of reports of one message, and there is only one.
const TAGS: [&str; 12] =
    ["p", "sp", "np", "adkim", "aspf", "fo", "pct", "t", "psd", "rua", "ruf", "ri"];

/// Whether a text is a record of DMARC at all: RFC 9989 §4.7, v=.
#[must_use]
pub fn is_record(text: &[u8]) -> bool {
    let first = text.split(|&byte| byte == b';').next().unwrap_or_default();
    let Ok(first) = core::str::from_utf8(first) else { return false };
    let Some((name, value)) = first.split_once('=') else { return false };
    // The name in any case, the value in this one; nothing stands before it.
    name.trim_end_matches([' ', '\t']).eq_ignore_ascii_case("v") && trim(value) == "DMARC1"
}

/// The values of tags that are known; none where one is there twice.
fn tags(text: &[u8]) -> BTreeMap<&'static str, Option<&str>> {
    let mut tags = BTreeMap::new();
    for part in text.split(|&byte| byte == b';').skip(1) {
        // RFC 9989 §4.7: what does not follow the grammar, and what is not known, is passed over.
        let Ok(part) = core::str::from_utf8(part) else { continue };
        let Some((name, value)) = part.split_once('=') else { continue };
        let name = trim(name);
        let Some(known) = TAGS.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            continue;
        };
        let value = Some(trim(value)).filter(|_| !tags.contains_key(known));
        tags.insert(*known, value);
    }
    tags
}

/// Reads the values of tags, and notes which are broken.
struct Reader<'t> {
    tags: BTreeMap<&'static str, Option<&'t str>>,
    broken: Vec<&'static str>,
}

impl Reader<'_> {
    /// What a tag says; none when it is not there, or cannot be read.
    fn read<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = *self.tags.get(name)?;
        let read = value.and_then(read);
        if read.is_none() {
            self.broken.push(name);
        }
        read
    }

    /// The addresses that can be read.
    fn uris(&mut self, name: &'static str) -> Vec<Uri> {
        let list = |text: &str| {
            let uris = text.split(',').take(URIS_MAX).filter_map(|uri| Uri::parse(trim(uri)));
            Some(uris.collect::<Vec<_>>()).filter(|uris| !uris.is_empty())
        };
        self.read(name, list).unwrap_or_default()
    }
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn parse(text: &[u8]) -> Result<Self, BadRecord> {
        if !is_record(text) {
            return Err(BadRecord::Version);
        }
        if text.len() > RECORD_BYTES_MAX {
            return Err(BadRecord::TooLong);
        }
        let mut reader = Reader { tags: tags(text), broken: Vec::new() };
        let policies = ["p", "sp", "np"].map(|name| reader.read(name, Policy::parse));
        let policy_is_broken = policies.first() == Some(&None) || !reader.broken.is_empty();
        let alignment = |text: &str| match text {
            "r" | "R" => Some(Alignment::Relaxed),
            "s" | "S" => Some(Alignment::Strict),
            _ => None,
        };
        let flag = |text: &str| match text {
            "y" | "Y" => Some(true),
            "n" | "N" => Some(false),
            _ => None,
        };
        let percent = |text: &str| {
            number(text, 3).and_then(|n| u8::try_from(n).ok()).filter(|percent| *percent <= 100)
        };
        let suffix = |text: &str| match text {
            "u" | "U" => Some(Suffix::Unsaid),
            _ => flag(text).map(|is| if is { Suffix::Yes } else { Suffix::No }),
        };
        let failures = |text: &str| {
            let options: BTreeSet<String> =
                text.split(':').map(|option| trim(option).to_ascii_lowercase()).collect();
            let is_known = |option: &String| matches!(option.as_str(), "0" | "1" | "d" | "s");
            // Each once: the record is as long as its domain likes, and reports repeat this.
            let each: Vec<&str> = options.iter().map(String::as_str).collect();
            options.iter().all(is_known).then(|| each.join(":"))
        };
        let seconds = |text: &str| number(text, 10).and_then(|n| u32::try_from(n).ok());
        let [policy, below, missing] = policies;
        let mut record = Self {
            policy: policy.unwrap_or_default(),
            below,
            missing,
            dkim: reader.read("adkim", alignment).unwrap_or_default(),
            spf: reader.read("aspf", alignment).unwrap_or_default(),
            failures: reader.read("fo", failures).unwrap_or_else(|| "0".to_owned()),
            percent: reader.read("pct", percent).unwrap_or(100),
            testing: reader.read("t", flag).unwrap_or(false),
            suffix: reader.read("psd", suffix).unwrap_or_default(),
            aggregate: reader.uris("rua"),
            failure: reader.uris("ruf"),
            interval_s: reader.read("ri", seconds).unwrap_or(INTERVAL_S),
            broken: Vec::new(),
        };
        record.broken = reader.broken;
        if policy_is_broken {
            // RFC 9989 §4.10.1 (RFC 7489 §6.6.3): as if it said p=none, for the sake of reports.
            if record.aggregate.is_empty() {
                return Err(BadRecord::Policy);
            }
            (record.policy, record.below, record.missing) = (Policy::None, None, None);
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Record {
        Record::parse(text.as_bytes()).unwrap_or_else(|bad| panic!("{text}: {bad}"))
    }

    #[test]
    fn every_tag_is_read() {
        let record = read(
            "v=DMARC1; p=reject; sp=Quarantine; np=none; adkim=s; aspf=S; fo=1:d; pct=25; t=y; \
             psd=n; rua=mailto:a@b.example!10m , https://c.example/d; ruf=mailto:e@f.example; \
             ri=3600; rf=afrf; x-new=thing",
        );
        assert_eq!(record.policy, Policy::Reject);
        assert_eq!((record.below, record.missing), (Some(Policy::Quarantine), Some(Policy::None)));
        assert_eq!((record.dkim, record.spf), (Alignment::Strict, Alignment::Strict));
        assert_eq!((record.failures.as_str(), record.percent, record.testing), ("1:d", 25, true));
        assert_eq!((record.suffix, record.interval_s), (Suffix::No, 3600));
        let uris: Vec<_> = record.aggregate.iter().map(|u| (&*u.text, u.bytes_max)).collect();
        assert_eq!(uris, [("mailto:a@b.example", Some(10 << 20)), ("https://c.example/d", None)]);
        assert_eq!(record.failure[0].mailbox().as_deref(), Some("e@f.example"));
        assert_eq!(record.broken, [""; 0]);
        let plain = read("v=DMARC1;p=none");
        assert_eq!((plain.percent, plain.failures.as_str(), plain.testing), (100, "0", false));
        assert_eq!((plain.suffix, plain.interval_s), (Suffix::Unsaid, 86_400));
        assert_eq!((plain.below, plain.dkim), (None, Alignment::Relaxed));
    }

    #[test]
    fn what_begins_with_another_version_is_no_record() {
        for (text, is) in [
            ("v=DMARC1", true),
            ("v=DMARC1;", true),
            ("V \t= \tDMARC1 ; p=none", true),
            ("v=dmarc1; p=none", false),
            ("v=DMARC12; p=none", false),
            ("v=DMARC1 p=none", false),
            (" v=DMARC1; p=none", false),
            ("p=none; v=DMARC1", false),
            ("v=spf1 -all", false),
            ("", false),
        ] {
            assert_eq!(is_record(text.as_bytes()), is, "{text}");
            assert_eq!(Record::parse(text.as_bytes()) == Err(BadRecord::Version), !is, "{text}");
        }
        assert!(!is_record(b"v=DMARC1\xff; p=none"));
    }

    #[test]
    fn what_is_broken_is_passed_over() {
        let record = read("v=DMARC1; p=reject; adkim=x; pct=101; t=maybe; psd=; ri=-1; fo=2; =; ;");
        assert_eq!(record.broken, ["adkim", "fo", "pct", "t", "psd", "ri"]);
        assert_eq!((record.policy, record.percent), (Policy::Reject, 100));
        assert_eq!((record.dkim, record.interval_s), (Alignment::Relaxed, INTERVAL_S));
        let twice = read("v=DMARC1; p=reject; pct=10; pct=20");
        assert_eq!((twice.percent, &*twice.broken), (100, &["pct"][..]));
        let bytes = Record::parse(b"v=DMARC1; \xff=\xfe; p=reject").unwrap();
        assert_eq!(bytes.policy, Policy::Reject);
    }

    #[test]
    fn a_broken_policy_is_none_where_reports_are_wanted() {
        for broken in ["p=block", "p=", "sp=none", "p=reject; sp=x", "p=reject; np=x", "p=a; p=a"] {
            let text = format!("v=DMARC1; {broken}");
            assert_eq!(Record::parse(text.as_bytes()), Err(BadRecord::Policy), "{text}");
            let text = format!("v=DMARC1; {broken}; rua=mailto:nobody");
            assert_eq!(Record::parse(text.as_bytes()), Err(BadRecord::Policy), "{text}");
            let record = read(&format!("v=DMARC1; {broken}; rua=mailto:a@b.example"));
            assert_eq!((record.policy, record.below, record.missing), (Policy::None, None, None));
        }
    }

    #[test]
    fn addresses_have_limits_and_escapes() {
        for (text, limit) in [
            ("mailto:a@b.example", Some(None)),
            ("mailto:a@b.example!5", Some(Some(5))),
            ("mailto:a@b.example!5k", Some(Some(5 << 10))),
            ("MAILTO:a@b.example!1T", Some(Some(1 << 40))),
            ("mailto:a@b.example!", None),
            ("mailto:a@b.example!5x", None),
            ("mailto:a@b.example!99999999999999999999", None),
            ("mailto:a@b.example!9999999999999999t", None),
            ("mailto:", None),
            ("mailto:a b@c.example", None),
            ("a@b.example", None),
            ("1x:a", None),
        ] {
            assert_eq!(Uri::parse(text).map(|uri| uri.bytes_max), limit, "{text}");
        }
        let mailbox = |text: &str| Uri::parse(text).and_then(|uri| uri.mailbox());
        assert_eq!(mailbox("mailto:a%2Bb@c.example?subject=x"), Some("a+b@c.example".to_owned()));
        assert_eq!(mailbox("mailto:a%zz@c.example"), None);
        assert_eq!(mailbox("https://c.example/"), None);
        let many = ["mailto:a@b.example"; URIS_MAX + 1].join(",");
        let record = read(&format!("v=DMARC1; p=none; rua={many}"));
        assert_eq!(record.aggregate.len(), URIS_MAX);
        let long = format!("v=DMARC1; p=none; {}", "x".repeat(RECORD_BYTES_MAX));
        assert_eq!(Record::parse(long.as_bytes()), Err(BadRecord::TooLong));
        let just = long.get(..RECORD_BYTES_MAX).unwrap();
        assert_eq!(read(just).policy, Policy::None);
    }

    #[test]
    fn policies_get_milder_to_the_end() {
        let all = [Policy::Reject, Policy::Quarantine, Policy::None, Policy::None];
        assert!(all.windows(2).all(|two| two[0].milder() == two[1]));
        assert_eq!(Policy::parse("REJECT"), Some(Policy::Reject));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "(v=DMARC1;)?[a-z=;:!,@. %0-9]{0,60}") {
            let record = Record::parse(text.as_bytes());
            prop_assert_eq!(record == Err(BadRecord::Version), !is_record(text.as_bytes()));
            for uri in record.iter().flat_map(|r| r.aggregate.iter().chain(&r.failure)) {
                prop_assert!(!uri.text.contains(['!', ',', ' ']));
            }
        }
    }
}
