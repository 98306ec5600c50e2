//! The check itself: RFC 9989 §5.3, with what RFC 7489 §6.6 says of several authors.
//!
//! Begins anew whenever more is known. Two rounds of questions at most: the walks of the authors'
//! domains with those of the proved domains that may belong to the same organisation; then those
//! that only a record has shown to belong there, and whether a domain exists.

use super::record::{Alignment, Policy, Record};
use super::walk::{Aligned, Basis, Place, Walk, is_within, organisation};
use super::{
    Evidence, IDENTIFIERS_MAX, Identifier, Mechanism, Outcome, Published, Tag, Verdict, from,
};
use crate::dkim::verify::Verdict as DkimVerdict;
use crate::dns::known::{Known, Next};
use crate::dns::{Failure, Kind, Question};
use crate::spf::Verdict as SpfVerdict;

/// Judges a message, or says what must be known first.
#[must_use]
pub fn check(evidence: &Evidence<'_>, known: &Known) -> Next<Outcome> {
    let authors = match evidence.authors {
        Ok(authors) => authors,
        Err(bad) => {
            // RFC 7489 §11.2: none where nothing is there to be judged. What is there and cannot be
            // read must not pass as if nothing were.
            let verdict = if bad.is_absence() { Verdict::None } else { Verdict::Permerror };
            return Next::Done(unjudged(verdict, bad.to_string()));
        }
    };
    let candidates = candidates(evidence);
    let (mut outcomes, mut missing) = (Vec::new(), Vec::new());
    for author in authors.iter().take(from::DOMAINS_MAX) {
        let mut run = Run { author, candidates: &candidates, known, missing: Vec::new() };
        let outcome = run.judge(evidence.draw);
        missing.append(&mut run.missing);
        outcomes.push(outcome);
    }
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Next::Ask(missing);
    }
    Next::Done(worst(outcomes))
}

fn unjudged(verdict: Verdict, step: String) -> Outcome {
    Outcome {
        verdict,
        author: String::new(),
        published: None,
        disposition: Policy::None,
        aligned: Vec::new(),
        steps: vec![step],
    }
}

/// Of several authors the worst: RFC 7489 §6.6.1 applies the strictest policy of those that fail.
/// What nobody knows yet may still be as bad as its domain may want. It passes where it passes for
/// all.
fn worst(outcomes: Vec<Outcome>) -> Outcome {
    let badness = |outcome: &Outcome| match outcome.verdict {
        Verdict::Fail => (outcome.disposition, 4),
        Verdict::Temperror => {
            let published = outcome.published.as_ref();
            (published.map_or(Policy::Reject, |published| published.policy), 3)
        }
        Verdict::Permerror => (Policy::None, 2),
        Verdict::None => (Policy::None, 1),
        Verdict::Pass => (Policy::None, 0),
    };
    let steps: Vec<String> = outcomes.iter().flat_map(|one| one.steps.iter().cloned()).collect();
    let worst = outcomes
        .into_iter()
        .reduce(|worst, one| if badness(&one) > badness(&worst) { one } else { worst });
    let worst = worst.unwrap_or_else(|| unjudged(Verdict::None, String::new()));
    Outcome { steps, ..worst }
}

/// A domain that was proved, or that would have been if the DNS had answered.
struct Candidate {
    identifier: Identifier,
    proved: bool,
}

/// RFC 9989 §5.3.3
fn candidates(evidence: &Evidence<'_>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    let mut add = |mechanism, domain: &str, proved: bool| {
        // What no name can be like was not proved by the DNS.
        let Some(domain) = from::canonical(domain) else { return };
        let identifier = Identifier { mechanism, domain };
        if let Some(one) = all.iter_mut().find(|one| one.identifier == identifier) {
            one.proved |= proved;
        } else if all.len() < IDENTIFIERS_MAX {
            all.push(Candidate { identifier, proved });
        }
    };
    if let Some(spf) = evidence.spf {
        // RFC 9989 §3.2.4: MAIL FROM, or HELO for the null path, as SPF itself has it.
        match spf.verdict {
            SpfVerdict::Pass => add(Mechanism::Spf, &spf.domain, true),
            SpfVerdict::Temperror => add(Mechanism::Spf, &spf.domain, false),
            _ => {}
        }
    }
    // RFC 6376 §8.2: what anybody may have added to is not proved.
    for judged in evidence.dkim.iter().filter(|judged| !judged.is_partial) {
        match judged.verdict {
            DkimVerdict::Pass => add(Mechanism::Dkim, &judged.domain, true),
            DkimVerdict::Temperror => add(Mechanism::Dkim, &judged.domain, false),
            _ => {}
        }
    }
    all
}

/// One author's domain.
struct Run<'r> {
    author: &'r str,
    candidates: &'r [Candidate],
    known: &'r Known,
    missing: Vec<Question>,
}

