//! DNS lists of addresses (RFC 5782): on which of them a client stands.
//!
//! A pure function of what is [known](crate::dns::known::Known). A list that does not answer counts
//! as one that the client is not on. Limit: the caller's, who says which lists are asked.

use core::net::{IpAddr, Ipv4Addr};

use crate::dns::known::{Known, Next};
use crate::dns::{Failure, Kind, reverse_name};

/// A client stands on a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The number of the list, from 0.
    pub list: usize,
    /// What the list says of it, in the way of the list.
    pub code: Ipv4Addr,
}

/// What the lists say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Where the client stands, with each code that a list has for it.
    pub listed: Vec<Listed>,
    /// Lists that gave no answer.
    pub silent_count: usize,
}

/// The name under which a list keeps an address: RFC 5782 §2.1, §2.4.
#[must_use]
pub fn name(ip: IpAddr, zone: &str) -> String {
    let reverse = reverse_name(ip);
    let front = reverse.trim_end_matches("in-addr.arpa").trim_end_matches("ip6.arpa");
    format!("{front}{zone}")
}

/// Asks all lists, or says what must be known first.
#[must_use]
pub fn check<'z>(ip: IpAddr, zones: impl Iterator<Item = &'z str>, known: &Known) -> Next<Outcome> {
    let (mut outcome, mut missing) = (Outcome::default(), Vec::new());
    for (list, zone) in zones.enumerate() {
        match known.get(&name(ip, zone), Kind::A) {
            Err(question) => missing.push(question),
            Ok(Ok(found)) => {
                let codes = found.addresses().filter_map(|address| match address {
                    // RFC 5782 §2.1: others are no codes; a name that nobody serves any more is
                    // often given some host's address.
                    IpAddr::V4(code) if code.is_loopback() => Some(Listed { list, code }),
                    _ => None,
                });
                outcome.listed.extend(codes);
            }
            Ok(Err(Failure::Temporary(_))) => outcome.silent_count += 1,
            Ok(Err(_)) => {}
        }
    }
    if missing.is_empty() { Next::Done(outcome) } else { Next::Ask(missing) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::learned;

    #[test]
    fn names_are_those_of_the_lists() {
        let named = |ip: &str| name(ip.parse().unwrap(), "bl.example");
        assert_eq!(named("192.0.2.99"), "99.2.0.192.bl.example");
        assert_eq!(named("::ffff:192.0.2.99"), "99.2.0.192.bl.example");
        let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";
        assert_eq!(named("2001:db8::1"), format!("{nibbles}.bl.example"));
    }

    #[test]
    fn all_lists_are_asked_at_one_time_and_only_codes_count() {
        let zones = ["a.example", "b.example", "c.example", "d.example"];
        let ip = "192.0.2.1".parse().unwrap();
        let records = [
            ("1.2.0.192.a.example", "A 127.0.0.2"),
            ("1.2.0.192.a.example", "A 127.0.0.10"),
            ("1.2.0.192.b.example", "A 203.0.113.9"),
            ("1.2.0.192.c.example", "FAILS"),
        ];
        let outcome = learned(&records, |known| check(ip, zones.into_iter(), known));
        let codes = [[127, 0, 0, 2], [127, 0, 0, 10]].map(|code| code.into());
        let listed: Vec<_> = codes.map(|code| Listed { list: 0, code }).into();
        assert_eq!(outcome, Outcome { listed, silent_count: 1 });
        let Next::Ask(all) = check(ip, zones.into_iter(), &Known::default()) else { panic!() };
        assert_eq!(all.len(), zones.len());
    }
}
