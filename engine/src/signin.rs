//! Signing in, for every protocol: whose password it is, and how often one may be wrong.
//!
//! Each check costs an Argon2id run on a helper thread, for unknown users too; what it gives is the
//! key of the user's mailbox. Two things stand before it, both in memory only and shared by all
//! shards: who has signed in with the same password a short while ago need not pay again, and who
//! was wrong too often is told to come back later, whatever the password is. A lock around either
//! is held for one look-up; sign-ins are rare beside mail.
//!
//! SCRAM and certificates cost nothing here, so nothing is remembered for them. A user who is not
//! there has keys for SCRAM, too: made up, and the same each time.
//!
//! An account that came without keys gets them when its password is first known, if mail is to be
//! sealed; what was stored before stays in clear.
//!
//! Wrong answers are slow: the more of them an address has given, the slower. Connections from
//! loopback are not locked out by address, for there a webmail speaks for all of its users. The
//! lock of an account can be brought about by strangers, and then holds for its user too.

use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_proto::sasl::{CREDENTIALS_COUNT_MAX, ClientKey, Nonce, ScramCredential, ScramKeys};
use fsmtp_rt::{Class, Runtime, UnixTime};
use fsmtp_store::directory::{Account, Change, Directory, Lock, Opened};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::{MailboxKey, SCRAM_ITERATIONS, ScramTerms, WRAPS_COUNT_MAX, Wraps};
use ring::hmac;
use zeroize::Zeroizing;

use crate::admit::network;
use crate::locks::{self, Protection};
use crate::log::Event;
use crate::rates::Rates;
use crate::shard::{Shard, count};

/// Wrong passwords from one address (IPv6: one /64) until it is locked out.
pub const ADDRESS_FAILURES_MAX: u32 = 30;
/// Wrong passwords for one account, from all addresses, until it is locked.
pub const ACCOUNT_FAILURES_MAX: u32 = 100;
/// How long failures count, and so how long a lock holds at most.
const FAILURES_TIME: Duration = Duration::from_secs(600);
/// How much slower each failure of an address makes the next wrong answer, and the slowest.
const SLOWER: Duration = Duration::from_millis(200);
const SLOWEST: Duration = Duration::from_secs(3);
/// How long a password that was right is remembered, and how many; some 130 bytes each.
const REMEMBERED_TIME: Duration = Duration::from_secs(600);
const REMEMBERED_COUNT_MAX: usize = 10_000;
/// The service that needs no key.
pub const SUBMISSION: &str = "smtp";
/// Bytes of the salt of a real account.
const SCRAM_SALT_BYTES: usize = 16;
/// How often the log is told of the refusals of one lock.
const TOLD_TIME: Duration = Duration::from_secs(60);
/// Names and addresses whose failures are counted; beyond, the table begins anew.
const COUNTED_MAX: usize = 100_000;

/// Why somebody is not signed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No such user, or not this password.
    Wrong,
    /// Not now: too much to do.
    Later,
    /// Not now: too many failures. So many refusals the log is to be told of; none most times, for
    /// whoever is locked out may go on asking.
    Locked(u32),
}

/// What all shards know of sign-ins.
pub struct Gate {
    key: hmac::Key,
    limits: Limits,
    state: Mutex<State>,
    /// What users who have signed in may send.
    pub rates: Rates,
    /// Whether keys are being made for an account that came without.
    fitting: AtomicBool,
}

/// How many failures are too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From one address.
    pub address_failures_max: u32,
    /// For one account.
    pub account_failures_max: u32,
    /// Recipients that an account may name in an hour; 0 for no limit.
    pub recipients_per_hour: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address_failures_max: ADDRESS_FAILURES_MAX,
            account_failures_max: ACCOUNT_FAILURES_MAX,
            recipients_per_hour: 0,
        }
    }
}

#[derive(Default)]
struct State {
    addresses: BTreeMap<IpAddr, Failures>,
    accounts: BTreeMap<String, Failures>,
    /// Passwords that were right, by their keyed hash.
    remembered: BTreeMap<[u8; 32], Remembered>,
}

struct Remembered {
    /// In milliseconds.
    until: u64,
    key: Option<Arc<MailboxKey>>,
}

