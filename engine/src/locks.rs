//! Making what opens an account: key pairs and the wraps of its credentials.
//!
//! Called by the account commands, by `--dev`, and by the sign-in for accounts that came without
//! keys; never on a shard's thread, for it takes a good second (RSA keys, Argon2, SCRAM's
//! iterations).

use fsmtp_store::directory::{Account, Lock, NewLock};
use fsmtp_store::password::{self, Cost, SALT_BYTES};
use fsmtp_store::seal::{
    AppWrap, MailboxKey, PasswordWrap, RecoveryWrap, RsaBits, SCRAM_ITERATIONS, ScramWrap,
    SealError, Secret, SecretKind, UserKeys, Wrap, Wraps,
};
use fsmtp_store::{MailboxId, StoreError};
use ring::rand::{SecureRandom, SystemRandom};

/// The name of the wraps that an account has one of.
const OWN: &str = "";

/// What protects a new account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection {
    /// The length of RSA keys; none: mail lies in clear.
    pub bits: Option<RsaBits>,
    /// Whether a recovery key is made.
    pub recovery: bool,
}

/// A lock for the account that has or will have `mailbox`, and the recovery key if one was wanted.
///
/// # Errors
/// [`StoreError::Invalid`] for a password that cannot be one, or when the machine's cryptography
/// fails.
pub fn make(
    mailbox: MailboxId,
    password: &[u8],
    protection: Protection,
) -> Result<(NewLock, Option<Secret>), StoreError> {
    let Some(bits) = protection.bits else {
        let salt = random::<SALT_BYTES>()?;
        return Ok((NewLock::Hash(password::hash(password, salt, Cost::default())?), None));
    };
    let (keys, key) = UserKeys::generate(mailbox, bits, &mut fill).map_err(invalid)?;
    let mut wraps = Wraps::default();
    put_password(&mut wraps, &key, mailbox, password)?;
    let mut recovery = None;
    if protection.recovery {
        let (wrap, secret) = RecoveryWrap::seal(&key, mailbox, &mut fill).map_err(invalid)?;
        wraps.put(OWN, Wrap::Recovery(wrap)).map_err(invalid)?;
        recovery = Some(secret);
    }
    Ok((NewLock::Sealed { mailbox, keys: Box::new(keys), wraps }, recovery))
}

/// Wraps the mailbox key under a new password, in the place of the old one.
///
/// # Errors
/// As [`make`].
pub fn put_password(
    wraps: &mut Wraps,
    key: &MailboxKey,
    mailbox: MailboxId,
    password: &[u8],
) -> Result<(), StoreError> {
    let wrap = PasswordWrap::seal(key, mailbox, password, Cost::default(), &mut fill);
    wraps.put(OWN, Wrap::Password(wrap.map_err(invalid)?)).map_err(invalid)?;
    // App passwords work with SCRAM on the terms of the password; a fresh salt would shut them out.
    let shared = wraps.scram().filter(|_| wraps.scram_all().count() > 1).map(ScramWrap::terms);
    let scram = match shared {
        Some(terms) => ScramWrap::seal_on(terms, key, mailbox, password),
        None => ScramWrap::seal(key, mailbox, password, SCRAM_ITERATIONS, &mut fill),
    };
    wraps.put(OWN, Wrap::Scram(scram.map_err(invalid)?)).map_err(invalid)?;
    Ok(())
}

/// One more credential: an app password called `name`. Gives its number and the secret to show.
///
/// # Errors
/// [`StoreError::Invalid`] when there are too many, or the name is too long.
pub fn add_app(
    wraps: &mut Wraps,
    key: &MailboxKey,
    mailbox: MailboxId,
    name: &str,
) -> Result<(u32, Secret), StoreError> {
    let (mut wrap, secret) = AppWrap::seal(key, mailbox, &mut fill).map_err(invalid)?;
    if let Some(own) = wraps.scram() {
        wrap = wrap.with_scram(key, mailbox, &secret, own.terms()).map_err(invalid)?;
    }
    let number = wraps.put(name, Wrap::App(wrap)).map_err(invalid)?;
    Ok((number, secret))
}

/// The mailbox key of a sealed account, by its password, an app password or its recovery key.
///
/// # Errors
/// [`StoreError::Invalid`] when it is none of them, or the account has no keys.
pub fn open(account: &Account, credential: &[u8]) -> Result<MailboxKey, StoreError> {
    let Lock::Sealed(sealed) = &account.lock else {
        return Err(StoreError::Invalid(format!("{} has no keys", account.address)));
    };
    let wrong = |_| StoreError::Invalid("that is not the right password or recovery key".into());
    if let (Ok(secret), Some(wrap)) =
        (Secret::parse(SecretKind::Recovery, credential), sealed.wraps.recovery())
    {
        return wrap.open(account.mailbox, &secret).map_err(wrong);
    }
    let opened = sealed.wraps.open(account.mailbox, credential, Cost::default());
    opened.map(|(_, key)| key).map_err(wrong)
}

/// Random bytes of the system.
///
/// # Errors
/// [`StoreError::Invalid`] when it has none, which is early in the machine's boot only.
pub fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::Invalid("the system has no random numbers".to_owned()))?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) {
    let filled = SystemRandom::new().fill(bytes);
    assert!(filled.is_ok(), "the system has no random numbers");
}

