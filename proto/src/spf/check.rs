//! The check itself: RFC 7208 §4 and §5.
//!
//! Begins anew whenever more is known, so nothing here outlives a call. Recursion is bounded by
//! the lookups that each step down costs.

use core::net::IpAddr;

use super::macros::{Letter, Template, dotted};
use super::record::{Directive, Mechanism, Prefix, Record, is_domain, is_record};
use super::{Client, EXPLANATION_BYTES_MAX, HOSTS_MAX, LOOKUPS_MAX, Outcome, VOIDS_MAX, Verdict};
use crate::dns::known::{Answer, Known, Next, kind_of};
use crate::dns::{Failure, Kind, Question, reverse_name};

/// Why a check ends here.
enum Stop {
    /// More must be known.
    Ask(Vec<Question>),
    /// The DNS gave no answer.
    Temporary(String),
    /// What is published cannot be followed.
    Permanent(String),
}

impl From<Question> for Stop {
    fn from(question: Question) -> Self {
        Self::Ask(vec![question])
    }
}

/// What a policy says.
struct Judged {
    verdict: Verdict,
    /// Where its domain explains a fail, and that domain.
    explanation: Option<(Template, String)>,
}

impl Judged {
    const fn plain(verdict: Verdict) -> Self {
        Self { verdict, explanation: None }
    }
}

/// Judges a client, or says what must be known first.
#[must_use]
pub fn check(client: &Client<'_>, known: &Known) -> Next<Outcome> {
    let (local, domain) = client.identity();
    let mut run = Run {
        client,
        ip: client.ip.to_canonical(),
        local,
        sender_domain: domain,
        known,
        lookups_count: 0,
        voids_count: 0,
        steps: Vec::new(),
    };
    let (verdict, explanation) = match run.host(domain) {
        Ok(Judged { verdict: Verdict::Fail, explanation: Some((place, domain)) }) => {
            match run.explanation(&place, &domain) {
                Ok(explanation) => (Verdict::Fail, explanation),
                Err(Stop::Ask(questions)) => return Next::Ask(questions),
                // RFC 7208 §6.2: as if there were none.
                Err(Stop::Temporary(_) | Stop::Permanent(_)) => (Verdict::Fail, None),
            }
        }
        Ok(judged) => (judged.verdict, None),
        Err(Stop::Ask(questions)) => return Next::Ask(questions),
        Err(Stop::Temporary(why)) => {
            run.steps.push(why);
            (Verdict::Temperror, None)
        }
        Err(Stop::Permanent(why)) => {
            run.steps.push(why);
            (Verdict::Permerror, None)
        }
    };
    Next::Done(Outcome { verdict, domain: domain.to_owned(), explanation, steps: run.steps })
}

struct Run<'r> {
    client: &'r Client<'r>,
    ip: IpAddr,
    local: &'r str,
    sender_domain: &'r str,
    known: &'r Known,
    lookups_count: u32,
    voids_count: u32,
    steps: Vec<String>,
}

