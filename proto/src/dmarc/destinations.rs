//! Where reports about a domain's mail may go: RFC 9990 §4.
//!
//! A pure function, as `check` is. Called before a report is sent, with the domain whose record was
//! applied: its record is read anew. Who is of another organisation gets reports only where a
//! record of his says that he wants them; else anybody could have mail sent to anybody. Limits:
//! those of records; two rounds of questions.

use super::from::canonical;
use super::record::{BadRecord, Record, Uri, is_record};
use super::walk::{Aligned, Walk, registered};
use crate::dns::known::{Known, Next};
use crate::dns::{Failure, Kind, Question};

/// Where reports go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Destinations {
    /// Addresses of mail, each once; each can be sent to by its [`Uri::mailbox`].
    pub uris: Vec<Uri>,
    /// The DNS gave no answer for some: later there may be more.
    pub temporary: bool,
    /// What was looked at, and what came of it, a line each.
    pub steps: Vec<String>,
}

/// Where reports about the mail of `domain` go, or what must be known first.
#[must_use]
pub fn destinations(domain: &str, known: &Known) -> Next<Destinations> {
    let mut run = Run { domain, known, missing: Vec::new(), found: Destinations::default() };
    if let Some(record) = run.record() {
        for uri in &record.aggregate {
            run.judge(uri);
        }
        if record.aggregate.is_empty() {
            run.note("it wants no reports");
        }
    }
    if !run.missing.is_empty() {
        run.missing.sort();
        run.missing.dedup();
        return Next::Ask(run.missing);
    }
    Next::Done(run.found)
}

struct Run<'r> {
    domain: &'r str,
    known: &'r Known,
    missing: Vec<Question>,
    found: Destinations,
}

impl Run<'_> {
    fn note(&mut self, what: impl core::fmt::Display) {
        self.found.steps.push(format!("{}: {what}", self.domain));
    }

    /// The texts at a name that are records of DMARC; none while there is no answer.
    fn texts(&mut self, name: &str) -> Option<Vec<Vec<u8>>> {
        match self.known.get(name, Kind::Txt) {
            Err(question) => {
                self.missing.push(question);
                None
            }
            Ok(Ok(found)) => {
                Some(found.texts().filter(|text| is_record(text)).map(<[u8]>::to_vec).collect())
            }
            Ok(Err(Failure::NoSuchName | Failure::NoData | Failure::BadName(_))) => {
                Some(Vec::new())
            }
            Ok(Err(failure)) => {
                self.found.temporary = true;
                self.found.steps.push(format!("{name}: {failure}"));
                None
            }
        }
    }

    fn record(&mut self) -> Option<Record> {
        let texts = self.texts(&format!("_dmarc.{}", self.domain))?;
        let record = match &texts[..] {
            [one] => Record::parse(one).ok(),
            _ => None,
        };
        if record.is_none() {
            self.note("it has no record any more that can be read");
        }
        record
    }

    /// Takes an address, if reports may go there.
    fn judge(&mut self, uri: &Uri) {
        let Some((_, host)) = host_of(uri) else {
            self.note(format_args!("{} is no address of mail", uri.text));
            return;
        };
        if self.is_own(&host) {
            self.take(uri.clone());
            return;
        }
        // RFC 9990 §4, steps 2 to 8
        let name = format!("{}._report._dmarc.{host}", self.domain);
        let Some(texts) = self.texts(&name) else { return };
        if texts.is_empty() {
            self.note(format_args!("{host} does not say that it wants reports about it"));
            return;
        }
        let mut own = Vec::new();
        for text in &texts {
            match Record::parse(text) {
                Ok(record) => own.extend(record.aggregate),
                // It needs no policy.
                Err(BadRecord::Policy) => {}
                Err(_) => return self.note(format_args!("what {host} says cannot be read")),
            }
        }
        if own.is_empty() {
            return self.take(uri.clone());
        }
        // RFC 9990 §4, step 9
        if own.iter().any(|uri| host_of(uri).is_none_or(|(_, other)| other != host)) {
            self.note(format_args!("{host} wants its reports to go elsewhere, which it must not"));
            return;
        }
        own.into_iter().for_each(|uri| self.take(uri));
    }

    /// Whether a host is of the domain's organisation, for sure.
    fn is_own(&mut self, host: &str) -> bool {
        if host == self.domain {
            return true;
        }
        if registered(host).is_none() || registered(host) != registered(self.domain) {
            return false;
        }
        let own = Walk::read(self.domain, self.known, &mut self.missing);
        let theirs = Walk::read(host, self.known, &mut self.missing);
        theirs.compare(&own) == Aligned::Yes
    }

    fn take(&mut self, uri: Uri) {
        self.note(format_args!("reports go to {}", uri.text));
        if !self.found.uris.iter().any(|one| one.mailbox() == uri.mailbox()) {
            self.found.uris.push(uri);
        }
    }
}

