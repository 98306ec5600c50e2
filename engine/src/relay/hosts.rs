//! Which hosts to try for a domain, and in which order (RFC 5321 §5.1).
//!
//! Routes of the configuration go before MX records. Addresses are looked up host by host, when
//! their turn comes, and with them what the host must do about TLS; those of one host are dialled
//! by a race. Limits: [`HOSTS_MAX`] hosts of
//! one domain, [`ADDRESSES_MAX`] addresses in one attempt. Failure: [`Failed`], for good where
//! nobody will ever be found there.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::dns::{Failure, Mx};
use fsmtp_proto::smtp::client::{Lack, Protocol, Settings};
use fsmtp_proto::smtp::ext::su::Keys;
use fsmtp_proto::sts;
use fsmtp_rt::{Conn as _, Datagrams, Dial, Runtime};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::Cause;

use super::Plan;
use super::link::{Fault, Link, patience};
use super::policy::{Policy, Rule};
use super::race::Race;
use super::routes::{Host, Way};
use super::site::Failed;
use super::sts::{Fetching, Sts};
use super::tally;
use super::watch::{Step, Watcher, tell};
use crate::log::Event;
use crate::resolver::{Addresses, Resolver};
use crate::shard::Shard;
use crate::tls::{self, Connector};

/// Hosts of one domain that are looked at; arbitrary, ten times what large domains have.
const HOSTS_MAX: usize = 100;
/// Addresses of one site that are tried in one attempt; arbitrary.
const ADDRESSES_MAX: usize = 10;

/// What is written down about a domain on the way there.
pub(super) enum Note<'n> {
    /// How TLS came out.
    Tls(tally::Kind, tally::Result),
    /// Its MTA-STS policy could not be had, and why.
    NoPolicy(&'n str),
}

/// Who writes it down.
pub(super) type Notes<'s> = Box<dyn Fn(&str, Note<'_>) + 's>;

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
    /// For a message with REQUIRETLS.
    pub(super) strict: bool,
    /// Policies of MTA-STS.
    pub(super) sts: &'s Sts,
    /// Writes down what concerns a domain.
    pub(super) note: Notes<'s>,
    pub(super) watcher: Watcher,
}

impl<'s, R: Runtime> Road<'s, R> {
    /// That of a shard.
    pub(super) fn of<M: Mailboxes>(shard: &'s Shard<R, M>) -> Self {
        let note = |domain: &str, note: Note<'_>| match note {
            Note::Tls(kind, result) => tally::count(shard, domain, kind, result),
            Note::NoPolicy(why) => {
                let fields: [(&str, &dyn core::fmt::Display); 2] =
                    [("domain", &domain), ("why", &why)];
                shard.log.event(shard.rt.unix(), Event::PolicyFailed, &fields);
                tally::count(shard, domain, tally::Kind::Sts, tally::Result::PolicyFetch);
            }
        };
        Self {
            rt: &shard.rt,
            node: &shard.node,
            plan: &shard.outbound.plan,
            settings: &shard.outbound.settings,
            resolver: shard.resolver.borrow().clone(),
            connector: shard.connector.borrow().clone(),
            // SIGHUP may exchange them meanwhile.
            trust: shard.trust.borrow().clone(),
            strict: false,
            sts: &shard.outbound.sts,
            note: Box::new(note),
            watcher: None,
        }
    }

    fn unknown(&self, name: &str, failed: &Failed) {
        tell(&self.watcher, Step::Unknown(name, &failed.words));
    }
}

/// Where mail for a domain is taken to: found anew for each connection.
pub(super) struct Course {
    /// What is spoken there.
    protocol: Protocol,
    /// Whom to try, in order.
    hosts: Vec<Host>,
    /// What holds for all of them.
    rule: Rule,
}

impl Course {
    /// The site: the same for all domains whose mail goes to the same hosts.
    pub(super) fn site(&self) -> Arc<str> {
        let mut names: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" ").into()
    }
}

/// A connection to one of the hosts of a domain.
pub(super) async fn connect<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
) -> Result<Link<R>, Failed> {
    follow(road, domain, course(road, domain).await?).await
}

/// The hosts of a domain.
pub(super) async fn course<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
) -> Result<Course, Failed> {
    hosts(road, domain).await.inspect_err(|failed| road.unknown(domain, failed))
}

