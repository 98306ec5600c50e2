//! The walk up the tree of the DNS, which finds a domain's record and its organisation: RFC 9989
//! §4.10.
//!
//! Called by `check` for the author's domain and for each that was proved. All names of a walk are
//! asked for at one time; what lies behind its end is not looked at. Limit: [`NAMES_MAX`] names.
//!
//! # The list of public suffixes
//!
//! RFC 7489 §3.2 knew organisations from the list of public suffixes; the walk needs none, but
//! leaves gaps that the list fills here:
//!
//! * A record at a name on the list counts as if it said `psd=y`, unless it has a word of its own:
//!   else all who registered below it would be one organisation.
//! * No answer for a name on the list counts as no record: few registries have one, and their
//!   trouble must not hold up everybody's mail.
//! * Where a walk found no record at all, or failed, what was [`registered`] is compared; not
//!   where a record has drawn the border itself.
//!
//! The list is that of the crate `psl`, as new as its version in Cargo.lock.
//!
//! The lookup of RFC 7489 at the organisation of the list is one of the walk's, which passes every
//! name of seven labels or fewer.

use super::record::{Record, Suffix, is_record};
use crate::dns::known::Known;
use crate::dns::{Failure, Kind, Question};

/// Names of one walk: RFC 9989 §4.10.
pub const NAMES_MAX: usize = 8;

/// The names that are asked for, from the longest to the shortest.
pub(super) fn names(domain: &str) -> Vec<&str> {
    let dots = domain.match_indices('.').filter_map(|(at, _)| domain.get(at + 1..));
    let mut above: Vec<&str> = dots.collect();
    // RFC 9989 §4.10, step 4: of a long name seven labels remain.
    let skipped = above.len().saturating_sub(NAMES_MAX - 1);
    above.drain(..skipped);
    above.insert(0, domain);
    above
}

/// The name that was registered below a public suffix, for a canonical domain; a public suffix and
/// a single label have none. RFC 7489 §3.2
#[must_use]
pub fn registered(domain: &str) -> Option<&str> {
    psl::domain_str(domain)
}

/// The organisation of a domain by the list; of one that is on it, itself.
pub(super) fn organisation(domain: &str) -> &str {
    registered(domain).unwrap_or(domain)
}

/// Whether the list names this domain as one below which others register.
fn is_listed(domain: &str) -> bool {
    let suffix = psl::suffix(domain.as_bytes());
    suffix.is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == domain.as_bytes())
}

/// What is at a name.
#[derive(Debug)]
pub(super) enum Place {
    /// Nothing of DMARC.
    Nothing,
    /// A record.
    Record(Box<Record>),
    /// A record that says nothing.
    Bad,
    /// Nobody knows.
    Failed,
}

/// A name and what is there.
#[derive(Debug)]
pub(super) struct Step<'d> {
    pub(super) name: &'d str,
    pub(super) place: Place,
    /// Others register below it.
    pub(super) is_suffix: bool,
    /// In words.
    pub(super) text: String,
}

/// What a comparison of two domains comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aligned {
    Yes,
    No,
    /// Nobody knows.
    Unknown,
}

/// A walk that is over.
#[derive(Debug)]
pub(super) struct Walk<'d> {
    pub(super) domain: &'d str,
    pub(super) steps: Vec<Step<'d>>,
}

/// An organisation, and who says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Organisation<'d> {
    pub(super) name: &'d str,
    pub(super) basis: Basis,
}

/// Who says which is the organisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// A record has drawn the border.
    Border,
    /// The record that is highest.
    Highest,
    /// There is no record.
    Nothing,
    /// Nobody knows.
    Failed,
}

impl<'d> Walk<'d> {
    /// The walk from a domain; what must be known first goes into `missing`.
    pub(super) fn read(domain: &'d str, known: &Known, missing: &mut Vec<Question>) -> Self {
        let mut steps = Vec::new();
        let mut ended = false;
        for name in names(domain) {
            let own = format!("_dmarc.{name}");
            match known.get(&own, Kind::Txt) {
                Err(question) if !ended => missing.push(question),
                Err(_) => {}
                Ok(_) if ended => {}
                Ok(answer) => {
                    let step = Step::read(name, name == domain, answer);
                    ended = step.ends();
                    steps.push(step);
                }
            }
        }
        Self { domain, steps }
    }

