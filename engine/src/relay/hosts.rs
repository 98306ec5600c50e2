//! Which hosts to try for a domain, and in which order (RFC 5321 §5.1).
//!
//! Routes of the configuration go before MX records. Addresses are looked up host by host, when
//! their turn comes. Limits: [`HOSTS_MAX`] hosts of one domain, [`ADDRESSES_MAX`] addresses in one
//! attempt. Failure: [`Failed`], for good where nobody will ever be found there.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use fsmtp_proto::dns::{Failure, Mx};
use fsmtp_proto::smtp::client::{Protocol, Settings};
use fsmtp_proto::sts;
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::Cause;

use super::link::{Fault, Link};
use super::policy::{Policy, Rule};
use super::routes::{Host, Way};
use super::site::Failed;
use super::sts::Fetching;
use super::tally;
use crate::log::Event;
use crate::resolver::{Addresses, Resolver};
use crate::shard::Shard;
use crate::tls;

/// Hosts of one domain that are looked at; arbitrary, ten times what large domains have.
const HOSTS_MAX: usize = 100;
/// Addresses of one site that are tried in one attempt; arbitrary.
const ADDRESSES_MAX: usize = 10;

/// A connection to one of the hosts of a domain.
pub(super) async fn connect<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    domain: &str,
) -> Result<Link<R>, Failed> {
    let (protocol, hosts, rule) = match shard.outbound.way(domain) {
        Way::Route(route) => (route.protocol, route.hosts.clone(), Rule::Route(route)),
        Way::Mx => {
            let (hosts, rule) = exchanges(shard, domain).await?;
            (Protocol::Smtp, hosts, rule)
        }
        Way::Nowhere => {
            // Another configuration may.
            return Err(Failed::later(Cause::Route, "this node sends nothing there"));
        }
    };
    let settings = settings(shard, protocol);
    let resolver = shard.resolver.borrow().clone();
    let mut last: Option<Failed> = None;
    let mut left = ADDRESSES_MAX;
    for host in hosts {
        if left == 0 {
            break;
        }
        let found = match addresses(shard, &host).await {
            Ok(found) => {
                let policy = rule.policy(resolver.as_ref(), &host, &found).await;
                policy.map(|policy| (found.addresses, policy))
            }
            Err(failed) => Err(failed),
        };
        let (addresses, policy) = match found {
            Ok(found) => found,
            Err(failed) => {
                if failed.cause == Cause::Tls {
                    tally::count(shard, domain, tally::Kind::Sts, tally::Result::Validation);
                }
                // What may pass goes before what stays: another attempt may find this host.
                if last.as_ref().is_none_or(|last| last.permanent) {
                    last = Some(failed);
                }
                continue;
            }
        };
        for ip in addresses.into_iter().take(left) {
            left -= 1;
            let to = SocketAddr::new(ip, host.port);
            match open(shard, &settings, domain, to, &policy).await {
                Ok(link) => return Ok(link),
                // RFC 5321 §5.1: behind this node nobody is nearer. A host in front of it that is
                // down may come back.
                Err(Fault::Loop) => {
                    let words = format!("5.4.6 mail for {domain} leads back to this node ({to})");
                    let back = Failed::for_good(Cause::Route, 554, words);
                    return Err(last.filter(|last| !last.permanent).unwrap_or(back));
                }
                Err(fault) => {
                    let failed = failed(to, fault, &policy);
                    // What a host said or lacks tells more than that another is not there.
                    let told = |last: &Failed| {
                        matches!(last.cause, Cause::Refused | Cause::Tls | Cause::SignIn)
                    };
                    if failed.cause != Cause::Unreachable || !last.as_ref().is_some_and(told) {
                        last = Some(failed);
                    }
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Failed::later(Cause::Unreachable, "it has no address")))
}

/// A connection as the policy wants it, or the best below that it allows.
async fn open<R: Dial, M: Mailboxes>(
    shard: &Shard<R, M>,
    settings: &Rc<Settings>,
    domain: &str,
    to: SocketAddr,
    policy: &Policy,
) -> Result<Link<R>, Fault> {
    let ports = &shard.outbound.plan.own_ports;
    let connector = shard.connector.borrow().clone();
    let mut opened = Err(Fault::Tls(tls::Failed::other("TLS cannot be set up here")));
    // RFC 8460 §4.3: what counts is whether all came out as demanded.
    let mut counted = policy.counted;
    for manner in policy.manners(connector.as_ref()) {
        opened = Link::open(&shard.rt, settings, to, ports, manner).await;
        let result = match &opened {
            Ok(link) if link.tls().is_some() => Some(tally::Result::Success),
            Ok(_) => Some(tally::Result::NotSupported),
            Err(Fault::Tls(why)) => Some(why.flaw.into()),
            Err(_) => None,
        };
        if let Some((kind, result)) = counted.take().zip(result) {
            tally::count(shard, domain, kind, result);
        }
        if !matches!(opened, Err(Fault::Tls(_))) {
            break;
        }
    }
    opened
}

/// What a host that cannot be used means for mail: the next may be better.
fn failed(to: SocketAddr, fault: Fault, policy: &Policy) -> Failed {
    let words = super::site::named(to, &fault);
    match fault {
        // RFC 5321 §4.2.1: a 5yz greeting is about this host.
        Fault::Refused(said) => Failed { code: said.code, ..Failed::later(Cause::Refused, words) },
        Fault::Tls(_) => Failed::later(Cause::Tls, format!("{}; {words}", policy.demand)),
        // RFC 4954 §6: 535 is about us, not about the message; who mends it here sends it then.
        Fault::SignIn(code, _) => Failed { code, ..Failed::later(Cause::SignIn, words) },
        _ => Failed::later(Cause::Unreachable, words),
    }
}

fn settings<R: Dial, M: Mailboxes>(shard: &Shard<R, M>, protocol: Protocol) -> Rc<Settings> {
    let settings = &shard.outbound.settings;
    match protocol {
        Protocol::Smtp => Rc::clone(settings),
        Protocol::Lmtp => Rc::new(Settings { protocol, ..(**settings).clone() }),
    }
}

/// The hosts that MX records name, best first, and what holds for them.
async fn exchanges<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    domain: &str,
) -> Result<(Vec<Host>, Rule), Failed> {
    let Some(resolver) = shard.resolver.borrow().clone() else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    let port = shard.outbound.plan.mx_port;
    let host = |name: &str| Host { name: name.into(), port };
    let sts = demanded(shard, &resolver, domain).await;
    let rule = |secure| Rule::Mx { domain: domain.into(), secure, sts };
    let (exchanges, secure) = match resolver.mx(domain).await {
        Ok(exchanges) => (exchanges.hosts, exchanges.secure),
        // RFC 5321 §5.1: a domain without MX is its own host. That there are none is as sure as
        // its addresses are: they lie in the same zone.
        Err(Failure::NoData) => return Ok((vec![host(domain)], rule(true))),
        Err(failure) => return Err(unknown(domain, failure)),
    };
    // RFC 7505 §3: it takes no mail.
    if exchanges.iter().all(|mx| mx.exchange.is_empty()) {
        return Err(Failed::for_good(Cause::Route, 556, format!("5.1.10 {domain} takes no mail")));
    }
    let mut random = [0; 8];
    shard.rt.random(&mut random);
    let ours = ordered(exchanges, &shard.node, u64::from_le_bytes(random));
    if ours.is_empty() {
        let words = format!("5.4.6 {domain} is to be found here, and is not served here");
        return Err(Failed::for_good(Cause::Route, 554, words));
    }
    Ok((ours.iter().take(HOSTS_MAX).map(|name| host(name)).collect(), rule(secure)))
}

/// The MTA-STS policy of a domain.
async fn demanded<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    resolver: &Resolver<R>,
    domain: &str,
) -> Option<Rc<sts::Policy>> {
    let port = shard.outbound.plan.sts_port?;
    let connector = shard.connector.borrow().clone()?;
    if !connector.knows_authorities() {
        return None;
    }
    let way = Fetching { rt: &shard.rt, resolver, connector: &connector, port };
    let failed = |why: &str| {
        let fields: [(&str, &dyn core::fmt::Display); 2] = [("domain", &domain), ("why", &why)];
        shard.log.event(shard.rt.unix(), Event::PolicyFailed, &fields);
        tally::count(shard, domain, tally::Kind::Sts, tally::Result::PolicyFetch);
    };
    shard.outbound.sts.policy(&way, domain, failed).await
}

