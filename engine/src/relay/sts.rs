//! What domains demand of their mail servers (MTA-STS, RFC 8461), as a shard knows it.
//!
//! `hosts` asks for the policy of a domain when mail goes by MX records. A text record says whether
//! there is one and which; it is fetched from the domain's web server, whose name must be proved,
//! and kept for as long as it says, though not over a restart. What is proto's
//! (`fsmtp_proto::sts`) is how record, reply and policy are read.
//!
//! Limits: [`DOMAINS_MAX`] domains, [`FETCH_TIMEOUT`] and [`READS_MAX`] for one policy,
//! [`ADDRESSES_MAX`] addresses. Failure: what is known goes on to count until it expires; where
//! nothing is known mail goes as if the domain had no policy, as RFC 8461 §3.3 wants it.

use core::cell::RefCell;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_proto::sts::response::{read, request};
use fsmtp_proto::sts::{Mode, Policy, id};
use fsmtp_rt::{Conn as _, Datagrams, Dial, Instant};
use futures_channel::oneshot;

use crate::resolver::Resolver;
use crate::tls::{Connector, Proof, Stream};

/// Domains whose policies a shard keeps, some kilobytes each; arbitrary. Beyond, the one that would
/// expire first goes.
const DOMAINS_MAX: usize = 1000;
/// RFC 8461 §3.3: how long a web server may take, in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one address of it may take to answer at all; arbitrary, so that others get their turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// RFC 8461 §3.3: how long to wait after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(300);
/// How often a policy is fetched anew though its record has not changed; arbitrary. RFC 8461 §10.2
/// wants it long before it expires.
const REFRESH: Duration = Duration::from_secs(86_400);
/// Pieces that a reply may come in; arbitrary, a page comes in a few.
const READS_MAX: usize = 500;
/// Addresses of a web server that are tried; arbitrary.
const ADDRESSES_MAX: usize = 3;

/// A policy and how long it counts.
struct Kept {
    id: Box<str>,
    policy: Rc<Policy>,
    expires: Instant,
    /// When it is fetched anew, though its record is the same.
    refresh: Instant,
}

#[derive(Default)]
struct Entry {
    kept: Option<Kept>,
    /// No fetch before, since the last one failed.
    again: Instant,
    /// A fetch is under way, and these wait for it.
    waiters: Option<Vec<oneshot::Sender<()>>>,
}

/// The policies that a shard knows.
#[derive(Default)]
pub(super) struct Sts {
    known: RefCell<BTreeMap<Box<str>, Entry>>,
}

/// What it takes to fetch one.
pub(super) struct Fetching<'a, R> {
    pub(super) rt: &'a R,
    pub(super) resolver: &'a Resolver<R>,
    pub(super) connector: &'a Connector,
    /// Of web servers: 443 in the world.
    pub(super) port: u16,
}

impl Sts {
    /// The policy that holds for `domain`; none where it has none. `failed` is told why one that
    /// the domain announces could not be fetched.
    pub(super) async fn policy<R: Dial + Datagrams>(
        &self,
        way: &Fetching<'_, R>,
        domain: &str,
        failed: impl Fn(&str),
    ) -> Option<Rc<Policy>> {
        let texts = way.resolver.txt(&format!("_mta-sts.{domain}")).await.unwrap_or_default();
        let announced = id(texts.iter().map(|text| &**text));
        let now = way.rt.now();
        if let Some(announced) = announced.filter(|id| self.is_wanted(domain, id, now)) {
            match self.wait_for(domain) {
                // Somebody else fetches it. What is known counts meanwhile.
                Some(fetched) if self.kept(domain, now).is_none() => drop(fetched.await),
                Some(_) => {}
                None => {
                    let fetched = fetch(way, domain).await;
                    if let Err(why) = &fetched {
                        failed(why);
                    }
                    self.fetched(domain, announced, fetched.ok(), way.rt.now());
                }
            }
        }
        self.kept(domain, way.rt.now()).filter(|policy| policy.mode != Mode::None)
    }

    /// What is known and has not expired.
    fn kept(&self, domain: &str, now: Instant) -> Option<Rc<Policy>> {
        let known = self.known.borrow();
        let kept = known.get(domain)?.kept.as_ref()?;
        (kept.expires > now).then(|| Rc::clone(&kept.policy))
    }

    /// Whether what the domain announces has to be fetched now.
    fn is_wanted(&self, domain: &str, announced: &str, now: Instant) -> bool {
        let known = self.known.borrow();
        let Some(entry) = known.get(domain) else { return true };
        let good = |kept: &Kept| &*kept.id == announced && now < kept.expires.min(kept.refresh);
        now >= entry.again && !entry.kept.as_ref().is_some_and(good)
    }

    /// Says that a fetch begins, or gives what to wait for when one is under way.
    fn wait_for(&self, domain: &str) -> Option<oneshot::Receiver<()>> {
        let mut known = self.known.borrow_mut();
        if !known.contains_key(domain) && known.len() >= DOMAINS_MAX {
            let expires = |entry: &Entry| entry.kept.as_ref().map(|kept| kept.expires);
            let idle = known.iter().filter(|(_, entry)| entry.waiters.is_none());
            let first = idle.min_by_key(|(_, entry)| expires(entry)).map(|(name, _)| name.clone());
            first.map(|first| known.remove(&first));
        }
        let entry = known.entry(domain.into()).or_default();
        let Some(waiters) = &mut entry.waiters else {
            entry.waiters = Some(Vec::new());
            return None;
        };
        let (done, fetched) = oneshot::channel();
        waiters.push(done);
        Some(fetched)
    }