impl Run<'_> {
    /// `check_host()` of RFC 7208 §4.
    fn host(&mut self, domain: &str) -> Result<Judged, Stop> {
        // RFC 7208 §4.3
        if !is_domain(domain) {
            self.steps.push(format!("{domain}: it is no domain that can be asked"));
            return Ok(Judged::plain(Verdict::None));
        }
        let Some(record) = self.record(domain)? else {
            self.steps.push(format!("{domain}: it has no record"));
            return Ok(Judged::plain(Verdict::None));
        };
        for directive in &record.directives {
            let matches = self.matches(&directive.mechanism, domain)?;
            self.note(domain, directive, matches);
            if matches {
                let explanation = record.explanation.map(|place| (place, domain.to_owned()));
                return Ok(Judged { verdict: directive.verdict, explanation });
            }
        }
        // RFC 7208 §6.1
        let Some(redirect) = &record.redirect else { return Ok(Judged::plain(Verdict::Neutral)) };
        self.count_lookup()?;
        let target = self.name(redirect, domain)?;
        self.steps.push(format!("{domain} redirect={target}"));
        let judged = self.host(&target)?;
        if judged.verdict == Verdict::None {
            return Err(Stop::Permanent(format!("{domain}: nobody is there to be redirected to")));
        }
        Ok(judged)
    }

    fn note(&mut self, domain: &str, directive: &Directive, matches: bool) {
        let word = if matches { directive.verdict.name() } else { "no match" };
        self.steps.push(format!("{domain} {}: {word}", directive.text));
    }

    /// The policy of a domain: RFC 7208 §4.4, §4.5.
    fn record(&mut self, domain: &str) -> Result<Option<Record>, Stop> {
        let found = match self.known.get(domain, Kind::Txt)? {
            Ok(found) => found,
            Err(failure) if unanswered(failure) => return Err(temporary(domain, failure)),
            Err(_) => return Ok(None),
        };
        let mut records = found.texts().filter(|text| is_record(text));
        let Some(text) = records.next() else { return Ok(None) };
        if records.next().is_some() {
            return Err(Stop::Permanent(format!("{domain}: it has several records")));
        }
        self.steps.push(format!("{domain}: {}", String::from_utf8_lossy(text)));
        let record = Record::parse(text);
        record.map(Some).map_err(|bad| Stop::Permanent(format!("{domain}: {bad}")))
    }

    /// RFC 7208 §5
    fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip(address, prefix) => Ok(prefix.covers(*address, self.ip)),
            Mechanism::Include(target) => self.include(target, domain),
            Mechanism::A(target, prefix) => {
                let target = self.target(target.as_ref(), domain)?;
                let answer = self.known.get(&target, kind_of(self.ip))?;
                Ok(self.settled(&target, answer)?.is_some_and(|found| self.is_in(&found, *prefix)))
            }
            Mechanism::Mx(target, prefix) => self.mx(target.as_ref(), *prefix, domain),
            Mechanism::Exists(target) => {
                let target = self.target(Some(target), domain)?;
                // RFC 7208 §5.7: whatever address the client has.
                let answer = self.known.get(&target, Kind::A)?;
                Ok(self.settled(&target, answer)?.is_some())
            }
            Mechanism::Ptr(target) => {
                let target = self.target(target.as_ref(), domain)?;
                Ok(self.own_names()?.iter().any(|name| is_within(name, &target)))
            }
        }
    }

    fn include(&mut self, target: &Template, domain: &str) -> Result<bool, Stop> {
        let target = self.target(Some(target), domain)?;
        // RFC 7208 §5.2
        match self.host(&target)?.verdict {
            Verdict::Pass => Ok(true),
            Verdict::Fail | Verdict::Softfail | Verdict::Neutral => Ok(false),
            Verdict::None | Verdict::Permerror => {
                Err(Stop::Permanent(format!("{domain} include:{target}: it has no policy")))
            }
            Verdict::Temperror => Err(Stop::Temporary(format!("{target}: no answer"))),
        }
    }

    fn mx(
        &mut self,
        target: Option<&Template>,
        prefix: Prefix,
        domain: &str,
    ) -> Result<bool, Stop> {
        let target = self.target(target, domain)?;
        let answer = self.known.get(&target, Kind::Mx)?;
        let Some(found) = self.settled(&target, answer)? else { return Ok(false) };
        let hosts: Vec<&str> = found.mx().map(|mx| &*mx.exchange).collect();
        // RFC 7208 §4.6.4
        if hosts.len() > HOSTS_MAX {
            return Err(Stop::Permanent(format!("{target}: it has more than {HOSTS_MAX} hosts")));
        }
        for (host, answer) in self.addresses(hosts.into_iter())? {
            match answer {
                Ok(found) if self.is_in(&found, prefix) => return Ok(true),
                Err(failure) if unanswered(failure) => return Err(temporary(&host, failure)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The addresses of some hosts, of the client's family.
    fn addresses<'h>(
        &self,
        hosts: impl Iterator<Item = &'h str>,
    ) -> Result<Vec<(String, Answer)>, Stop> {
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        for host in hosts.filter(|host| !host.is_empty()) {
            match self.known.get(host, kind_of(self.ip)) {
                Ok(answer) => answers.push((host.to_owned(), answer)),
                Err(question) => missing.push(question),
            }
        }
        if missing.is_empty() { Ok(answers) } else { Err(Stop::Ask(missing)) }
    }

    /// The names of the client that lead back to it: RFC 7208 §5.5.
    fn own_names(&mut self) -> Result<Vec<String>, Stop> {
        let found = match self.known.get(&reverse_name(self.ip), Kind::Ptr)? {
            Ok(found) => found,
            // A failure means that there is no match, no more.
            Err(failure) if unanswered(failure) => return Ok(Vec::new()),
            Err(_) => {
                self.count_void()?;
                return Ok(Vec::new());
            }
        };
        // RFC 7208 §4.6.4: those behind are passed over.
        let answers = self.addresses(found.names().take(HOSTS_MAX))?;
        let is_own = |answer: &Answer| {
            answer.as_ref().is_ok_and(|found| found.addresses().any(|ip| ip == self.ip))
        };
        Ok(answers.into_iter().filter(|(_, answer)| is_own(answer)).map(|(name, _)| name).collect())
    }

    fn is_in(&self, found: &crate::dns::Found, prefix: Prefix) -> bool {
        found.addresses().any(|address| prefix.covers(address, self.ip))
    }

    /// What a mechanism has found; none when there is nothing.
    fn settled(
        &mut self,
        name: &str,
        answer: Answer,
    ) -> Result<Option<std::rc::Rc<crate::dns::Found>>, Stop> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(failure) if unanswered(failure) => Err(temporary(name, failure)),
            // RFC 7208 §4.8: such a name is not asked for.
            Err(Failure::BadName(_)) => Ok(None),
            Err(_) => self.count_void().map(|()| None),
        }
    }

    /// The name that a mechanism is about, which costs one of the lookups that a check has.
    fn target(&mut self, template: Option<&Template>, domain: &str) -> Result<String, Stop> {
        self.count_lookup()?;
        template.map_or_else(|| Ok(domain.to_owned()), |template| self.name(template, domain))
    }

    fn name(&mut self, template: &Template, domain: &str) -> Result<String, Stop> {
        let own = self.own_name(template, domain)?;
        Ok(template.expand_domain(|letter| self.value(letter, domain, &own)))
    }

    /// What `p` stands for, where it is used: RFC 7208 §7.3.
    fn own_name(&mut self, template: &Template, domain: &str) -> Result<String, Stop> {
        if !template.needs_name() {
            return Ok(String::new());
        }
        // RFC 7208 §4.6.4: what limits it is the count of names.
        let names = self.own_names()?;
        let exact = names.iter().find(|name| name.eq_ignore_ascii_case(domain));
        let below = || names.iter().find(|name| is_within(name, domain));
        let name = exact.or_else(below).or_else(|| names.first());
        Ok(name.map_or_else(|| "unknown".to_owned(), String::clone))
    }

    fn value(&self, letter: Letter, domain: &str, own_name: &str) -> String {
        let client = self.client;
        match letter {
            Letter::Sender => format!("{}@{}", self.local, self.sender_domain),
            Letter::Local => self.local.to_owned(),
            Letter::SenderDomain => self.sender_domain.to_owned(),
            Letter::Domain => domain.to_owned(),
            Letter::Ip => dotted(self.ip),
            Letter::Name => own_name.to_owned(),
            Letter::Version => if self.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            Letter::Helo => client.helo.to_owned(),
            Letter::Readable => self.ip.to_string(),
            Letter::Receiver if client.receiver.is_empty() => "unknown".to_owned(),
            Letter::Receiver => client.receiver.to_owned(),
            Letter::Time => (client.now.ms() / 1000).to_string(),
        }
    }

    /// RFC 7208 §6.2
    fn explanation(&mut self, place: &Template, domain: &str) -> Result<Option<String>, Stop> {
        let name = self.name(place, domain)?;
        let Ok(found) = self.known.get(&name, Kind::Txt)? else { return Ok(None) };
        let mut texts = found.texts();
        let (Some(text), None) = (texts.next(), texts.next()) else { return Ok(None) };
        let template = core::str::from_utf8(text).ok().map(Template::explanation);
        let Some(Ok(template)) = template else { return Ok(None) };
        let own = self.own_name(&template, domain)?;
        let mut text = template.expand(|letter| self.value(letter, domain, &own));
        // What was filled in comes from the client.
        text.retain(|c| c == ' ' || c.is_ascii_graphic());
        text.truncate(EXPLANATION_BYTES_MAX);
        Ok(Some(text))
    }

    fn count_lookup(&mut self) -> Result<(), Stop> {
        self.lookups_count += 1;
        if self.lookups_count > LOOKUPS_MAX {
            return Err(Stop::Permanent(format!("more than {LOOKUPS_MAX} terms ask the DNS")));
        }
        Ok(())
    }

    fn count_void(&mut self) -> Result<(), Stop> {
        self.voids_count += 1;
        if self.voids_count > VOIDS_MAX {
            return Err(Stop::Permanent(format!("more than {VOIDS_MAX} lookups found nothing")));
        }
        Ok(())
    }
}

/// Whether nobody knows: RFC 7208 §4.4. A chain of aliases without an end is a failure of the DNS,
/// not the absence of a record.
const fn unanswered(failure: Failure) -> bool {
    match failure {
        Failure::Temporary(_)
        | Failure::TooManyAliases
        | Failure::AliasLoop
        | Failure::BadAlias => true,
        Failure::BadName(_) | Failure::NoSuchName | Failure::NoData => false,
    }
}

fn temporary(name: &str, failure: Failure) -> Stop {
    Stop::Temporary(format!("{name}: {failure}"))
}

/// Whether a name is the domain or below it.
fn is_within(name: &str, domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let at = name.len().checked_sub(domain.len());
    let Some((front, end)) = at.and_then(|at| name.split_at_checked(at)) else { return false };
    end.eq_ignore_ascii_case(domain) && (front.is_empty() || front.ends_with('.'))
}