/// Who has signed in, and what that opens.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The user's account.
    pub account: Arc<Account>,
    /// The key of its mailbox; none when its mail lies in clear, and for a certificate.
    pub key: Option<Arc<MailboxKey>>,
}

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    /// Of the first, in milliseconds.
    since: u64,
    /// Refusals by this lock that the log does not know of yet.
    refused: u32,
    /// When it was last told, in milliseconds.
    told: Option<u64>,
}

impl Failures {
    /// Counts a refusal; gives how many the log is to be told of.
    fn refuse(&mut self, now: UnixTime) -> u32 {
        self.refused = self.refused.saturating_add(1);
        if self.told.is_some_and(|told| now.ms().saturating_sub(told) < ms(TOLD_TIME)) {
            return 0;
        }
        self.told = Some(now.ms());
        core::mem::take(&mut self.refused)
    }
}

impl Gate {
    /// A gate without memories. `secret` makes its keyed hashes: random bytes, the same for as long
    /// as the data folder lives, so that keys which are made up do not change at a restart.
    #[must_use]
    pub fn new(secret: &[u8; 32], limits: Limits) -> Arc<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let (state, rates) = (Mutex::default(), Rates::new(limits.recipients_per_hour));
        Arc::new(Self { key, limits, state, rates, fitting: AtomicBool::new(false) })
    }

    /// Whether nobody else makes keys; then the caller does.
    fn begins_fitting(&self) -> bool {
        !self.fitting.swap(true, Ordering::Relaxed)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `from` may try to be `user` now.
    ///
    /// # Errors
    /// [`Refused::Locked`].
    pub fn admits(&self, user: &str, from: IpAddr, now: UnixTime) -> Result<(), Refused> {
        let Limits { address_failures_max, account_failures_max, .. } = self.limits;
        self.with(|state| {
            let address = locked(&mut state.addresses, from, address_failures_max, now);
            let account = live(&mut state.accounts, &user.to_ascii_lowercase(), now)
                .filter(|found| found.count >= account_failures_max);
            match address.or(account) {
                None => Ok(()),
                Some(lock) => Err(Refused::Locked(lock.refuse(now))),
            }
        })
    }

    /// Counts a failure; says how long the answer should take.
    #[must_use]
    pub fn failed(&self, user: &str, from: IpAddr, now: UnixTime) -> Duration {
        self.with(|state| add(&mut state.accounts, user.to_ascii_lowercase(), now));
        self.failed_address(from, now)
    }

    /// Whether `from` may try now what belongs to no account.
    ///
    /// # Errors
    /// So many refusals the log is to be told of; 0 most times.
    pub fn admits_address(&self, from: IpAddr, now: UnixTime) -> Result<(), u32> {
        let most = self.limits.address_failures_max;
        self.with(|state| match locked(&mut state.addresses, from, most, now) {
            None => Ok(()),
            Some(lock) => Err(lock.refuse(now)),
        })
    }

    /// Counts a failure of an address only; says how long the answer should take.
    #[must_use]
    pub fn failed_address(&self, from: IpAddr, now: UnixTime) -> Duration {
        let count = self.with(|state| add(&mut state.addresses, network(from), now));
        (SLOWER * count).min(SLOWEST)
    }

    /// Forgets the failures of an address whose user has signed in, and remembers the password.
    pub fn succeeded(
        &self,
        known: [u8; 32],
        key: Option<Arc<MailboxKey>>,
        from: IpAddr,
        now: UnixTime,
    ) {
        self.with(|state| {
            state.addresses.remove(&network(from));
            if state.remembered.len() >= REMEMBERED_COUNT_MAX {
                state.remembered.retain(|_, known| known.until > now.ms());
            }
            if state.remembered.len() < REMEMBERED_COUNT_MAX {
                let until = now.ms() + ms(REMEMBERED_TIME);
                state.remembered.insert(known, Remembered { until, key });
            }
        });
    }

    /// Forgets the failures of an address whose user has signed in.
    pub fn pardon(&self, from: IpAddr) {
        self.with(|state| state.addresses.remove(&network(from)));
    }

    /// Forgets passwords and keys whose time is over.
    pub fn sweep(&self, now: UnixTime) {
        self.with(|state| state.remembered.retain(|_, known| known.until > now.ms()));
    }

    /// The key of the mailbox, if there is one, when this password was right for this account a
    /// short while ago. What is stored is part of the name, so a new password is not taken for the
    /// old one, and a credential that was taken away opens nothing.
    #[must_use]
    pub fn remembers(&self, known: &[u8; 32], now: UnixTime) -> Option<Option<Arc<MailboxKey>>> {
        self.with(|state| match state.remembered.get(known) {
            Some(known) if known.until > now.ms() => Some(known.key.clone()),
            Some(_) => {
                state.remembered.remove(known);
                None
            }
            None => None,
        })
    }

    /// The name under which an account's password is remembered for a service.
    #[must_use]
    pub fn name(&self, account: &Account, password: &[u8], service: &str) -> [u8; 32] {
        let stored = match &account.lock {
            Lock::Hash(hash) => hash.as_str().as_bytes().to_vec(),
            Lock::Legacy(hash) => hash.0.as_bytes().to_vec(),
            Lock::Sealed(sealed) => sealed.wraps.encode(),
            Lock::Unreadable => Vec::new(),
        };
        let service = service.as_bytes();
        self.keyed(&[b"password", service, account.address.as_bytes(), &stored, password])
    }

    /// What SCRAM says of a user who has no keys for it, or is not there.
    fn made_up(&self, user: &str) -> ScramKeys {
        let user = user.to_ascii_lowercase();
        let keyed = |purpose: &[u8]| self.keyed(&[b"scram", purpose, user.as_bytes()]);
        let salt = keyed(b"salt").into_iter().take(SCRAM_SALT_BYTES).collect();
        let (stored_key, server_key) = (keyed(b"stored"), keyed(b"server"));
        let credentials = [ScramCredential { stored_key, server_key }].into();
        ScramKeys { salt, iterations: SCRAM_ITERATIONS, credentials }
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut name = [0; 32];
        name.copy_from_slice(context.sign().as_ref());
        name
    }
}

