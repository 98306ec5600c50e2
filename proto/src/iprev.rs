//! iprev (RFC 8601 §3): whether the name of a client's address leads back to it.
//!
//! A pure function of what is [known](crate::dns::known::Known). Limit: [`NAMES_MAX`] names of one
//! address are looked at; who has more is judged by those.

use core::fmt;
use core::net::IpAddr;

use crate::dns::known::{Known, Next, kind_of};
use crate::dns::{Failure, Kind, reverse_name};

/// Names of one address that are looked up; as many as SPF takes (RFC 7208 §4.6.4).
pub const NAMES_MAX: usize = 10;

/// What the DNS says: RFC 8601 §2.7.3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// A name of the address leads back to it.
    Pass,
    /// None does.
    Fail,
    /// The DNS gave no answer; later it may.
    Temperror,
    /// The address has no name.
    Permerror,
}

impl Verdict {
    /// As `Authentication-Results` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
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

/// How a check went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the DNS says.
    pub verdict: Verdict,
    /// The name that leads back.
    pub name: Option<Box<str>>,
}

/// Judges an address, or says what must be known first.
#[must_use]
pub fn check(ip: IpAddr, known: &Known) -> Next<Outcome> {
    let ip = ip.to_canonical();
    let done = |verdict, name| Next::Done(Outcome { verdict, name });
    let names = match known.get(&reverse_name(ip), Kind::Ptr) {
        Err(question) => return Next::Ask(vec![question]),
        Ok(Err(Failure::Temporary(_))) => return done(Verdict::Temperror, None),
        Ok(Err(_)) => return done(Verdict::Permerror, None),
        Ok(Ok(names)) => names,
    };
    let (mut missing, mut late) = (Vec::new(), false);
    for name in names.names().take(NAMES_MAX) {
        match known.get(name, kind_of(ip)) {
            Err(question) => missing.push(question),
            Ok(Ok(found)) if found.addresses().any(|address| address == ip) => {
                return done(Verdict::Pass, Some(name.into()));
            }
            Ok(Err(Failure::Temporary(_))) => late = true,
            Ok(_) => {}
        }
    }
    if !missing.is_empty() {
        return Next::Ask(missing);
    }
    done(if late { Verdict::Temperror } else { Verdict::Fail }, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::learned;

    fn judged(records: &[(&str, &str)]) -> (&'static str, Option<String>) {
        let ip = "::ffff:192.0.2.1".parse().unwrap();
        let outcome = learned(records, |known| check(ip, known));
        (outcome.verdict.name(), outcome.name.map(String::from))
    }

    const PTR: &str = "1.2.0.192.in-addr.arpa";

    #[test]
    fn a_name_must_lead_back() {
        let right = Some("b.example".to_owned());
        let names = [(PTR, "PTR a.example"), (PTR, "PTR b.example")];
        let [a, b] = names;
        for (records, expected) in [
            (&[a, b, ("b.example", "A 192.0.2.1")][..], ("pass", right.clone())),
            (&[a, b, ("b.example", "A 192.0.2.1"), ("a.example", "FAILS")], ("pass", right)),
            (&[a, b, ("b.example", "A 192.0.2.2")], ("fail", None)),
            (&[a, b, ("a.example", "FAILS")], ("temperror", None)),
            (&[], ("permerror", None)),
            (&[(PTR, "FAILS")], ("temperror", None)),
        ] {
            assert_eq!(judged(records), expected, "{records:?}");
        }
    }

    #[test]
    fn the_eleventh_name_does_not_count() {
        let names: Vec<String> = (0..=NAMES_MAX).map(|n| format!("n{n}.example")).collect();
        let pointers: Vec<String> = names.iter().map(|name| format!("PTR {name}")).collect();
        for (which, expected) in [(NAMES_MAX - 1, "pass"), (NAMES_MAX, "fail")] {
            let mut records: Vec<_> = pointers.iter().map(|to| (PTR, to.as_str())).collect();
            records.push((&names[which], "A 192.0.2.1"));
            assert_eq!(judged(&records).0, expected);
        }
    }
}
