//! The credentials of one account, as they are stored: a list of wraps, each with a number and a
//! name.
//!
//! Read at every login; written when a credential is added, changed or taken away. Every wrap holds
//! the same mailbox key, so a change of one concerns no other and no mail.
//!
//! ```text
//! list     0 version u8   1 next number u32   5 count u8   6 entries, numbers rising strictly
//! entry    0 number u32   4 kind u8   5 name length u16, name   wrap
//! wrap     1 password     memory KiB u32, passes u32, lanes u32, salt 16, sealed 48
//!          2 app, 3 recovery     salt 16, sealed 48
//!          4 SCRAM        iterations u32, salt 16, StoredKey 32, ServerKey 32, sealed 48
//!          5 app, with SCRAM     as 2, then as 4
//! ```
//!
//! Limits: [`WRAPS_COUNT_MAX`] wraps, one of them a password, one a recovery key, one SCRAM; names
//! of [`NAME_BYTES_MAX`] bytes; costs that are within their limits. Decoding refuses the rest. App
//! passwords without SCRAM are from before they had it.

use super::codec::{Reader, VERSION, put_piece};
use super::credential::{
    AppWrap, PasswordWrap, RecoveryWrap, SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN, ScramTerms,
    ScramWrap, SecretWrap,
};
use super::error::SealError;
use super::key::{KEY_BYTES, MailboxKey};
use super::text::{Secret, SecretKind};
use crate::id::MailboxId;
use crate::password::Cost;

/// The most wraps of an account. Arbitrary; bounds what a login can cost.
pub const WRAPS_COUNT_MAX: usize = 100;
/// The longest name of a credential, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

const OBJECT: &str = "the wraps of an account";

/// One way to the mailbox key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrap {
    /// The password of the user; at most one.
    Password(PasswordWrap),
    /// An app password.
    App(AppWrap),
    /// The recovery key; at most one.
    Recovery(RecoveryWrap),
    /// The password again, for SCRAM; at most one. App passwords bring their own.
    Scram(ScramWrap),
}

impl Wrap {
    const fn kind(&self) -> u8 {
        match self {
            Self::Password(_) => 1,
            Self::App(AppWrap { scram: None, .. }) => 2,
            Self::Recovery(_) => 3,
            Self::Scram(_) => 4,
            Self::App(AppWrap { scram: Some(_), .. }) => 5,
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Password(PasswordWrap { cost, salt, sealed }) => {
                for number in [cost.memory_kib, cost.passes, cost.lanes] {
                    into.extend_from_slice(&number.to_le_bytes());
                }
                into.extend_from_slice(salt);
                into.extend_from_slice(sealed);
            }
            Self::App(AppWrap { own, scram }) => {
                encode_secret(own, into);
                if let Some(scram) = scram {
                    encode_scram(scram, into);
                }
            }
            Self::Recovery(RecoveryWrap(wrap)) => encode_secret(wrap, into),
            Self::Scram(wrap) => encode_scram(wrap, into),
        }
    }

    fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Self, SealError> {
        Ok(match kind {
            1 => {
                let cost = Cost {
                    memory_kib: reader.word()?,
                    passes: reader.word()?,
                    lanes: reader.word()?,
                };
                if !cost.is_possible() {
                    return Err(SealError::TooLarge("the cost of a password"));
                }
                let (salt, sealed) = (reader.array()?, reader.array()?);
                Self::Password(PasswordWrap { cost, salt, sealed })
            }
            2 => Self::App(AppWrap { own: secret_wrap(reader)?, scram: None }),
            3 => Self::Recovery(RecoveryWrap(secret_wrap(reader)?)),
            4 => Self::Scram(scram_wrap(reader)?),
            5 => {
                let own = secret_wrap(reader)?;
                Self::App(AppWrap { own, scram: Some(scram_wrap(reader)?) })
            }
            _ => return Err(reader.malformed()),
        })
    }
}

fn secret_wrap(reader: &mut Reader<'_>) -> Result<SecretWrap, SealError> {
    Ok(SecretWrap { salt: reader.array()?, sealed: reader.array()? })
}

fn scram_wrap(reader: &mut Reader<'_>) -> Result<ScramWrap, SealError> {
    let iterations = reader.word()?;
    if !(SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations) {
        return Err(SealError::TooLarge("the count of SCRAM iterations"));
    }
    Ok(ScramWrap {
        terms: ScramTerms { salt: reader.array()?, iterations },
        stored_key: reader.array()?,
        server_key: reader.array()?,
        sealed: reader.array()?,
    })
}

fn encode_secret(wrap: &SecretWrap, into: &mut Vec<u8>) {
    into.extend_from_slice(&wrap.salt);
    into.extend_from_slice(&wrap.sealed);
}

fn encode_scram(wrap: &ScramWrap, into: &mut Vec<u8>) {
    into.extend_from_slice(&wrap.terms.iterations.to_le_bytes());
    into.extend_from_slice(&wrap.terms.salt);
    into.extend_from_slice(&wrap.stored_key);
    into.extend_from_slice(&wrap.server_key);
    into.extend_from_slice(&wrap.sealed);
}

/// A wrap in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number, never used twice in an account.
    pub number: u32,
    /// What the owner calls it.
    pub name: String,
    /// The wrap itself.
    pub wrap: Wrap,
}

/// All wraps of an account.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wraps {
    next: u32,
    entries: Vec<Entry>,
}

impl Wraps {
    /// The wraps, in the order in which they were added.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The password's wrap, when there is one.
    #[must_use]
    pub fn password(&self) -> Option<&PasswordWrap> {
        self.entries.iter().find_map(|entry| match &entry.wrap {
            Wrap::Password(wrap) => Some(wrap),
            _ => None,
        })
    }