impl core::fmt::Debug for Gate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Gate({:?})", self.limits)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Failures that still count.
fn live<'a, K: Ord>(
    of: &'a mut BTreeMap<K, Failures>,
    key: &K,
    now: UnixTime,
) -> Option<&'a mut Failures> {
    let over = |found: &Failures| now.ms().saturating_sub(found.since) > ms(FAILURES_TIME);
    if of.get(key).is_some_and(over) {
        of.remove(key);
    }
    of.get_mut(key)
}

/// The failures of an address that is locked.
fn locked(
    of: &mut BTreeMap<IpAddr, Failures>,
    from: IpAddr,
    most: u32,
    now: UnixTime,
) -> Option<&mut Failures> {
    live(of, &network(from), now).filter(|found| !from.is_loopback() && found.count >= most)
}

fn add<K: Ord>(to: &mut BTreeMap<K, Failures>, key: K, now: UnixTime) -> u32 {
    live(to, &key, now);
    if to.len() >= COUNTED_MAX {
        to.clear();
    }
    let first = Failures { since: now.ms(), ..Failures::default() };
    let failures = to.entry(key).or_insert(first);
    failures.count = failures.count.saturating_add(1);
    failures.count
}

/// Signs `user` in, or says why not; logs either.
///
/// # Errors
/// [`Refused`].
pub async fn sign_in<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    user: &str,
    password: &[u8],
    from: IpAddr,
    service: &str,
) -> Result<SignedIn, Refused> {
    let result = check(shard, user, password, from, service).await;
    told(shard, user, from, service, result)
}

/// Says in the log how a sign-in went.
fn told<R: Runtime, M: Mailboxes, T>(
    shard: &Shard<R, M>,
    user: &str,
    from: IpAddr,
    service: &str,
    result: Result<T, Refused>,
) -> Result<T, Refused> {
    let refused = if let Err(Refused::Locked(refused)) = &result { *refused } else { 1 };
    let fields: [(&str, &dyn core::fmt::Display); 4] =
        [("user", &user), ("from", &from), ("for", &service), ("refused", &refused)];
    let counters = &shard.counters;
    let (event, counter, fields) = match &result {
        Ok(_) => (Event::SignInOk, &counters.sign_ins, &fields[..3]),
        Err(Refused::Wrong) => (Event::SignInFailed, &counters.sign_ins_refused, &fields[..3]),
        Err(Refused::Later | Refused::Locked(_)) => {
            (Event::SignInDeferred, &counters.sign_ins_refused, &fields[..])
        }
    };
    count(counter);
    if refused > 0 {
        shard.log.event(shard.rt.unix(), event, fields);
    }
    result
}

