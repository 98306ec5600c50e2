//! MTA-STS (RFC 8461): what a domain says about TLS of its mail servers, as values.
//!
//! The relay looks a domain's record up ([`id`]) and fetches its policy ([`Policy::parse`],
//! through [`response`]); which hosts and certificates fit is asked of the [`Policy`]. Limits:
//! [`POLICY_BYTES_MAX`], [`PATTERNS_MAX`]. What cannot be read is no policy: [`PolicyError`].

pub mod response;

use core::fmt;
use core::time::Duration;

/// RFC 8461 §3.3: senders may stop reading a policy there.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Patterns of hosts in one policy; arbitrary, ten times what large domains have.
pub const PATTERNS_MAX: usize = 100;
/// RFC 8461 §3.2: the longest time that a policy is kept; about a year.
pub const MAX_AGE_MAX: Duration = Duration::from_secs(31_557_600);

/// What the texts at `_mta-sts.` and the domain say: the name of the policy in force, if the domain
/// has one.
#[must_use]
pub fn id<'t>(texts: impl Iterator<Item = &'t [u8]>) -> Option<&'t str> {
    // RFC 8461 §3.1: other texts may stand there; of two records neither counts.
    let mut ours = texts.filter_map(|text| {
        let rest = text.strip_prefix(b"v=STSv1")?;
        let rest = rest.trim_ascii_start();
        rest.strip_prefix(b";").or_else(|| rest.is_empty().then_some(rest))
    });
    let (fields, None) = (ours.next()?, ours.next()) else { return None };
    let mut found = None;
    for field in fields.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
        let Some(value) = field.strip_prefix(b"id=") else { continue };
        let valid = (1..=32).contains(&value.len()) && value.iter().all(u8::is_ascii_alphanumeric);
        if !valid || found.is_some() {
            return None;
        }
        found = core::str::from_utf8(value).ok();
    }
    found
}

/// What follows when a host does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It gets no mail.
    Enforce,
    /// It is counted, and gets its mail.
    Testing,
    /// Nothing: the domain has no policy any more.
    None,
}

/// What a domain demands of its mail servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// What follows when a host does not fit.
    pub mode: Mode,
    /// How long it holds after it was fetched.
    pub max_age: Duration,
    /// Lower case; a `*` may stand for the first label.
    patterns: Vec<Box<str>>,
}

/// Why a text is no policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyError {
    /// More than [`POLICY_BYTES_MAX`] bytes, or no UTF-8.
    Text,
    /// It is not of the version that is known.
    Version,
    /// It has no mode, or one that is unknown.
    Mode,
    /// It has no max_age, or one that is no number or too large.
    MaxAge,
    /// It names no host, or something that is none, or more than [`PATTERNS_MAX`].
    Hosts,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "the policy is no text, or too long",
            Self::Version => "the policy is not of version STSv1",
            Self::Mode => "the policy has no mode that is known",
            Self::MaxAge => "the policy has no max_age that makes sense",
            Self::Hosts => "the policy names no hosts, or something that is none, or too many",
        })
    }
}

impl core::error::Error for PolicyError {}

impl Policy {
    /// Reads a policy (RFC 8461 §3.2). Unknown fields are passed over.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let text = core::str::from_utf8(bytes).ok().filter(|text| text.len() <= POLICY_BYTES_MAX);
        let fields = text.ok_or(PolicyError::Text)?.split('\n').filter_map(|line| {
            let (name, value) = line.trim().split_once(':')?;
            Some((name.trim_end(), value.trim_start()))
        });
        // RFC 8461 §3.2: of a field that stands twice the first counts.
        let first = |wanted| fields.clone().find(|(name, _)| *name == wanted).map(|(_, v)| v);
        if first("version") != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match first("mode") {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let digits = |text: &&str| {
            (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let seconds = first("max_age").filter(digits).and_then(|text| text.parse().ok());
        let max_age = seconds.map(Duration::from_secs).filter(|age| *age <= MAX_AGE_MAX);
        let max_age = max_age.ok_or(PolicyError::MaxAge)?;
        let mut patterns: Vec<Box<str>> = Vec::new();
        for (_, pattern) in fields.filter(|(name, _)| *name == "mx") {
            let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
            if !is_pattern(pattern) || patterns.len() == PATTERNS_MAX {
                return Err(PolicyError::Hosts);
            }
            patterns.push(pattern.to_ascii_lowercase().into());
        }
        if patterns.is_empty() && mode != Mode::None {
            return Err(PolicyError::Hosts);
        }
        Ok(Self { mode, max_age, patterns })
    }

    /// Whether it names this host (RFC 8461 §4.1).
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let above = host.split_once('.').map(|(_, above)| above);
        self.patterns.iter().any(|pattern| match pattern.strip_prefix("*.") {
            // One label and no more: RFC 6125 §6.4.3.
            Some(rest) => above.is_some_and(|above| above.eq_ignore_ascii_case(rest)),
            None => pattern.eq_ignore_ascii_case(host),
        })
    }
}

/// A host name, or one with a `*` for its first label.
fn is_pattern(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= 253 && text.strip_prefix("*.").unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests;