/// A connection to one of these hosts.
pub(super) async fn follow<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
    Course { protocol, hosts, rule }: Course,
) -> Result<Link<R>, Failed> {
    let settings = settings(road, protocol);
    let mut last: Option<Failed> = None;
    let mut left = ADDRESSES_MAX;
    for host in hosts {
        if left == 0 {
            break;
        }
        let found = match addresses(road, &host).await {
            Ok(found) => {
                let policy = rule.policy(road.resolver.as_ref(), &host, &found).await;
                let policy = policy.and_then(|p| if road.strict { p.strict() } else { Ok(p) });
                policy.map(|policy| (found.addresses, policy))
            }
            Err(failed) => Err(failed),
        };
        let (addresses, policy) = match found {
            Ok(found) => found,
            Err(failed) => {
                road.unknown(&host.name, &failed);
                if failed.cause == Cause::Tls {
                    (road.note)(domain, Note::Tls(tally::Kind::Sts, tally::Result::Validation));
                }
                // What may pass goes before what stays: another attempt may find this host.
                if last.as_ref().is_none_or(|last| last.permanent) {
                    last = Some(failed);
                }
                continue;
            }
        };
        let addresses = addresses.into_iter().take(left).map(|ip| SocketAddr::new(ip, host.port));
        let addresses: Vec<SocketAddr> = addresses.collect();
        left -= addresses.len();
        if let Some(link) = any(road, &settings, domain, &policy, addresses, &mut last).await? {
            return Ok(link);
        }
    }
    Err(last.unwrap_or_else(|| Failed::later(Cause::Unreachable, "it has no address")))
}

/// A connection to one of the addresses of a host; none when there is none to be had, and why in
/// `last`.
async fn any<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    settings: &Rc<Settings>,
    domain: &str,
    policy: &Policy,
    addresses: Vec<SocketAddr>,
    last: &mut Option<Failed>,
) -> Result<Option<Link<R>>, Failed> {
    let mut race = Race::new(road.rt, patience(settings), addresses);
    while let Some((to, dialed)) = race.next().await {
        let opened = match dialed {
            Ok(conn) => open(road, settings, domain, conn, policy).await,
            Err(error) => Err(Fault::Io(error)),
        };
        if let Err(fault) = &opened {
            tell(&road.watcher, Step::Broken(&super::site::named(to, fault)));
        }
        match opened {
            Ok(link) => return Ok(Some(link)),
            // RFC 5321 §5.1: behind this node nobody is nearer. A host in front of it that is down
            // may come back.
            Err(Fault::Loop) => {
                let words = format!("5.4.6 mail for {domain} leads back to this node ({to})");
                let back = Failed::for_good(Cause::Route, 554, words);
                return Err(last.take().filter(|last| !last.permanent).unwrap_or(back));
            }
            Err(fault) => *last = Some(worse(last.take(), failed(to, fault, policy))),
        }
    }
    Ok(None)
}

/// Which of two failures says more: what a host said or lacks, rather than that another is not
/// there; else the later.
fn worse(last: Option<Failed>, failed: Failed) -> Failed {
    let told = |last: &Failed| matches!(last.cause, Cause::Refused | Cause::Tls | Cause::SignIn);
    // What may pass goes before what stays.
    let passes = |last: &Failed| failed.permanent && !last.permanent;
    let more = |last: &Failed| failed.cause == Cause::Unreachable || passes(last);
    match last.filter(|last| told(last) && more(last)) {
        Some(last) => last,
        None => failed,
    }
}

/// As the configuration says, else as the domain does.
async fn hosts<R: Dial + Datagrams>(road: &Road<'_, R>, domain: &str) -> Result<Course, Failed> {
    match road.plan.routes.way(domain) {
        Way::Route(route) => {
            tell(&road.watcher, Step::Hosts(domain, &route.hosts, "by a route"));
            let (protocol, hosts) = (route.protocol, route.hosts.clone());
            Ok(Course { protocol, hosts, rule: Rule::Route(route) })
        }
        Way::Mx => {
            let (hosts, rule) = exchanges(road, domain).await?;
            Ok(Course { protocol: Protocol::Smtp, hosts, rule })
        }
        // Another configuration may.
        Way::Nowhere => Err(Failed::later(Cause::Route, "this node sends nothing there")),
    }
}

/// A session as the policy wants it, or the best below that it allows.
async fn open<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    settings: &Rc<Settings>,
    domain: &str,
    conn: R::Conn,
    policy: &Policy,
) -> Result<Link<R>, Fault> {
    let (ports, watcher, to) = (&road.plan.own_ports, &road.watcher, conn.peer());
    let mut first = Some(conn);
    let mut opened = Err(Fault::Tls(tls::Failed::other("TLS cannot be set up here")));
    // RFC 8460 §4.3: what counts is whether all came out as demanded.
    let mut counted = policy.counted;
    for (manner, tries) in policy.manners(road.connector.as_ref()).into_iter().zip(0..) {
        if let (Err(Fault::Tls(why)), 1..) = (&opened, tries) {
            tell(watcher, Step::WithLessTls(&why.words));
        }
        let dialed = match first.take() {
            Some(conn) => Ok(conn),
            None => road.rt.dial(None, to, road.rt.now() + patience(settings)).await,
        };
        opened = match dialed {
            Ok(conn) => Link::open(road.rt, settings, conn, ports, manner, watcher).await,
            Err(error) => Err(Fault::Io(error)),
        };
        let result = match &opened {
            Ok(link) if link.tls().is_some() => Some(tally::Result::Success),
            Ok(_) => Some(tally::Result::NotSupported),
            Err(Fault::Tls(why)) => Some(why.flaw.into()),
            Err(_) => None,
        };
        if let Some((kind, result)) = counted.take().zip(result) {
            (road.note)(domain, Note::Tls(kind, result));
        }
        if !matches!(opened, Err(Fault::Tls(_))) {
            break;
        }
    }
    let link =
        if policy.trusted { opened?.prove(&road.trust, &settings.name).await? } else { opened? };
    // RFC 8689 §4.2.1: a host that does not offer it is left.
    if policy.strict && !link.keeps_tls() {
        link.quit().await;
        return Err(Fault::Lacks(Lack::RequireTls));
    }
    Ok(link)
}