async fn check<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    user: &str,
    password: &[u8],
    from: IpAddr,
    service: &str,
) -> Result<SignedIn, Refused> {
    let (gate, rt, user) = (&shard.gate, &shard.rt, &canonical(shard, user));
    gate.admits(user, from, rt.unix())?;
    let account = account(shard, user);
    readable(account.as_deref())?;
    let name = account.as_ref().map(|account| gate.name(account, password, service));
    if let (Some(account), Some(name)) = (&account, &name)
        && let Some(key) = gate.remembers(name, rt.unix())
    {
        return Ok(SignedIn { account: Arc::clone(account), key });
    }
    // copy: for the helper thread
    let checked = (shard.check_password)(account.clone(), Zeroizing::new(password.to_vec())).await;
    let opened = checked.map_err(|_| Refused::Later)?;
    match (account, name, opened) {
        (Some(account), Some(name), Opened::Right(key)) => {
            let key = key.map(Arc::new);
            if key.is_none() && is_sealed(shard, &account) {
                // It has got keys while the password was checked; with the next one they are had.
                return Err(Refused::Later);
            }
            // Only who reads mail needs the key again.
            let kept = key.clone().filter(|_| service != SUBMISSION);
            gate.succeeded(name, kept, from, rt.unix());
            if key.is_none() && shard.sealing.is_some() && gate.begins_fitting() {
                rt.spawn(Class::Background, fit_keys(Rc::clone(shard), account.clone(), password));
            }
            Ok(SignedIn { account, key })
        }
        _ => Err(wrong(shard, user, from).await),
    }
}

/// Whether what opens the account can be read: if not, nobody can tell whether a password is right.
fn readable(account: Option<&Account>) -> Result<(), Refused> {
    let unreadable = account.is_some_and(|account| account.lock == Lock::Unreadable);
    if unreadable { Err(Refused::Later) } else { Ok(()) }
}

/// Counts a failure, and takes the time that it costs.
async fn wrong<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, user: &str, from: IpAddr) -> Refused {
    let slow = shard.gate.failed(user, from, shard.rt.unix());
    shard.rt.sleep_until(shard.rt.now() + slow).await;
    Refused::Wrong
}

/// Whether the account has keys by now.
fn is_sealed<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, account: &Account) -> bool {
    let directory = shard.directory.borrow();
    directory.owner(account.mailbox).is_some_and(|account| account.lock.sealed().is_some())
}

/// Gives an account keys whose password is known by now. From then on its mail is sealed. One at a
/// time, so that reading mail does not wait for it; the others wait for their next sign-in.
fn fit_keys<R: Runtime, M: Mailboxes>(
    shard: Rc<Shard<R, M>>,
    account: Arc<Account>,
    password: &[u8],
) -> impl Future<Output = ()> + use<R, M> {
    // copy: for the helper thread
    let password = Zeroizing::new(password.to_vec());
    async move {
        let (mailbox, protection) =
            (account.mailbox, Protection { bits: shard.sealing, recovery: false });
        let made = shard.offload(move || locks::make(mailbox, &password, protection)).await;
        shard.gate.fitting.store(false, Ordering::Relaxed);
        let Ok(Ok((lock, _))) = made else { return };
        let (address, was) = (account.address.clone(), account.lock.clone());
        // Refused when the account has changed meanwhile: the next sign-in tries again.
        if shard.mailboxes.change(Change::SetLock { address, was, lock }).await.is_ok() {
            let fields: [(&str, &dyn core::fmt::Display); 1] = [("user", &account.address)];
            shard.log.event(shard.rt.unix(), Event::AccountSealed, &fields);
        }
    }
}