    /// The recovery key's wrap, when there is one.
    #[must_use]
    pub fn recovery(&self) -> Option<&RecoveryWrap> {
        self.entries.iter().find_map(|entry| match &entry.wrap {
            Wrap::Recovery(wrap) => Some(wrap),
            _ => None,
        })
    }

    /// All that SCRAM can be tried on, on the same terms: the password's wrap first, then those of
    /// app passwords. None without the password's, whose terms they are.
    pub fn scram_all(&self) -> impl Iterator<Item = &ScramWrap> {
        let own = self.scram();
        let told = own.map(ScramWrap::terms);
        let apps = self.entries.iter().filter_map(move |entry| match &entry.wrap {
            Wrap::App(app) => app.scram.as_ref().filter(|scram| told == Some(scram.terms())),
            _ => None,
        });
        own.into_iter().chain(apps)
    }

    /// The mailbox key by what a client of SCRAM has proved to hold.
    ///
    /// # Errors
    /// [`SealError::Refused`] when nothing opens.
    pub fn open_scram(
        &self,
        mailbox: MailboxId,
        client_key: &[u8; KEY_BYTES],
    ) -> Result<MailboxKey, SealError> {
        let mut opened = self.scram_all().filter_map(|wrap| wrap.open(mailbox, client_key).ok());
        opened.next().ok_or(SealError::Refused)
    }

    /// What the password's wrap for SCRAM says, when it is there.
    #[must_use]
    pub fn scram(&self) -> Option<&ScramWrap> {
        self.entries.iter().find_map(|entry| match &entry.wrap {
            Wrap::Scram(wrap) => Some(wrap),
            _ => None,
        })
    }

    /// Adds a wrap, or puts it in the place of the one that an account has only one of; gives its
    /// number.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] when the list is full or the name too long.
    pub fn put(&mut self, name: &str, wrap: Wrap) -> Result<u32, SealError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(SealError::TooLarge("the name of a credential"));
        }
        let number = self.next;
        let next = number.checked_add(1).ok_or(SealError::TooLarge(OBJECT))?;
        let single = !matches!(wrap, Wrap::App(_));
        let replaced = self.entries.iter().position(|e| single && e.wrap.kind() == wrap.kind());
        match replaced {
            Some(place) => drop(self.entries.remove(place)),
            None if self.entries.len() >= WRAPS_COUNT_MAX => {
                return Err(SealError::TooLarge(OBJECT));
            }
            None => {}
        }
        self.entries.push(Entry { number, name: name.to_owned(), wrap });
        self.next = next;
        Ok(number)
    }

    /// Takes a wrap away, if there is one of that number. Who takes the last one away takes the
    /// mailbox away.
    pub fn remove(&mut self, number: u32) -> Option<Entry> {
        let place = self.entries.iter().position(|entry| entry.number == number)?;
        Some(self.entries.remove(place))
    }

    /// Tries what somebody gave as the password: as an app password when it has the form of one,
    /// then as the password. Gives the number of the wrap that opened. Takes one run of Argon2
    /// unless an app password opened, also when the account has no password; `cost` is then what
    /// that run costs.
    ///
    /// # Errors
    /// [`SealError::Refused`] when nothing opens.
    pub fn open(
        &self,
        mailbox: MailboxId,
        password: &[u8],
        cost: Cost,
    ) -> Result<(u32, MailboxKey), SealError> {
        if let Ok(secret) = Secret::parse(SecretKind::App, password) {
            for entry in &self.entries {
                if let Wrap::App(wrap) = &entry.wrap
                    && let Ok(key) = wrap.open(mailbox, &secret)
                {
                    return Ok((entry.number, key));
                }
            }
        }
        for entry in &self.entries {
            if let Wrap::Password(wrap) = &entry.wrap {
                return wrap.open(mailbox, password).map(|key| (entry.number, key));
            }
        }
        Err(PasswordWrap::open_dummy(password, cost))
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u8::try_from(self.entries.len()).expect("the list is not longer than 100");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.next.to_le_bytes());
        bytes.push(count);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.number.to_le_bytes());
            bytes.push(entry.wrap.kind());
            put_piece(&mut bytes, entry.name.as_bytes(), NAME_BYTES_MAX, OBJECT)
                .expect("the name was measured");
            entry.wrap.encode(&mut bytes);
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`SealError::Version`], [`SealError::Malformed`] or [`SealError::TooLarge`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let mut reader = Reader::new(bytes, OBJECT)?;
        let next = reader.word()?;
        let count = usize::from(reader.byte()?);
        if count > WRAPS_COUNT_MAX {
            return Err(SealError::TooLarge(OBJECT));
        }
        let mut wraps = Self { next, entries: Vec::new() };
        let mut kinds_seen = 0u8;
        for _ in 0..count {
            let number = reader.word()?;
            let rises = wraps.entries.last().is_none_or(|last| last.number < number);
            let kind = reader.byte()?;
            let name = core::str::from_utf8(reader.piece(NAME_BYTES_MAX)?);
            let name = name.map_err(|_| reader.malformed())?.to_owned();
            let wrap = Wrap::decode(kind, &mut reader)?;
            let again = !matches!(wrap, Wrap::App(_)) && kinds_seen & 1 << kind != 0;
            if !rises || number >= next || again {
                return Err(reader.malformed());
            }
            kinds_seen |= 1 << kind;
            wraps.entries.push(Entry { number, name, wrap });
        }
        reader.end()?;
        Ok(wraps)
    }
}
