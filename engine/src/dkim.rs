//! Keys of DKIM: made, kept in `DIR/keys/dkim/DOMAIN/SELECTOR.pem`, loaded, and signing.
//!
//! The commands (`cli/dkim.rs`) make keys and show them; whatever sends mail loads all of them at
//! its start and on SIGHUP. Every key of a domain signs; one is retired by taking its file away.
//!
//! ```
//! # use fsmtp_engine::dkim::{DkimKeys, create, generate};
//! # use fsmtp_proto::dkim::Algorithm;
//! # use fsmtp_proto::time::UnixTime;
//! # let data = tempfile::tempdir().unwrap();
//! # let (data, now) = (data.path(), UnixTime::from_ms(1_700_000_000_000));
//! # let pkcs8 = generate(Algorithm::Ed25519Sha256, Default::default()).unwrap();
//! # create(data, "example.org", "s1", &pkcs8).unwrap();
//! let keys = DkimKeys::load(data)?;
//! // For each message of a domain that has keys: its final form, cut anywhere ...
//! if let Some(mut signer) = keys.signer("example.org") {
//!     signer.feed(b"From: alice@example.org\r\nSubject: hello\r\n\r\nIt wor");
//!     signer.feed(b"ks.\r\n");
//!     // ... and then, on a helper thread, the fields to put in front of it.
//!     let fields = signer.finish(now).unwrap();
//!     assert!(fields.starts_with(b"DKIM-Signature: v=1;"));
//! }
//! # Ok::<(), fsmtp_engine::dkim::DkimError>(())
//! ```
//!
//! Limits: [`KEYS_COUNT_MAX`] keys of a domain, [`FILE_BYTES_MAX`] bytes of a file. Fails by
//! [`DkimError`], which names the file or folder; nothing is overwritten, and what fails on the way
//! leaves at most an empty folder.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fsmtp_proto::dkim::key::host_name;
use fsmtp_proto::dkim::{Algorithm, Key, SignError, Signer, Terms};
use fsmtp_proto::time::UnixTime;
use fsmtp_store::seal::{RsaBits, rsa_pkcs8};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

/// The most keys of a domain; each makes a field of every message. Two are usual, four while they
/// are exchanged.
pub const KEYS_COUNT_MAX: usize = 8;

/// The longest file with a key; 4096 bits of RSA take about 3,300 bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Below the data folder.
const FOLDER: &str = "keys/dkim";
/// How the names of files with keys end.
const ENDING: &str = ".pem";

/// What is wrong with a key, its file or its folder, as one line for an operator.
#[derive(Debug)]
pub struct DkimError(String);

impl DkimError {
    fn at(path: &Path, why: impl fmt::Display) -> Self {
        Self(format!("{}: {why}", path.display()))
    }
}

impl fmt::Display for DkimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for DkimError {}

/// The keys of all domains. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct DkimKeys {
    domains: Arc<BTreeMap<String, Arc<[Key]>>>,
}

impl DkimKeys {
    /// Loads every key below the data folder `data`.
    ///
    /// # Errors
    /// The first file or folder that is not as it should be.
    pub fn load(data: &Path) -> Result<Self, DkimError> {
        let root = data.join(FOLDER);
        let mut domains = BTreeMap::new();
        for name in names(&root)? {
            let folder = root.join(&name);
            let domain = host_name(&name).filter(|domain| *domain == name);
            let domain =
                domain.ok_or_else(|| DkimError::at(&folder, "not a domain in small letters"))?;
            let keys = read_domain(&root, &domain)?;
            if !keys.is_empty() {
                domains.insert(domain, keys.into());
            }
        }
        Ok(Self { domains: Arc::new(domains) })
    }

    /// Loads the keys of one domain.
    ///
    /// # Errors
    /// As [`DkimKeys::load`]; that there are none is no error.
    pub fn load_domain(data: &Path, domain: &str) -> Result<Self, DkimError> {
        let root = data.join(FOLDER);
        let name = host_name(domain).ok_or_else(|| not_a_domain(domain))?;
        let keys = read_domain(&root, &name)?;
        let domains = (!keys.is_empty()).then(|| (name, keys.into())).into_iter().collect();
        Ok(Self { domains: Arc::new(domains) })
    }

    /// What signs a message of `domain`, in any case and with `xn--` labels; none when it has no
    /// keys.
    #[must_use]
    pub fn signer(&self, domain: &str) -> Option<DomainSigner> {
        self.signer_with(domain, Terms::default())
    }

    /// The same on other terms than the usual ones.
    #[must_use]
    pub fn signer_with(&self, domain: &str, terms: Terms) -> Option<DomainSigner> {
        let keys = self.domains.get(&domain.to_ascii_lowercase())?;
        Some(DomainSigner { signer: Signer::new(terms), keys: Arc::clone(keys) })
    }

    /// All of them, sorted by domain and selector.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.domains.values().flat_map(|keys| keys.iter())
    }
}

/// A message that streams by to be signed with the keys of its domain. May go to another thread.
#[derive(Debug)]
pub struct DomainSigner {
    signer: Signer,
    keys: Arc<[Key]>,
}