impl<'r> Run<'r> {
    /// What comes of it; nothing that counts while something is missing.
    fn judge(&mut self, draw: u8) -> Outcome {
        let walk = Walk::read(self.author, self.known, &mut self.missing);
        // While the author's walk is asked for, those that are likely to be needed go along.
        let is_asking = !self.missing.is_empty();
        let mut walks = Vec::new();
        let own = walk.organisation();
        for candidate in self.candidates {
            let domain = &*candidate.identifier.domain;
            let may_be_kin = organisation(domain) == organisation(self.author)
                || (!is_asking && is_within(domain, own.name));
            let walk = may_be_kin.then(|| Walk::read(domain, self.known, &mut self.missing));
            walks.push((candidate, walk));
        }
        let steps = walk.steps.iter().map(|step| step.text.clone()).collect();
        let mut outcome = Outcome {
            verdict: Verdict::None,
            author: self.author.to_owned(),
            published: None,
            disposition: Policy::None,
            aligned: Vec::new(),
            steps,
        };
        if is_asking {
            return outcome;
        }
        match self.published(&walk, &mut outcome.steps) {
            Ok(Some(published)) => {
                self.align(&walk, &walks, &published.record, &mut outcome);
                if outcome.verdict == Verdict::Fail {
                    outcome.disposition = disposition(&published, draw, &mut outcome.steps);
                }
                outcome.published = Some(published);
            }
            Ok(None) => {}
            Err(verdict) => outcome.verdict = verdict,
        }
        outcome
    }

    /// RFC 9989 §4.10.1
    fn published(
        &mut self,
        walk: &Walk<'_>,
        steps: &mut Vec<String>,
    ) -> Result<Option<Published>, Verdict> {
        let author = self.author;
        match walk.at(author).map(|step| &step.place) {
            Some(Place::Record(record)) => {
                steps.push(format!("p={} is for {author}", record.policy));
                let (policy, domain) = (record.policy, author.to_owned());
                let record = Record::clone(record);
                return Ok(Some(Published { domain, record, policy, tag: Tag::P }));
            }
            Some(Place::Bad) => return Err(Verdict::Permerror),
            _ => {}
        }
        let own = walk.organisation();
        if own.basis == Basis::Failed {
            return Err(Verdict::Temperror);
        }
        // The organisation's, else that of the registry above it.
        let suffix = walk.steps.last().filter(|step| step.is_suffix);
        let at_own = walk.at(own.name).filter(|step| !matches!(step.place, Place::Nothing));
        let Some(step) = at_own.or(suffix) else {
            steps.push(format!("{author}: no record is for it"));
            return Ok(None);
        };
        let Place::Record(record) = &step.place else { return Err(Verdict::Permerror) };
        let (policy, tag) = self.policy_below(record, steps);
        steps.push(format!("{tag}={policy} of {} is for {author}", step.name));
        let (domain, record) = (step.name.to_owned(), Record::clone(record));
        Ok(Some(Published { domain, record, policy, tag }))
    }

    /// The policy of a record for a domain below its own.
    fn policy_below(&mut self, record: &Record, steps: &mut Vec<String>) -> (Policy, Tag) {
        let existing = record.below.map_or((record.policy, Tag::P), |below| (below, Tag::Sp));
        let Some(missing) = record.missing else { return existing };
        match self.known.get(self.author, Kind::A) {
            // RFC 9989 §3.2.13
            Ok(Err(Failure::NoSuchName)) => {
                steps.push(format!("{}: there is no such name", self.author));
                (missing, Tag::Np)
            }
            Ok(_) => existing,
            Err(question) => {
                self.missing.push(question);
                existing
            }
        }
    }

    /// RFC 9989 §5.3.4, §5.3.5
    fn align(
        &self,
        walk: &Walk<'_>,
        walks: &[(&Candidate, Option<Walk<'_>>)],
        record: &Record,
        outcome: &mut Outcome,
    ) {
        let own = walk;
        let mut unknown = false;
        for (candidate, walk) in walks {
            let Identifier { mechanism, domain } = &candidate.identifier;
            let mode = match mechanism {
                Mechanism::Spf => record.spf,
                Mechanism::Dkim => record.dkim,
            };
            let aligned = match (mode, walk) {
                _ if domain == self.author => Aligned::Yes,
                (Alignment::Relaxed, Some(walk)) => walk.compare(own),
                (Alignment::Strict, _) | (_, None) => Aligned::No,
            };
            let word = match (candidate.proved, aligned) {
                (true, Aligned::Yes) => "proved, and speaks for",
                (true, Aligned::No) => "proved, but does not speak for",
                (true, Aligned::Unknown) => "proved, but nobody knows if it speaks for",
                (false, _) => "not answered for by the DNS",
            };
            let author = if candidate.proved { self.author } else { "" };
            let step = format!("{mechanism} of {domain} ({mode}): {word} {author}");
            outcome.steps.push(step.trim_end().to_owned());
            match aligned {
                Aligned::Yes if candidate.proved => {
                    outcome.aligned.push(candidate.identifier.clone());
                }
                Aligned::No => {}
                Aligned::Yes | Aligned::Unknown => unknown = true,
            }
        }
        outcome.verdict = match (outcome.aligned.is_empty(), unknown) {
            (false, _) => Verdict::Pass,
            // RFC 9989 §5.3.6: who would pass if the DNS answered has not failed.
            (true, true) => Verdict::Temperror,
            (true, false) => Verdict::Fail,
        };
    }
}

/// What the domain wants for this message: RFC 7489 §6.6.4; RFC 9989 §4.7, t=.
fn disposition(published: &Published, draw: u8, steps: &mut Vec<String>) -> Policy {
    let Published { record, policy, .. } = published;
    if *policy == Policy::None {
        return Policy::None;
    }
    if record.testing {
        steps.push(format!("t=y: {} instead of {policy}", policy.milder()));
        return policy.milder();
    }
    if draw >= record.percent {
        let percent = record.percent;
        steps.push(format!("pct={percent}, drawn {draw}: {} instead of {policy}", policy.milder()));
        return policy.milder();
    }
    *policy
}