/// Names to try: by preference, equals in random order, without this node and all that are no
/// better than it (RFC 5321 §5.1).
fn ordered(mut exchanges: Vec<Mx>, node: &str, random: u64) -> Vec<Box<str>> {
    exchanges.retain(|mx| !mx.exchange.is_empty());
    let is_us = |mx: &&Mx| mx.exchange.eq_ignore_ascii_case(node);
    if let Some(ours) = exchanges.iter().filter(is_us).map(|mx| mx.preference).min() {
        exchanges.retain(|mx| mx.preference < ours);
    }
    // Any mixing does: it only has to spread the load.
    let mix = |at: usize| (random ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut keyed: Vec<(u16, u64, Mx)> = Vec::with_capacity(exchanges.len());
    keyed.extend(exchanges.into_iter().enumerate().map(|(at, mx)| (mx.preference, mix(at), mx)));
    keyed.sort_by_key(|&(preference, place, _)| (preference, place));
    keyed.into_iter().map(|(.., mx)| mx.exchange).collect()
}

/// The addresses of a host.
async fn addresses<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    host: &Host,
) -> Result<Addresses, Failed> {
    let known = |addresses| Addresses { addresses, name: host.name.clone(), secure: false };
    if let Some(ip) = host.ip() {
        return Ok(known(vec![ip]));
    }
    // RFC 6761 §6.3: never asked for.
    if &*host.name == "localhost" {
        return Ok(known(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
    }
    let Some(resolver) = shard.resolver.borrow().clone() else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    resolver.addresses(&host.name).await.map_err(|failure| unknown(&host.name, failure))
}

/// What a failed lookup means for mail (RFC 3463 §3.2, §3.5).
fn unknown(name: &str, failure: Failure) -> Failed {
    if failure.is_temporary() {
        return Failed::later(Cause::Resolver, format!("{name}: {failure}"));
    }
    let (code, status) = match failure {
        Failure::NoSuchName | Failure::BadName(_) => (550, "5.1.2"),
        _ => (550, "5.4.4"),
    };
    Failed::for_good(Cause::Route, code, format!("{status} {name}: {failure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[(u16, &str)], random: u64) -> Vec<String> {
        let mx =
            |&(preference, exchange): &(u16, &str)| Mx { preference, exchange: exchange.into() };
        let all = of.iter().map(mx).collect();
        ordered(all, "Us.test", random).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn hosts_come_by_preference_and_equals_in_any_order() {
        let all = [(20, "c.test"), (10, "a.test"), (10, "b.test"), (30, "d.test")];
        let mut seen = std::collections::BTreeSet::new();
        for random in 0..64 {
            let names = names(&all, u64::wrapping_mul(random, 0x1234_5678_9abc_def1));
            assert_eq!(names.get(2..), Some(&["c.test".to_owned(), "d.test".to_owned()][..]));
            seen.insert(names);
        }
        assert_eq!(seen.len(), 2, "either of two equals comes first now and then");
    }

    #[test]
    fn what_is_no_better_than_this_node_is_left_out() {
        let all = [(20, "us.test"), (10, "a.test"), (20, "b.test"), (30, "c.test")];
        assert_eq!(names(&all, 7), ["a.test"]);
        assert!(names(&[(10, "us.test"), (10, "a.test")], 7).is_empty());
        assert_eq!(names(&[(0, ""), (10, "a.test")], 7), ["a.test"]);
    }
}