impl DomainSigner {
    /// Takes the next bytes of the message: its final form, CRLF line ends, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.signer.feed(bytes);
    }

    /// The message is over: the fields to put in front of it, each with its CRLF. RSA takes about
    /// a millisecond for each key, so this is nothing for a shard's thread.
    ///
    /// # Errors
    /// When the message cannot be signed; it can go as it is then.
    pub fn finish(self, now: UnixTime) -> Result<Vec<u8>, SignError> {
        self.signer.finish(&self.keys, now)
    }
}

/// Where a key lies.
#[must_use]
pub fn file(data: &Path, key: &Key) -> PathBuf {
    data.join(FOLDER).join(key.domain()).join(format!("{}{ENDING}", key.selector()))
}

/// A new key in PKCS #8; `bits` is for RSA only, which takes some 100 ms and more.
///
/// # Errors
/// When the system gives no random numbers.
pub fn generate(algorithm: Algorithm, bits: RsaBits) -> Result<Zeroizing<Vec<u8>>, DkimError> {
    /// RFC 8410 §7, up to the seed: the first version of the form, which every tool reads.
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let failed = |_| DkimError("the system gives no random numbers".to_owned());
    match algorithm {
        Algorithm::RsaSha256 => {
            rsa_pkcs8(bits).map_err(|error| DkimError(format!("cannot make an RSA key: {error}")))
        }
        Algorithm::Ed25519Sha256 => {
            let mut pkcs8 = Zeroizing::new(vec![0; HEAD.len() + 32]);
            let (head, seed) = pkcs8.split_at_mut(HEAD.len());
            head.copy_from_slice(&HEAD);
            SystemRandom::new().fill(seed).map_err(failed)?;
            Ok(pkcs8)
        }
    }
}

/// Keeps a new key, on stable storage when this comes back.
///
/// # Errors
/// When a name or the key is none, when the domain has a key of that name or too many keys
/// already, when something cannot be written.
pub fn create(data: &Path, domain: &str, selector: &str, pkcs8: &[u8]) -> Result<Key, DkimError> {
    let key = Key::from_pkcs8(domain, selector, pkcs8)
        .map_err(|error| DkimError(format!("{selector:?} of {domain:?}: {error}")))?;
    let path = file(data, &key);
    let folder = data.join(FOLDER).join(key.domain());
    if path.exists() {
        return Err(DkimError::at(&path, "is there already"));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| DkimError::at(&folder, error))?;
    if selectors(&folder)?.len() >= KEYS_COUNT_MAX {
        let why = format!("{KEYS_COUNT_MAX} keys are there already, and each signs every message");
        return Err(DkimError::at(&folder, why));
    }
    // No other process has this name; one of the same number that died may have left it.
    let new = folder.join(format!(".{}.{}", key.selector(), std::process::id()));
    let _ = fs::remove_file(&new);
    let kept = keep(&new, &path, &pem(pkcs8));
    if kept.is_err() {
        let _ = fs::remove_file(&new);
    }
    kept.map_err(|error| DkimError::at(&path, error))?;
    // The names of the folders have to last, too.
    for folder in folder.ancestors().take(4) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| DkimError::at(folder, error))?;
    }
    Ok(key)
}

/// Writes a file for its owner only, which is there whole or not at all, and takes nobody's place.
fn keep(new: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE)?)
}

/// RFC 7468 §10.
fn pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut text = Zeroizing::new(String::with_capacity(base64.len() * 2 + 64));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = behind;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

fn not_a_domain(name: &str) -> DkimError {
    DkimError(format!("{name:?} is not a domain of ASCII letters, digits and hyphens"))
}

/// The names in a folder, sorted, but for hidden ones; none when there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>, DkimError> {
    let failed = |error| DkimError::at(folder, error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The selectors of a domain's folder; other files may lie beside the keys.
fn selectors(folder: &Path) -> Result<Vec<String>, DkimError> {
    let selector = |name: String| name.strip_suffix(ENDING).map(str::to_owned);
    Ok(names(folder)?.into_iter().filter_map(selector).collect())
}

fn read_domain(root: &Path, domain: &str) -> Result<Vec<Key>, DkimError> {
    let folder = root.join(domain);
    let selectors = selectors(&folder)?;
    if selectors.len() > KEYS_COUNT_MAX {
        let why = format!("{} keys are there, {KEYS_COUNT_MAX} are allowed", selectors.len());
        return Err(DkimError::at(&folder, why));
    }
    let key = |selector: &String| {
        let path = folder.join(format!("{selector}{ENDING}"));
        let text = read(&path)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| {
            let hint = "no key in PKCS #8; `openssl pkcs8 -topk8 -nocrypt` makes it one";
            DkimError::at(&path, format!("{hint} ({error})"))
        })?;
        Key::from_pkcs8(domain, selector, der.secret_pkcs8_der())
            .map_err(|error| DkimError::at(&path, error))
    };
    selectors.iter().map(key).collect()
}

/// What is in the file of a key.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, DkimError> {
    crate::private::read(path, FILE_BYTES_MAX).map_err(|why| DkimError::at(path, why))
}

#[cfg(test)]
mod tests;