/// What SCRAM goes on with for `user`.
///
/// # Errors
/// [`Refused::Locked`].
pub fn scram_keys<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    user: &str,
    from: IpAddr,
    service: &str,
) -> Result<(ScramKeys, Nonce), Refused> {
    let name = canonical(shard, user);
    if let Err(refused) = shard.gate.admits(&name, from, shard.rt.unix()) {
        return told(shard, user, from, service, Err(refused));
    }
    let user = &name;
    let mut nonce = Nonce::default();
    shard.rt.random(&mut nonce);
    let account = account(shard, user);
    if let Err(refused) = readable(account.as_deref()) {
        return told(shard, user, from, service, Err(refused));
    }
    let sealed = account.as_ref().and_then(|account| account.lock.sealed());
    let keys = sealed.and_then(|sealed| kept(&sealed.wraps));
    Ok((keys.unwrap_or_else(|| shard.gate.made_up(user)), nonce))
}

// No wrap is left out of what a proof is tried on.
const _: () = assert!(WRAPS_COUNT_MAX <= CREDENTIALS_COUNT_MAX);

/// What an account has for SCRAM: of its password and of its app passwords.
fn kept(wraps: &Wraps) -> Option<ScramKeys> {
    let ScramTerms { salt, iterations } = wraps.scram()?.terms();
    let credentials = wraps.scram_all().map(|wrap| ScramCredential {
        stored_key: *wrap.stored_key(),
        server_key: *wrap.server_key(),
    });
    Some(ScramKeys { salt: salt.into(), iterations, credentials: credentials.collect() })
}

/// Signs in who has proved by SCRAM that it knows a password; `None`: who has not.
///
/// # Errors
/// [`Refused`].
pub async fn prove<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    user: &str,
    client_key: Option<&ClientKey>,
    from: IpAddr,
    service: &str,
) -> Result<SignedIn, Refused> {
    let name = canonical(shard, user);
    // Whoever holds challenges from before the lock must not go on proving.
    if let Err(refused) = shard.gate.admits(&name, from, shard.rt.unix()) {
        return told(shard, user, from, service, Err(refused));
    }
    let opened = account(shard, &name).and_then(|account| {
        let wraps = &account.lock.sealed()?.wraps;
        let key = wraps.open_scram(account.mailbox, client_key?.bytes()).ok()?;
        Some(SignedIn { account: Arc::clone(&account), key: Some(Arc::new(key)) })
    });
    let result = match opened {
        Some(signed_in) => {
            shard.gate.pardon(from);
            Ok(signed_in)
        }
        None => Err(wrong(shard, &name, from).await),
    };
    told(shard, user, from, service, result)
}

/// Signs in the holder of a certificate, which the handshake has verified. It opens no mailbox:
/// there is no password that could.
///
/// # Errors
/// [`Refused`]: there is no such account, or not now.
pub async fn certified<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    user: &str,
    from: IpAddr,
    service: &str,
) -> Result<SignedIn, Refused> {
    let name = canonical(shard, user);
    let result = if let Err(refused) = shard.gate.admits(&name, from, shard.rt.unix()) {
        Err(refused)
    } else if let Some(account) = account(shard, &name) {
        readable(Some(&account)).map(|()| {
            shard.gate.pardon(from);
            SignedIn { account, key: None }
        })
    } else {
        Err(wrong(shard, &name, from).await)
    };
    told(shard, user, from, service, result)
}

/// A login name in the one form that it is known by; one without a domain means the node's own.
/// Whoever is asked for must not be told from who is not there by how the name was written.
fn canonical<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, user: &str) -> String {
    let whole = match user.contains('@') {
        true => user.to_owned(),
        false => format!("{user}@{}", shard.domain),
    };
    Directory::canonical(&whole).unwrap_or_else(|| whole.to_lowercase())
}

