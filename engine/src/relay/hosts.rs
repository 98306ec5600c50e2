//! Which hosts to try for a domain, and in which order (RFC 5321 §5.1).
//!
//! Routes of the configuration go before MX records. Addresses are looked up host by host, when
//! their turn comes. Limits: [`HOSTS_MAX`] hosts of one domain, [`ADDRESSES_MAX`] addresses in one
//! attempt. Failure: [`Failed`], for good where nobody will ever be found there.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use fsmtp_proto::dns::{Failure, Mx};
use fsmtp_proto::smtp::client::{Protocol, Settings};
use fsmtp_proto::smtp::ext::su::Keys;
use fsmtp_rt::{Datagrams, Dial, Runtime};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::Cause;

use super::Plan;
use super::link::{Fault, Link};
use super::routes::{Host, Way};
use super::site::Failed;
use super::watch::{Step, Watcher, tell};
use crate::resolver::Resolver;
use crate::shard::Shard;
use crate::tls::Connector;

/// Hosts of one domain that are looked at; arbitrary, ten times what large domains have.
const HOSTS_MAX: usize = 100;
/// Addresses of one site that are tried in one attempt; arbitrary.
const ADDRESSES_MAX: usize = 10;

/// What it takes to find the hosts of a domain and to connect to one: a shard's, or a command's.
pub(super) struct Road<'s, R: Runtime> {
    pub(super) rt: &'s R,
    /// The name of this node.
    pub(super) node: &'s str,
    pub(super) plan: &'s Plan,
    pub(super) settings: &'s Rc<Settings>,
    pub(super) resolver: Option<Resolver<R>>,
    pub(super) connector: Option<Connector>,
    /// What proves that nodes are of one owner.
    pub(super) trust: Keys,
    pub(super) watcher: Watcher,
}

impl<'s, R: Runtime> Road<'s, R> {
    /// That of a shard.
    pub(super) fn of<M: Mailboxes>(shard: &'s Shard<R, M>) -> Self {
        Self {
            rt: &shard.rt,
            node: &shard.node,
            plan: &shard.outbound.plan,
            settings: &shard.outbound.settings,
            resolver: shard.resolver.borrow().clone(),
            connector: shard.connector.borrow().clone(),
            // SIGHUP may exchange them meanwhile.
            trust: shard.trust.borrow().clone(),
            watcher: None,
        }
    }

    fn unknown(&self, name: &str, failed: &Failed) {
        tell(&self.watcher, Step::Unknown(name, &failed.words));
    }
}