/// What a host that cannot be used means for mail: the next may be better.
fn failed(to: SocketAddr, fault: Fault, policy: &Policy) -> Failed {
    let words = super::site::named(to, &fault);
    match fault {
        // RFC 5321 §4.2.1: a 5yz greeting is about this host.
        Fault::Refused(said) => Failed { code: said.code, ..Failed::later(Cause::Refused, words) },
        Fault::Tls(why) => policy.failed(&why, &words),
        // RFC 8689 §4.2.1
        Fault::Lacks(_) => Failed::for_good(Cause::Refused, 550, format!("5.7.30 {words}")),
        Fault::Untrusted(_) => Failed::later(Cause::Tls, words),
        // RFC 4954 §6: 535 is about us, not about the message; who mends it here sends it then.
        Fault::SignIn(code, _) => Failed { code, ..Failed::later(Cause::SignIn, words) },
        _ => Failed::later(Cause::Unreachable, words),
    }
}

fn settings<R: Runtime>(road: &Road<'_, R>, protocol: Protocol) -> Rc<Settings> {
    match protocol {
        Protocol::Smtp => Rc::clone(road.settings),
        Protocol::Lmtp => Rc::new(Settings { protocol, ..(**road.settings).clone() }),
    }
}

/// The hosts that MX records name, best first, and what holds for them.
async fn exchanges<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    domain: &str,
) -> Result<(Vec<Host>, Rule), Failed> {
    let Some(resolver) = &road.resolver else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    let port = road.plan.mx_port;
    let host = |name: &str| Host { name: name.into(), port };
    let sts = demanded(road, resolver, domain).await;
    let rule = |secure| Rule::Mx { domain: domain.into(), secure, sts };
    let (exchanges, secure) = match resolver.mx(domain).await {
        Ok(exchanges) => (exchanges.hosts, exchanges.secure),
        // RFC 5321 §5.1: a domain without MX is its own host. That there are none is as sure as
        // its addresses are: they lie in the same zone.
        Err(Failure::NoData) => {
            let itself = vec![host(domain)];
            tell(&road.watcher, Step::Hosts(domain, &itself, "itself, for it has no MX"));
            return Ok((itself, rule(true)));
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
    Ok((hosts, rule(secure)))
}

/// The MTA-STS policy of a domain.
async fn demanded<R: Dial + Datagrams>(
    road: &Road<'_, R>,
    resolver: &Resolver<R>,
    domain: &str,
) -> Option<Rc<sts::Policy>> {
    let port = road.plan.sts_port?;
    let connector = road.connector.as_ref().filter(|connector| connector.knows_authorities())?;
    let way = Fetching { rt: road.rt, resolver, connector, port };
    let failed = |why: &str| (road.note)(domain, Note::NoPolicy(why));
    road.sts.policy(&way, domain, failed).await
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
) -> Result<Addresses, Failed> {
    let known = |addresses| Addresses { addresses, name: host.name.clone(), secure: false };
    if let Some(ip) = host.ip() {
        return Ok(known(vec![ip]));
    }
    // RFC 6761 §6.3: never asked for.
    if &*host.name == "localhost" {
        return Ok(known(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
    }
    let Some(resolver) = &road.resolver else {
        return Err(Failed::later(Cause::Resolver, "no name server is set up"));
    };
    let found = resolver.addresses(&host.name).await;
    let found = found.map_err(|failure| unknown(&host.name, failure))?;
    tell(&road.watcher, Step::Addresses(host, &found.addresses));
    Ok(found)
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
    fn domains_with_the_same_hosts_have_one_site() {
        let site = |hosts: &[(&str, u16)]| {
            let host = |&(name, port): &(&str, u16)| Host { name: name.into(), port };
            let rule = Rule::Mx { domain: "a.test".into(), secure: false, sts: None };
            let hosts = hosts.iter().map(host).collect();
            Course { protocol: Protocol::Smtp, hosts, rule }.site()
        };
        let one = site(&[("b.test", 25), ("a.test", 25), ("b.test", 25)]);
        assert_eq!(one, site(&[("a.test", 25), ("b.test", 25)]));
        assert_ne!(one, site(&[("a.test", 25), ("b.test", 26)]));
        assert_ne!(one, site(&[("a.test", 25)]));
    }

    #[test]
    fn what_is_no_better_than_this_node_is_left_out() {
        let all = [(20, "us.test"), (10, "a.test"), (20, "b.test"), (30, "c.test")];
        assert_eq!(names(&all, 7), ["a.test"]);
        assert!(names(&[(10, "us.test"), (10, "a.test")], 7).is_empty());
        assert_eq!(names(&[(0, ""), (10, "a.test")], 7), ["a.test"]);
    }
}
