//! What a host must do about TLS before it gets mail: decided before anybody connects.
//!
//! For routes the configuration says it. For hosts that MX records name it is DANE where the name
//! servers vouch for the records (RFC 7672), else MTA-STS where the domain has such a policy
//! (RFC 8461), else whatever the host can (RFC 7435). `hosts` asks for a [`Policy`] for each host;
//! `link` keeps to it. Failure: [`Failed`], which passes: the next host, or the next attempt, may
//! do.

use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::dns;
use fsmtp_proto::sts::{self, Mode};
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::queue::Cause;

use super::routes::{Host, Level, Login, Route};
use super::site::Failed;
use super::tally::Kind;
use crate::resolver::{Addresses, Resolver};
use crate::tls::{self, Connector, Dane, Flaw, Proof, usable};

/// Who demands what a message with REQUIRETLS needs.
const STRICT: &str = "the sender demands TLS all the way";

/// What one host must do before it gets mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    /// Who the host says it is: what TLS asks for, and what its certificate must hold.
    pub(super) name: Box<str>,
    /// What it must show.
    pub(super) proof: Proof,
    /// Whether anything less will do as well: TLS with anybody, or none.
    pub(super) may_less: bool,
    /// TLS begins with the connection.
    pub(super) implicit: bool,
    /// How we sign in there.
    pub(super) login: Option<Login>,
    /// It must prove that it is a node of the same owner.
    pub(super) trusted: bool,
    /// Who demands this, as the reason of a message that waits begins.
    pub(super) demand: String,
    /// How connections are counted; none: they are not, for they obey no domain.
    pub(super) counted: Option<Kind>,
    /// That this host is the right one is sure, by DNSSEC, MTA-STS or the configuration.
    pub(super) vouched: bool,
    /// The sender of a message demands more than the domain.
    pub(super) strict: bool,
}

/// How one connection is made: as a [`Policy`] asks, or as far below it as it allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner<'a> {
    pub(super) policy: &'a Policy,
    /// None: in clear.
    pub(super) tls: Option<(&'a Connector, &'a Proof)>,
}

impl Policy {
    /// Whatever the host can.
    fn offered(name: &str) -> Self {
        Self {
            name: name.into(),
            proof: Proof::Anybody,
            may_less: true,
            implicit: false,
            login: None,
            trusted: false,
            demand: String::new(),
            counted: Some(Kind::Free),
            vouched: false,
            strict: false,
        }
    }

    fn of_route(route: &Route, host: &Host) -> Self {
        let proof = if route.tls == Level::Verified { Proof::Name } else { Proof::Anybody };
        let demand =
            if route.trusted { "trust is proved under TLS" } else { "the route demands TLS" };
        Self {
            proof,
            may_less: route.tls == Level::Offered,
            implicit: route.implicit,
            login: route.login.clone(),
            trusted: route.trusted,
            demand: demand.to_owned(),
            counted: None,
            vouched: route.trusted || route.tls == Level::Verified,
            ..Self::offered(&host.name)
        }
    }

    /// The same for messages with REQUIRETLS.
    pub(super) fn strict(self) -> Result<Self, Failed> {
        // RFC 8689 §4.2.1: the name of the host by DNSSEC or MTA-STS ...
        if !self.vouched {
            let words = format!("5.7.10 {}: nobody vouches for this host, {STRICT}", self.name);
            return Err(Failed::for_good(Cause::Route, 550, words));
        }
        // ... and its certificate by DANE or by its name. Nodes of one owner prove it by SU.
        let by_name = self.proof == Proof::Anybody && !self.trusted;
        Ok(Self {
            proof: if by_name { Proof::Name } else { self.proof },
            may_less: false,
            demand: STRICT.to_owned(),
            counted: self.counted.filter(|_| !by_name),
            strict: true,
            ..self
        })
    }

    /// Whether a host that shows this has proved what REQUIRETLS asks for (RFC 8689 §2).
    pub(super) fn is_proved_by(&self, proof: &Proof) -> bool {
        self.vouched && (self.trusted || *proof != Proof::Anybody)
    }

    /// What a host that has failed it means for mail.
    pub(super) fn failed(&self, why: &tls::Failed, words: &str) -> Failed {
        let words = format!("{}; {words}", self.demand);
        // A handshake that breaks may be made the next time.
        if self.strict && why.flaw != Flaw::Other {
            // RFC 8689 §4.2.1: the sender hears of it.
            return Failed::for_good(Cause::Tls, 550, format!("5.7.10 {words}"));
        }
        Failed::later(Cause::Tls, words)
    }