/// A connection to one of the hosts of a domain.
pub(super) async fn connect<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
) -> Result<Link<R>, Failed> {
    let Hosts { protocol, trusted, hosts } =
        hosts(road, domain).await.inspect_err(|failed| road.unknown(domain, failed))?;
    let settings = settings(road, protocol);
    let mut last: Option<Failed> = None;
    let mut left = ADDRESSES_MAX;
    for host in hosts {
        if left == 0 {
            break;
        }
        let addresses = match addresses(road, &host).await {
            Ok(addresses) => addresses,
            Err(failed) => {
                road.unknown(&host.name, &failed);
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
            let opened = open(road, &settings, (to, &host.name), trusted).await;
            if let Err(fault) = &opened {
                tell(&road.watcher, Step::Broken(&super::site::named(to, fault)));
            }
            match opened {
                Ok(link) => return Ok(link),
                // RFC 5321 §5.1: behind this node nobody is nearer. A host in front of it that is
                // down may come back.
                Err(Fault::Loop) => {
                    let words = format!("5.4.6 mail for {domain} leads back to this node ({to})");
                    let back = Failed::for_good(Cause::Route, 554, words);
                    return Err(last.filter(|last| !last.permanent).unwrap_or(back));
                }
                // RFC 5321 §4.2.1: a 5yz greeting is about this host; the next may be better.
                Err(Fault::Refused(said)) => {
                    let mut failed = Failed::later(Cause::Refused, format!("{to}: {said}"));
                    failed.code = said.code;
                    last = Some(failed);
                }
                Err(fault @ (Fault::Tls(_) | Fault::Untrusted(_))) => {
                    last = Some(Failed::later(Cause::Tls, super::site::named(to, &fault)));
                }
                Err(fault) => {
                    last = Some(Failed::later(Cause::Unreachable, super::site::named(to, &fault)));
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Failed::later(Cause::Unreachable, "it has no address")))
}

/// Whom to try, in order, and how.
struct Hosts {
    protocol: Protocol,
    /// They must prove that they are of this owner.
    trusted: bool,
    hosts: Vec<Host>,
}

async fn hosts<R: Dial + Datagrams>(road: &Road<'_, R>, domain: &str) -> Result<Hosts, Failed> {
    match road.plan.routes.way(domain) {
        Way::Route(route) => {
            tell(&road.watcher, Step::Hosts(domain, &route.hosts, "by a route"));
            let (protocol, trusted) = (route.protocol, route.trusted);
            Ok(Hosts { protocol, trusted, hosts: route.hosts.clone() })
        }
        Way::Mx => {
            let hosts = exchanges(road, domain).await?;
            Ok(Hosts { protocol: Protocol::Smtp, trusted: false, hosts })
        }
        // Another configuration may.
        Way::Nowhere => Err(Failed::later(Cause::Route, "this node sends nothing there")),
    }
}

/// A connection to one address of a host, encrypted if that can be, or proved to be trusted.
async fn open<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    settings: &Rc<Settings>,
    host: (SocketAddr, &str),
    trusted: bool,
) -> Result<Link<R>, Fault> {
    let (ports, watcher) = (&road.plan.own_ports, &road.watcher);
    let connector = road.connector.as_ref();
    let opened = Link::open(road.rt, settings, host, ports, connector, watcher).await;
    if trusted {
        return opened?.prove(&road.trust, &settings.name).await;
    }
    match opened {
        // RFC 7435 §3: where encryption does not come about, mail goes without it.
        Err(Fault::Tls(why)) => {
            tell(watcher, Step::WithoutTls(&why));
            Link::open(road.rt, settings, host, ports, None, watcher).await
        }
        opened => opened,
    }
}

fn settings<R: Runtime>(road: &Road<'_, R>, protocol: Protocol) -> Rc<Settings> {
    match protocol {
        Protocol::Smtp => Rc::clone(road.settings),
        Protocol::Lmtp => Rc::new(Settings { protocol, ..(**road.settings).clone() }),
    }
}

/// The hosts that MX records name, best first.
async fn exchanges<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
) -> Result<Vec<Host>, Failed> {
    let Some(resolver) = &road.resolver else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    let port = road.plan.mx_port;
    let host = |name: &str| Host { name: name.into(), port };
    let exchanges = match resolver.mx(domain).await {
        Ok(exchanges) => exchanges.hosts,
        // RFC 5321 §5.1: a domain without MX is its own host.
        Err(Failure::NoData) => {
            let itself = vec![host(domain)];
            tell(&road.watcher, Step::Hosts(domain, &itself, "itself, for it has no MX"));
            return Ok(itself);
        }
        Err(failure) => return Err(unknown(domain, failure)),
    };
    // RFC 7505 §3: it takes no mail.
    if exchanges.iter().all(|mx| mx.exchange.is_empty()) {
        return Err(Failed::for_good(Cause::Route, 556, format!("5.1.10 {domain} takes no mail")));
    }
    let mut random = [0; 8];
    road.rt.random(&mut random);
    let ours = ordered(exchanges, road.node, u64::from_le_bytes(random));
    if ours.is_empty() {
        let words = format!("5.4.6 {domain} is to be found here, and is not served here");
        return Err(Failed::for_good(Cause::Route, 554, words));
    }
    let hosts: Vec<Host> = ours.iter().take(HOSTS_MAX).map(|name| host(name)).collect();
    tell(&road.watcher, Step::Hosts(domain, &hosts, "by MX"));
    Ok(hosts)
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
async fn addresses<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    host: &Host,
) -> Result<Vec<IpAddr>, Failed> {
    if let Some(ip) = host.ip() {
        return Ok(vec![ip]);
    }
    // RFC 6761 §6.3: never asked for.
    if &*host.name == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let Some(resolver) = &road.resolver else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    match resolver.addresses(&host.name).await {
        Ok(found) => {
            tell(&road.watcher, Step::Addresses(host, &found.addresses));
            Ok(found.addresses)
        }
        Err(failure) => Err(unknown(&host.name, failure)),
    }
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