fn invalid(error: SealError) -> StoreError {
    StoreError::Invalid(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_rt::UnixTime;
    use fsmtp_store::directory::Sealed;

    const MAILBOX: MailboxId = MailboxId(7);

    fn account(lock: Lock) -> Account {
        Account {
            mailbox: MAILBOX,
            address: "alice@example.test".to_owned(),
            name: String::new(),
            lock,
            created: UnixTime::from_ms(0),
        }
    }

    /// An account whose password is `one`, its keys, and its recovery key.
    fn sealed() -> (Account, Box<UserKeys>, Option<Secret>) {
        let protection = Protection { bits: Some(RsaBits::B2048), recovery: true };
        let (lock, recovery) = make(MAILBOX, b"one", protection).unwrap();
        let NewLock::Sealed { mailbox, keys, wraps } = lock else { panic!("it has keys") };
        assert_eq!(mailbox, MAILBOX);
        let public = keys.public_der().into();
        (account(Lock::Sealed(Box::new(Sealed { public, wraps }))), keys, recovery)
    }

    fn with(account: &Account, change: impl FnOnce(&mut Wraps)) -> Account {
        let mut sealed = account.lock.sealed().unwrap().clone();
        change(&mut sealed.wraps);
        Account { lock: Lock::Sealed(Box::new(sealed)), ..account.clone() }
    }

    #[test]
    fn every_credential_opens_the_keys_and_nothing_else_does() {
        let (alice, keys, recovery) = sealed();
        let recovery = recovery.unwrap().text().to_string();
        let key = open(&alice, b"one").unwrap();
        let mut app = None;
        let alice = with(&alice, |wraps| {
            let (number, secret) = add_app(wraps, &key, MAILBOX, "phone").unwrap();
            app = Some((number, secret.text().to_string()));
        });
        let (number, app) = app.unwrap();
        for credential in ["one", &recovery, &app] {
            let key = open(&alice, credential.as_bytes()).unwrap();
            assert!(keys.private_key(MAILBOX, &key).is_ok(), "{credential}");
        }
        let longer = format!("{recovery}0");
        for wrong in ["", "two", "One", &recovery[1..], &app[1..], &longer] {
            let said = open(&alice, wrong.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("not the right password or recovery key"), "{said}");
        }
        let alice = with(&alice, |wraps| assert!(wraps.remove(number).is_some()));
        assert!(open(&alice, app.as_bytes()).is_err());
        let other = Account { mailbox: MailboxId(8), ..alice };
        assert!(open(&other, b"one").is_err() && open(&other, recovery.as_bytes()).is_err());
    }

    #[test]
    fn a_new_password_takes_the_place_of_the_old_one() {
        let (alice, keys, recovery) = sealed();
        let key = open(&alice, b"one").unwrap();
        let before = alice.lock.sealed().unwrap().wraps.entries().len();
        let alice = with(&alice, |wraps| put_password(wraps, &key, MAILBOX, b"two").unwrap());
        let wraps = &alice.lock.sealed().unwrap().wraps;
        assert_eq!(wraps.entries().len(), before, "password, SCRAM, recovery");
        assert!(wraps.scram().is_some() && open(&alice, b"one").is_err());
        let recovery = recovery.unwrap().text().to_string();
        for credential in ["two", &recovery] {
            let key = open(&alice, credential.as_bytes()).unwrap();
            assert!(keys.private_key(MAILBOX, &key).is_ok());
        }
        let mut wraps = wraps.clone();
        assert!(put_password(&mut wraps, &key, MAILBOX, b"").is_err());
    }

    #[test]
    fn a_new_password_leaves_app_passwords_their_scram() {
        let (alice, _, _) = sealed();
        let key = open(&alice, b"one").unwrap();
        let mut wraps = alice.lock.sealed().unwrap().wraps.clone();
        let first = wraps.scram().unwrap().terms();
        put_password(&mut wraps, &key, MAILBOX, b"two").unwrap();
        let second = wraps.scram().unwrap().terms();
        assert_ne!(first.salt, second.salt, "nobody else needs it");
        let (number, _) = add_app(&mut wraps, &key, MAILBOX, "phone").unwrap();
        put_password(&mut wraps, &key, MAILBOX, b"three").unwrap();
        assert_eq!((wraps.scram_all().count(), wraps.scram().unwrap().terms()), (2, second));
        assert!(wraps.remove(number).is_some());
        put_password(&mut wraps, &key, MAILBOX, b"four").unwrap();
        assert_ne!(wraps.scram().unwrap().terms(), second);
    }

    #[test]
    fn without_sealing_there_is_a_hash_and_nothing_to_open() {
        let (lock, recovery) =
            make(MAILBOX, b"one", Protection { bits: None, recovery: false }).unwrap();
        let NewLock::Hash(hash) = lock else { panic!("it has no keys") };
        assert!(recovery.is_none() && password::verify(b"one", &hash));
        let said = open(&account(Lock::Hash(hash)), b"one").unwrap_err().to_string();
        assert!(said.contains("has no keys"), "{said}");
    }
}