    /// The ways to connect, best first: the next is for when TLS failed.
    pub(super) fn manners<'a>(&'a self, connector: Option<&'a Connector>) -> Vec<Manner<'a>> {
        let mut ways = Vec::new();
        let encrypted = |proof| connector.map(|connector| (connector, proof));
        ways.extend(encrypted(&self.proof).map(Some));
        if self.may_less {
            let anybody = encrypted(&Proof::Anybody).filter(|_| self.proof != Proof::Anybody);
            ways.extend(anybody.map(Some));
            // RFC 7435 §3: where encryption does not come about, mail goes without it.
            ways.push(None);
        }
        ways.into_iter().map(|tls| Manner { policy: self, tls }).collect()
    }
}

/// What holds for all hosts of one domain.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// What the configuration says.
    Route(Arc<Route>),
    /// What the domain says.
    Mx {
        /// The domain.
        domain: Box<str>,
        /// Whether the name servers vouch for its MX records.
        secure: bool,
        /// Its MTA-STS policy.
        sts: Option<Rc<sts::Policy>>,
    },
}

impl Rule {
    /// What `host` must do, at these addresses.
    pub(super) async fn policy<R: Dial + Datagrams>(
        &self,
        resolver: Option<&Resolver<R>>,
        host: &Host,
        addresses: &Addresses,
    ) -> Result<Policy, Failed> {
        let (domain, secure, sts) = match self {
            Self::Route(route) => return Ok(Policy::of_route(route, host)),
            Self::Mx { domain, secure, sts } => (domain, *secure, sts),
        };
        // RFC 7672 §2.2.1, §2.2.2: records below names that may be forged prove nothing.
        if let Some(resolver) = resolver.filter(|_| secure && addresses.secure)
            && let Some(policy) = by_dane(resolver, domain, host, &addresses.name).await?
        {
            return Ok(policy);
        }
        let policy = match sts {
            Some(sts) => by_sts(sts, domain, &host.name)?,
            None => Policy::offered(&host.name),
        };
        // What names a domain that has no MX is its address records.
        let named = secure && (host.name != *domain || addresses.secure);
        Ok(Policy { vouched: named || policy.vouched, ..policy })
    }
}

/// What the MTA-STS policy of a domain demands of a host.
fn by_sts(sts: &sts::Policy, domain: &str, host: &str) -> Result<Policy, Failed> {
    let enforced = sts.mode == Mode::Enforce;
    let offered = Policy::offered(host);
    if sts.names(host) {
        // RFC 8461 §4.1: a certificate for the name of the host, of an authority that is known.
        let demand = format!("the MTA-STS policy of {domain} demands TLS");
        let counted = Some(Kind::Sts);
        return Ok(Policy {
            proof: Proof::Name,
            may_less: !enforced,
            demand,
            counted,
            vouched: true,
            ..offered
        });
    }
    if enforced {
        // RFC 8461 §5: such a host gets nothing; another attempt may find another policy.
        let words = format!("{host}: it is not named by the MTA-STS policy of {domain}");
        return Err(Failed::later(Cause::Tls, words));
    }
    Ok(offered)
}