    /// Keeps what was fetched, or that nothing was, and wakes who waits for it.
    fn fetched(&self, domain: &str, announced: &str, policy: Option<Policy>, now: Instant) {
        let mut known = self.known.borrow_mut();
        let entry = known.entry(domain.into()).or_default();
        if let Some(policy) = policy {
            let expires = now + policy.max_age;
            let refresh = now + REFRESH.min(policy.max_age / 2);
            let (id, policy) = (announced.into(), Rc::new(policy));
            entry.kept = Some(Kept { id, policy, expires, refresh });
        } else {
            entry.again = now + RETRY_PAUSE;
        }
        for waiter in entry.waiters.take().unwrap_or_default() {
            // Who has gone needs no answer.
            let _ = waiter.send(());
        }
    }
}

impl core::fmt::Debug for Sts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Sts({} domains)", self.known.borrow().len())
    }
}

/// Fetches the policy of `domain`.
async fn fetch<R: Dial + Datagrams>(way: &Fetching<'_, R>, domain: &str) -> Result<Policy, String> {
    // RFC 8461 §3.3
    let host = format!("mta-sts.{domain}");
    let end = way.rt.now() + FETCH_TIMEOUT;
    let found = way.resolver.addresses(&host).await;
    let found = found.map_err(|failure| format!("{host}: {failure}"))?;
    let mut last = format!("{host} has no address");
    for ip in found.addresses.into_iter().take(ADDRESSES_MAX) {
        match get(way, SocketAddr::new(ip, way.port), &host, end).await {
            Ok(policy) => return Ok(policy),
            Err(why) => last = format!("{host}: {why}"),
        }
    }
    Err(last)
}

async fn get<R: Dial>(
    way: &Fetching<'_, R>,
    to: SocketAddr,
    host: &str,
    end: Instant,
) -> Result<Policy, String> {
    fn words(error: impl core::fmt::Display) -> String {
        error.to_string()
    }
    let soon = end.min(way.rt.now() + CONNECT_TIMEOUT);
    let conn = way.rt.dial(None, to, soon).await.map_err(words)?;
    let mut stream = Stream::new(way.rt.clone(), conn);
    stream.connect_tls(way.connector, (host, &Proof::Name), end).await.map_err(words)?;
    stream.send(request(host).into_bytes(), end).await.map_err(words)?;
    let mut bytes = Vec::new();
    for _ in 0..READS_MAX {
        let got = stream.fill(end).await.map_err(words)?;
        let filled = stream.filled();
        let length = filled.len();
        bytes.extend_from_slice(filled);
        stream.consume(length);
        if let Some(body) = read(&bytes, got == 0).map_err(words)? {
            stream.close(end.min(way.rt.now() + crate::shard::CLOSE_TIMEOUT)).await;
            return Policy::parse(&body).map_err(words);
        }
    }
    Err("the reply comes in too many pieces".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_age: u64) -> Policy {
        let text = format!("version: STSv1\nmode: enforce\nmx: a.test\nmax_age: {max_age}\n");
        Policy::parse(text.as_bytes()).unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_policy_counts_until_it_expires_and_is_fetched_anew_in_time() {
        let sts = Sts::default();
        assert!(sts.is_wanted("a.test", "1", at(0)));
        assert!(sts.wait_for("a.test").is_none());
        sts.fetched("a.test", "1", Some(policy(1000)), at(0));
        assert!(!sts.is_wanted("a.test", "1", at(499)) && sts.is_wanted("a.test", "1", at(500)));
        assert!(sts.is_wanted("a.test", "2", at(1)), "another one is announced");
        // It cannot be had: the old one counts on, and the web server has its peace.
        sts.fetched("a.test", "2", None, at(1));
        assert!(!sts.is_wanted("a.test", "2", at(300)) && sts.is_wanted("a.test", "2", at(301)));
        assert!(sts.kept("a.test", at(999)).is_some() && sts.kept("a.test", at(1000)).is_none());
        sts.fetched("b.test", "1", Some(policy(31_557_600)), at(0));
        assert!(!sts.is_wanted("b.test", "1", at(86_399)));
        assert!(sts.is_wanted("b.test", "1", at(86_400)));
    }

    #[test]
    fn one_fetches_and_the_others_wait() {
        let sts = Sts::default();
        assert!(sts.wait_for("a.test").is_none());
        let (mut one, mut two) =
            (sts.wait_for("a.test").expect("waits"), sts.wait_for("a.test").expect("waits"));
        assert_eq!(one.try_recv(), Ok(None));
        sts.fetched("a.test", "1", None, at(0));
        assert_eq!((one.try_recv(), two.try_recv()), (Ok(Some(())), Ok(Some(()))));
        assert!(sts.wait_for("a.test").is_none());
    }

    #[test]
    fn the_table_is_bounded_and_what_expires_first_goes() {
        let sts = Sts::default();
        for n in 0..=DOMAINS_MAX {
            let domain = format!("{n}.test");
            assert!(sts.wait_for(&domain).is_none());
            let age = if n == 7 { 1 } else { 1000 };
            sts.fetched(&domain, "1", Some(policy(age)), at(0));
        }
        assert_eq!(sts.known.borrow().len(), DOMAINS_MAX);
        assert!(sts.kept("7.test", at(0)).is_none() && sts.kept("8.test", at(0)).is_some());
    }
}
