//! Keys that the nodes of one owner share: made, kept in `DIR/keys/trust/NAME.key`, loaded.
//!
//! The commands (`cli/trust.rs`) make them; the engine loads all of them at its start and on
//! SIGHUP. A file holds 32 random bytes in base64 and is copied to the other nodes as it is. Every
//! key counts; two nodes need one in common. What is proved with them stands in `proto`'s
//! `smtp/ext/su.rs`.
//!
//! Limits: [`KEYS_COUNT_MAX`] keys. Fails by [`KeyFileError`], which names the file.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use fsmtp_proto::smtp::ext::su::KEYS_COUNT_MAX;
use fsmtp_proto::smtp::ext::su::{KEY_BYTES, Keys};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::keyfile::{self, KeyFileError};

/// Below the data folder.
const FOLDER: &str = "keys/trust";
/// How the names of files with keys end.
const ENDING: &str = ".key";

/// A key and how it is called.
pub struct NamedKey {
    /// The name of its file, without the ending.
    pub name: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl core::fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NamedKey({})", self.name)
    }
}

impl NamedKey {
    /// Tells it from others and says nothing else about it: the front of its hash.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, &self.bytes[..]);
        hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where the key of this name lies.
#[must_use]
pub fn file(data: &Path, name: &str) -> PathBuf {
    data.join(FOLDER).join(format!("{name}{ENDING}"))
}

/// All keys of the data folder `data`, sorted by name.
///
/// # Errors
/// The first file that is not as it should be, or that there are too many.
pub fn list(data: &Path) -> Result<Vec<NamedKey>, KeyFileError> {
    let folder = data.join(FOLDER);
    let names = keyfile::names(&folder)?;
    let names = names.iter().filter_map(|name| name.strip_suffix(ENDING));
    let keys: Vec<NamedKey> = names.map(|name| read(data, name)).collect::<Result<_, _>>()?;
    if keys.len() > KEYS_COUNT_MAX {
        let why = format!("{} keys are there, {KEYS_COUNT_MAX} are allowed", keys.len());
        return Err(KeyFileError::at(&folder, why));
    }
    Ok(keys)
}

/// The same, ready for use.
///
/// # Errors
/// As [`list`].
pub fn load(data: &Path) -> Result<Keys, KeyFileError> {
    let keys = list(data)?;
    // As many as there may be.
    Ok(Keys::new(keys.iter().map(|key| &*key.bytes)).unwrap_or_default())
}

fn read(data: &Path, name: &str) -> Result<NamedKey, KeyFileError> {
    let path = file(data, name);
    let text = keyfile::read(&path)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    // The decoder wants room for whole groups of three.
    let mut room = Zeroizing::new([0; KEY_BYTES + 3]);
    let decoded = STANDARD.decode_slice(text.trim_ascii(), &mut room[..]);
    match (decoded, room.get(..KEY_BYTES)) {
        (Ok(KEY_BYTES), Some(key)) => bytes.copy_from_slice(key),
        _ => return Err(KeyFileError::at(&path, "no key: 32 bytes in base64 are one")),
    }
    Ok(NamedKey { name: name.to_owned(), bytes })
}

/// Makes a key and keeps it, on stable storage when this comes back.
///
/// # Errors
/// When there is one of that name or there are too many, when the name is none, when something
/// cannot be written.
pub fn create(data: &Path, name: &str) -> Result<NamedKey, KeyFileError> {
    let path = file(data, name);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
        let why = "the name may have letters, digits, `-` and `_`";
        return Err(KeyFileError::at(&path, why));
    }
    let there = list(data)?;
    if there.iter().any(|key| key.name == name) {
        return Err(KeyFileError::at(&path, "is there already"));
    }
    if there.len() >= KEYS_COUNT_MAX {
        return Err(KeyFileError::at(&path, format!("{KEYS_COUNT_MAX} keys are there already")));
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let random = SystemRandom::new().fill(&mut bytes[..]);
    random.map_err(|_| KeyFileError::at(&path, "the system gives no random numbers"))?;
    let text = Zeroizing::new(format!("{}\n", &*Zeroizing::new(STANDARD.encode(&bytes[..]))));
    keyfile::keep(data, &data.join(FOLDER), &format!("{name}{ENDING}"), &text)?;
    Ok(NamedKey { name: name.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_proto::time::UnixTime;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_that_was_copied_is_the_same_key() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (one.path(), other.path());
        assert!(load(one).unwrap().is_empty(), "none is no error");
        let made = create(one, "first").unwrap();
        assert_eq!(made.fingerprint().len(), 16);
        assert_eq!(fs::metadata(file(one, "first")).unwrap().permissions().mode() & 0o777, 0o600);
        create(other, "own").unwrap();
        fs::copy(file(one, "first"), file(other, "copied")).unwrap();
        let listed = list(other).unwrap();
        let names: Vec<_> = listed.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["copied", "own"]);
        assert_eq!(listed[0].fingerprint(), made.fingerprint());
        let now = UnixTime::from_ms(1_600_000_000_000);
        let token = load(one).unwrap().token("a", &[1; 32], &[2; 16], now).unwrap();
        assert!(load(other).unwrap().check(token.text().as_bytes(), &[1; 32], now).is_ok());
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused_by_name() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        for name in ["", "a/b", "..", "a b", &"n".repeat(65)] {
            assert!(create(data, name).is_err(), "{name:?}");
        }
        create(data, "a").unwrap();
        assert!(create(data, "a").unwrap_err().to_string().ends_with("is there already"));
        for name in ["b", "c", "d"] {
            create(data, name).unwrap();
        }
        let why = create(data, "e").unwrap_err().to_string();
        assert!(why.ends_with("4 keys are there already"), "{why}");
        fs::copy(file(data, "a"), file(data, "e")).unwrap();
        assert!(load(data).unwrap_err().to_string().contains("5 keys are there"));
        fs::remove_file(file(data, "e")).unwrap();
        for text in ["", "AAAA", &"A".repeat(44), &format!("{}=", "A".repeat(47))] {
            fs::write(file(data, "d"), text).unwrap();
            let why = load(data).unwrap_err().to_string();
            assert!(why.contains("d.key: no key"), "{why} {text}");
        }
        fs::set_permissions(file(data, "a"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(data).unwrap_err().to_string().contains("chmod 600"));
    }
}