/// What the TLSA records of a host demand; none when it has none.
async fn by_dane<R: Dial + Datagrams>(
    resolver: &Resolver<R>,
    domain: &str,
    host: &Host,
    canonical: &str,
) -> Result<Option<Policy>, Failed> {
    // RFC 7672 §2.2.2: where aliases lead first, then the name as it stands.
    let own = (canonical != &*host.name).then_some(&*host.name);
    for base in core::iter::once(canonical).chain(own) {
        let name = format!("_{}._tcp.{base}", host.port);
        let found = match resolver.lookup(&name, dns::Kind::Tlsa).await {
            Ok(found) => found,
            // RFC 7672 §2.1.2: nobody knows what the host must show, so it gets nothing now.
            Err(failure) if failure.is_temporary() => {
                return Err(Failed::later(Cause::Resolver, format!("{name}: {failure}")));
            }
            Err(_) => continue,
        };
        if !found.secure {
            continue;
        }
        let records = usable(found.tlsa());
        // RFC 7672 §2.2: what cannot be verified is encrypted all the same.
        let proof = if records.is_empty() {
            Proof::Anybody
        } else {
            let names = vec![base.into(), host.name.clone(), domain.into()];
            Proof::Dane(Rc::new(Dane { records, names }))
        };
        return Ok(Some(Policy {
            proof,
            may_less: false,
            demand: format!("the TLSA records at {name} demand TLS"),
            counted: Some(Kind::Tlsa),
            vouched: true,
            ..Policy::offered(base)
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Connector, Roots};

    fn sts(mode: &str) -> sts::Policy {
        let text = format!("version: STSv1\nmode: {mode}\nmx: *.a.test\nmax_age: 1\n");
        sts::Policy::parse(text.as_bytes()).unwrap()
    }

    fn ways(policy: &Policy) -> Vec<Option<Proof>> {
        let connector = Connector::new(None::<&Roots>).unwrap();
        let manners = policy.manners(Some(&connector));
        manners.iter().map(|manner| manner.tls.map(|(_, proof)| proof.clone())).collect()
    }

    #[test]
    fn what_must_be_is_not_followed_by_less() {
        let named = by_sts(&sts("enforce"), "a.test", "mx.a.test").ok().unwrap();
        assert_eq!(ways(&named), [Some(Proof::Name)]);
        let failed = by_sts(&sts("enforce"), "a.test", "mx.b.test").err().unwrap();
        assert_eq!((failed.cause, failed.permanent), (Cause::Tls, false));
        assert!(
            failed.words.contains("mx.b.test: it is not named by the MTA-STS policy of a.test")
        );
        let route = |text: &str, tls| {
            let route = Route { tls, ..text.parse().unwrap() };
            ways(&Policy::of_route(&route, &route.hosts[0]))
        };
        assert_eq!(route("mx.test", Level::Encrypted), [Some(Proof::Anybody)]);
        assert_eq!(route("mx.test", Level::Verified), [Some(Proof::Name)]);
        let smtps: Route = "smtps:mx.test".parse().unwrap();
        assert_eq!(ways(&Policy::of_route(&smtps, &smtps.hosts[0])), [Some(Proof::Anybody)]);
        assert!(Policy::of_route(&smtps, &smtps.hosts[0]).manners(None).is_empty());
    }

    #[test]
    fn a_sender_who_demands_tls_gets_it_from_a_proved_host_or_not_at_all() {
        let stranger = Policy::offered("mx.test");
        assert!(!stranger.is_proved_by(&Proof::Name), "a name that anybody may have forged");
        let failed = stranger.strict().err().unwrap();
        assert!(failed.permanent && failed.words.starts_with("5.7.10 mx.test: "));
        // By DNSSEC: its name, and nothing less.
        let known = Policy { vouched: true, ..Policy::offered("mx.test") };
        assert!(known.is_proved_by(&Proof::Name) && !known.is_proved_by(&Proof::Anybody));
        let strict = known.strict().ok().unwrap();
        assert_eq!((ways(&strict), strict.counted), (vec![Some(Proof::Name)], None));
        // By a policy, be it on trial.
        let tested = by_sts(&sts("testing"), "a.test", "mx.a.test").ok().unwrap();
        assert!(!tested.is_proved_by(&Proof::Anybody));
        assert_eq!(ways(&tested.strict().ok().unwrap()), [Some(Proof::Name)]);
        // By the configuration.
        let route = |text: &str, tls| {
            let route = Route { tls, ..text.parse().unwrap() };
            Policy::of_route(&route, &route.hosts[0]).strict().map(|policy| ways(&policy)).ok()
        };
        assert_eq!(route("mx.test", Level::Verified), Some(vec![Some(Proof::Name)]));
        assert_eq!(route("node:mx.test", Level::Encrypted), Some(vec![Some(Proof::Anybody)]));
        assert_eq!(route("mx.test", Level::Encrypted), None);
    }

    #[test]
    fn what_the_sender_demands_fails_for_good_but_for_a_broken_handshake() {
        let strict = Policy { vouched: true, ..Policy::offered("mx.test") }.strict().ok().unwrap();
        let failed = strict.failed(&tls::Failed::unoffered(), "it offers no TLS");
        assert_eq!((failed.permanent, failed.code), (true, 550));
        assert!(failed.words.starts_with("5.7.10 "), "{}", failed.words);
        assert!(!strict.failed(&tls::Failed::other("gone"), "gone").permanent);
        let usual = Policy::offered("mx.test").failed(&tls::Failed::unoffered(), "no");
        assert!(!usual.permanent);
    }

    #[test]
    fn what_may_be_ends_in_clear() {
        assert_eq!(ways(&Policy::offered("mx.test")), [Some(Proof::Anybody), None]);
        let tested = by_sts(&sts("testing"), "a.test", "mx.a.test").ok().unwrap();
        assert_eq!(ways(&tested), [Some(Proof::Name), Some(Proof::Anybody), None]);
        let unnamed = by_sts(&sts("testing"), "a.test", "mx.b.test").ok().unwrap();
        assert_eq!(unnamed, Policy::offered("mx.b.test"));
        assert_eq!(unnamed.manners(None).len(), 1, "without TLS here all goes in clear");
    }
}