/// The mailbox of an address, and its host as the DNS has it.
fn host_of(uri: &Uri) -> Option<(String, String)> {
    let mailbox = uri.mailbox()?;
    let host = canonical(mailbox.rsplit_once('@')?.1)?;
    Some((mailbox, host))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Zone;
    use super::*;

    fn of(domain: &str, zone: &[(&str, &str)]) -> (Vec<String>, bool) {
        let zone = Zone::new(zone);
        let (found, rounds) = zone.ask(|known| destinations(domain, known));
        assert!(rounds.len() <= 2, "{rounds:?}");
        (found.uris.iter().filter_map(Uri::mailbox).collect(), found.temporary)
    }

    fn named(domain: &str, zone: &[(&str, &str)]) -> String {
        of(domain, zone).0.join(" ")
    }

    #[test]
    fn own_addresses_need_no_leave() {
        for (rua, due) in [
            ("mailto:a@d.com", "a@d.com"),
            ("mailto:a@x.d.com,mailto:b@d.com!1k", "a@x.d.com b@d.com"),
            ("mailto:a@D.com,mailto:a@D.com", "a@D.com"),
            ("https://d.com/reports", ""),
            ("mailto:a@other.com", ""),
        ] {
            let record = format!("v=DMARC1; p=none; rua={rua}");
            assert_eq!(named("d.com", &[("d.com", &record)]), due, "{rua}");
        }
        let above = "v=DMARC1; p=none; rua=mailto:a@d.com";
        assert_eq!(named("x.d.com", &[("x.d.com", above)]), "a@d.com");
        // A border between them.
        let own = "v=DMARC1; p=none; psd=n; rua=mailto:a@d.com";
        assert_eq!(named("x.d.com", &[("x.d.com", own)]), "");
    }

    #[test]
    fn others_must_say_that_they_want_them() {
        let record = "v=DMARC1; p=none; rua=mailto:a@e.net!5m";
        let leave = "d.com._report._dmarc.e.net";
        for (text, due) in [
            ("v=DMARC1", "a@e.net"),
            ("v=DMARC1;", "a@e.net"),
            ("v=DMARC1; rua=mailto:b@e.net", "b@e.net"),
            ("v=DMARC1; rua=mailto:b@e.net,mailto:c@e.net", "b@e.net c@e.net"),
            ("v=DMARC1; rua=mailto:b@f.net", ""),
            ("v=DMARC1; rua=mailto:b@e.net,mailto:c@x.e.net", ""),
            ("v=spf1", ""),
            ("ALIVE", ""),
        ] {
            assert_eq!(named("d.com", &[("d.com", record), (leave, text)]), due, "{text}");
        }
        assert_eq!(of("d.com", &[("d.com", record), (leave, "FAILS")]), (Vec::new(), true));
        assert_eq!(of("d.com", &[("d.com", "FAILS")]), (Vec::new(), true));
    }

    #[test]
    fn without_one_record_nobody_gets_any() {
        for text in ["v=DMARC1; p=none", "ALIVE", "v=DMARC1; p=x"] {
            assert_eq!(of("d.com", &[("d.com", text)]), (Vec::new(), false));
        }
        let one = "v=DMARC1; p=none; rua=mailto:a@d.com";
        assert_eq!(of("d.com", &[("d.com", &format!("{one}\n{one}"))]), (Vec::new(), false));
        let label = "a".repeat(60);
        let long = [&*label; 4].join(".");
        let record = format!("v=DMARC1; p=none; rua=mailto:a@{label}.net");
        assert_eq!(of(&long, &[(&long, &record)]), (Vec::new(), false), "a name beyond all limits");
    }
}