fn account<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, user: &str) -> Option<Arc<Account>> {
    shard.directory.borrow().account(user).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_ms(1_600_000_000_000);

    fn later(seconds: u64) -> UnixTime {
        UnixTime::from_ms(NOW.ms() + seconds * 1000)
    }

    #[test]
    fn failures_lock_an_address_and_an_account_for_a_while() {
        let limits =
            Limits { address_failures_max: 3, account_failures_max: 5, ..Limits::default() };
        let gate = Gate::new(&[7; 32], limits);
        let [a, b, here]: [IpAddr; 3] =
            ["192.0.2.1", "2001:db8::1", "127.0.0.1"].map(|text| text.parse().unwrap());
        let slow: Vec<Duration> = (0..3).map(|_| gate.failed("Bob", a, NOW)).collect();
        assert!(slow.is_sorted() && slow[0] == SLOWER);
        assert!(gate.admits("alice", a, NOW).is_err(), "the address is locked");
        assert!(gate.admits("bob", b, NOW).is_ok());
        for _ in 0..2 {
            let _ = gate.failed("bob", here, NOW);
        }
        assert!(gate.admits("BOB", b, NOW).is_err(), "the account is locked");
        assert!(gate.admits("alice", here, NOW).is_ok());
        assert!(gate.admits("bob", a, later(601)).is_ok(), "and no longer");
    }

    #[test]
    fn the_log_is_told_of_a_lock_once_a_minute() {
        let limits =
            Limits { address_failures_max: 1, account_failures_max: 2, ..Limits::default() };
        let gate = Gate::new(&[7; 32], limits);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let _ = gate.failed("bob", a, NOW);
        let told = |user: &str, from, seconds| match gate.admits(user, from, later(seconds)) {
            Err(Refused::Locked(refused)) => refused,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("bob", a, 1), 1, "at once");
        for second in 2..=60 {
            assert_eq!(told("eve", a, second), 0, "whoever the address wants to be");
        }
        assert_eq!((told("bob", a, 61), told("bob", a, 62)), (60, 0));
        // The lock of an account is another one.
        let _ = gate.failed("bob", b, NOW);
        assert_eq!((told("bob", "192.0.2.3".parse().unwrap(), 62), told("bob", a, 120)), (1, 0));
        assert_eq!(told("bob", a, 121), 3);
        // And what begins anew is told anew.
        assert!(gate.admits("bob", a, later(601)).is_ok());
        let _ = gate.failed("bob", a, later(601));
        assert_eq!(told("bob", a, 602), 1);
    }

    #[test]
    fn keys_that_are_made_up_stay_the_same_and_look_real() {
        let [one, other] = [7, 8].map(|byte| Gate::new(&[byte; 32], Limits::default()));
        let (keys, again) = (one.made_up("Bob"), one.made_up("bob"));
        let [made, same] = [&keys, &again].map(|keys| &keys.credentials[0]);
        assert_eq!((&keys.salt, made.stored_key), (&again.salt, same.stored_key));
        assert_eq!((keys.salt.len(), keys.iterations), (16, SCRAM_ITERATIONS));
        assert!(keys.salt != one.made_up("eve").salt && keys.salt != other.made_up("bob").salt);
        assert!(made.stored_key != made.server_key);
    }

    #[test]
    fn a_success_clears_the_address_and_is_remembered_for_a_while() {
        let gate = Gate::new(&[7; 32], Limits { address_failures_max: 2, ..Limits::default() });
        let a = "192.0.2.1".parse().unwrap();
        let _ = gate.failed("bob", a, NOW);
        gate.succeeded([1; 32], None, a, NOW);
        let _ = gate.failed("bob", a, NOW);
        assert!(gate.admits("bob", a, NOW).is_ok());
        assert!(gate.remembers(&[1; 32], later(599)).is_some());
        assert!(gate.remembers(&[1; 32], later(600)).is_none());
        assert!(gate.remembers(&[2; 32], NOW).is_none());
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let gate = Gate::new(&[7; 32], Limits::default());
        for n in 0..=COUNTED_MAX as u32 {
            let _ = gate.failed("bob", IpAddr::from(n.to_be_bytes()), NOW);
        }
        gate.with(|state| assert_eq!((state.addresses.len(), state.accounts.len()), (1, 1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let gate = Gate::new(&[7; 32], Limits::default());
        let a = "192.0.2.1".parse().unwrap();
        for n in 0..REMEMBERED_COUNT_MAX as u64 + 10 {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&n.to_le_bytes());
            gate.succeeded(name, None, a, NOW);
        }
        gate.with(|state| assert_eq!(state.remembered.len(), REMEMBERED_COUNT_MAX));
        gate.succeeded([9; 32], None, a, later(601));
        gate.with(|state| assert_eq!(state.remembered.len(), 1));
    }
}