    /// RFC 9989 §4.10.2
    pub(super) fn organisation(&self) -> Organisation<'d> {
        let of = |name, basis| Organisation { name, basis };
        let mut highest = None;
        for step in &self.steps {
            let is_start = step.name == self.domain;
            match &step.place {
                Place::Failed => return of(organisation(self.domain), Basis::Failed),
                Place::Record(record) if record.suffix == Suffix::No => {
                    return of(step.name, Basis::Border);
                }
                Place::Record(_) if step.is_suffix && !is_start => {
                    return of(one_below(self.domain, step.name), Basis::Border);
                }
                Place::Record(_) | Place::Bad => highest = Some(step.name),
                Place::Nothing => {}
            }
        }
        highest.map_or_else(|| of(self.domain, Basis::Nothing), |name| of(name, Basis::Highest))
    }

    /// Whether this domain is of the same organisation as another one, whose mail or reports it is
    /// about: RFC 9989 §4.10.2.
    pub(super) fn compare(&self, other: &Walk<'_>) -> Aligned {
        let (own, theirs) = (other.organisation(), self.organisation());
        // RFC 7489 §3.2: what the list says, where the walks say nothing.
        let is_listed_so = organisation(other.domain) == organisation(self.domain);
        match (own.basis, theirs.basis) {
            (Basis::Border, _) if !is_within(self.domain, own.name) => Aligned::No,
            (Basis::Failed, _) | (_, Basis::Failed) if is_listed_so => Aligned::Yes,
            (Basis::Failed, _) | (_, Basis::Failed) => Aligned::Unknown,
            (Basis::Highest, Basis::Nothing) if is_listed_so => Aligned::Yes,
            _ if own.name == theirs.name => Aligned::Yes,
            _ => Aligned::No,
        }
    }

    /// What is at a name of the walk.
    pub(super) fn at(&self, name: &str) -> Option<&Step<'d>> {
        self.steps.iter().find(|step| step.name == name)
    }
}

/// Whether a name is the domain or below it; both are canonical.
pub(super) fn is_within(name: &str, domain: &str) -> bool {
    let front = name.strip_suffix(domain);
    front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// The name one label below `suffix` on the way from `domain`.
fn one_below<'d>(domain: &'d str, suffix: &str) -> &'d str {
    let front = domain.len().saturating_sub(suffix.len() + 1);
    let label = domain.get(..front).unwrap_or_default();
    let begin = label.rfind('.').map_or(0, |dot| dot + 1);
    domain.get(begin..).unwrap_or(domain)
}

impl<'d> Step<'d> {
    fn read(name: &'d str, is_start: bool, answer: crate::dns::known::Answer) -> Self {
        let step = |place, is_suffix, text| Self { name, place, is_suffix, text };
        let nothing = |text: String| step(Place::Nothing, false, text);
        let found = match answer {
            Ok(found) => found,
            Err(failure @ (Failure::NoSuchName | Failure::NoData | Failure::BadName(_))) => {
                return nothing(format!("_dmarc.{name}: {failure}"));
            }
            Err(failure) if !is_start && is_listed(name) => {
                return nothing(format!("_dmarc.{name}: {failure}; a public suffix needs none"));
            }
            Err(failure) => {
                return step(Place::Failed, false, format!("_dmarc.{name}: {failure}"));
            }
        };
        let mut records = found.texts().filter(|text| is_record(text));
        let Some(text) = records.next() else {
            return nothing(format!("_dmarc.{name}: no record of DMARC"));
        };
        if records.next().is_some() {
            // RFC 9989 §4.10, steps 2 and 6
            return nothing(format!("_dmarc.{name}: several records, so none counts"));
        }
        let shown = String::from_utf8_lossy(text);
        match Record::parse(text) {
            Ok(record) => {
                let is_suffix = match record.suffix {
                    Suffix::Yes => true,
                    Suffix::No => false,
                    Suffix::Unsaid => !is_start && is_listed(name),
                };
                let mut text = format!("_dmarc.{name}: {shown}");
                if !record.broken.is_empty() {
                    text = format!("{text} (passed over: {})", record.broken.join(", "));
                }
                step(Place::Record(Box::new(record)), is_suffix, text)
            }
            Err(bad) => step(Place::Bad, false, format!("_dmarc.{name}: {bad}: {shown}")),
        }
    }

    /// Whether nothing above it is looked at: RFC 9989 §4.10, steps 2 and 6.
    fn ends(&self) -> bool {
        let is_own = |record: &Record| record.suffix == Suffix::No;
        self.is_suffix || matches!(&self.place, Place::Record(record) if is_own(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_has_eight_names_at_most() {
        assert_eq!(names("com"), ["com"]);
        assert_eq!(names("a.b.example"), ["a.b.example", "b.example", "example"]);
        // RFC 9989 §4.10
        assert_eq!(
            names("a.b.c.d.e.f.g.h.i.j.mail.example.com"),
            [
                "a.b.c.d.e.f.g.h.i.j.mail.example.com",
                "g.h.i.j.mail.example.com",
                "h.i.j.mail.example.com",
                "i.j.mail.example.com",
                "j.mail.example.com",
                "mail.example.com",
                "example.com",
                "com",
            ]
        );
        let eight = "1.2.3.4.5.6.7.8";
        assert_eq!((names(eight).len(), names(eight)[1]), (8, "2.3.4.5.6.7.8"));
        let nine = "0.1.2.3.4.5.6.7.8";
        assert_eq!((names(nine).len(), names(nine)[1]), (8, "2.3.4.5.6.7.8"));
    }

    #[test]
    fn organisations_by_the_list() {
        for (domain, due) in [
            ("example.com", "example.com"),
            ("a.b.example.com", "example.com"),
            ("a.example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("com", "com"),
            ("a.b.unlisted", "b.unlisted"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(organisation(domain), due);
        }
        assert!(is_listed("co.uk") && is_listed("com"));
        assert!(!is_listed("example.com") && !is_listed("unlisted") && !is_listed("a.com"));
    }

    #[test]
    fn one_label_below() {
        assert_eq!(one_below("a.b.c.d", "d"), "c.d");
        assert_eq!(one_below("a.b.c.d", "b.c.d"), "a.b.c.d");
    }
}
