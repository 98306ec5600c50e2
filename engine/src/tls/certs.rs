//! Certificates and their keys: read, checked, chosen by the name that a client asks for, replaced
//! while the engine runs.
//!
//! Everything is checked before it is used: that files can be read, that a key belongs to its
//! certificate, that today is within its time. A reload that finds something wrong changes nothing.

use core::fmt;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_rt::UnixTime;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::clients::Clients;
use super::{PEM_BYTES_MAX, TlsError};

/// The files of one certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The certificate, and those that lead to its issuer's root, in PEM.
    pub certificate: PathBuf,
    /// Its private key in PEM: PKCS #8, SEC 1 or PKCS #1, not encrypted.
    pub key: PathBuf,
}

/// The certificates of a node. Clones are the same ones.
#[derive(Clone)]
pub struct Certs {
    pairs: Arc<[Pair]>,
    table: Arc<Table>,
    clients: Option<Clients>,
}

/// What handshakes look into; locked for as long as it takes to copy a pointer.
struct Table(Mutex<Arc<Names>>);

/// Which certificate answers to which name.
#[derive(Debug)]
struct Names {
    /// By name in lower case; a wildcard stands under `*.` and the rest.
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    /// For clients that ask for no name, or for one that nobody has.
    first: Arc<CertifiedKey>,
}

impl Certs {
    /// Reads and checks all pairs; the first one is for clients that name nobody.
    ///
    /// # Errors
    /// The first thing that is wrong, with its file.
    pub fn load(pairs: &[Pair], now: UnixTime) -> Result<Self, TlsError> {
        let names = Arc::new(Names::read(pairs, now)?);
        Ok(Self { pairs: pairs.into(), table: Arc::new(Table(Mutex::new(names))), clients: None })
    }

    /// With the authorities in `file` for the certificates of clients; read again with the pairs.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn with_client_ca(self, file: &Path) -> Result<Self, TlsError> {
        Ok(Self { clients: Some(Clients::load(file)?), ..self })
    }

    /// Reads the same files again; handshakes from now on see what they hold.
    ///
    /// # Errors
    /// As [`Certs::load`]; then everything stays as it was.
    pub fn reload(&self, now: UnixTime) -> Result<(), TlsError> {
        let names = Arc::new(Names::read(&self.pairs, now)?);
        let clients = self.clients.as_ref().map(|clients| Ok((clients, clients.read()?)));
        let clients = clients.transpose()?;
        *self.table.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
        if let Some((clients, verifier)) = clients {
            clients.replace(verifier);
        }
        Ok(())
    }

    pub(super) const fn clients(&self) -> Option<&Clients> {
        self.clients.as_ref()
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.table) as Arc<dyn ResolvesServerCert>
    }
}

impl fmt::Debug for Certs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certs({:?})", self.pairs)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Table")
    }
}

impl ResolvesServerCert for Table {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let names = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Some(Arc::clone(names.find(hello.server_name())))
    }
}

impl Names {
    fn read(pairs: &[Pair], now: UnixTime) -> Result<Self, TlsError> {
        let mut by_name = BTreeMap::new();
        let mut first = None;
        for pair in pairs {
            let (names, key) = read_pair(pair, now)?;
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            first.get_or_insert(key);
        }
        let first = first.ok_or_else(|| TlsError::new("no certificate is configured"))?;
        Ok(Self { by_name, first })
    }

    /// The certificate for a name: its own, else a wildcard one level up (RFC 6125 §6.4.3), else
    /// the first.
    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let exact = name.and_then(|name| self.by_name.get(&name.to_ascii_lowercase()));
        let above = || {
            let (_, above) = name?.split_once('.')?;
            self.by_name.get(&format!("*.{}", above.to_ascii_lowercase()))
        };
        exact.or_else(above).unwrap_or(&self.first)
    }
}

fn read_pair(pair: &Pair, now: UnixTime) -> Result<(Vec<String>, Arc<CertifiedKey>), TlsError> {
    let wrong =
        |path: &Path, what: &dyn fmt::Display| TlsError::new(format!("{}: {what}", path.display()));
    let chain = pem(&pair.certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|e| wrong(&pair.certificate, &e))?;
    let leaf = chain.first().ok_or_else(|| wrong(&pair.certificate, &"no certificate in it"))?;
    let names = look_at(leaf, now).map_err(|what| wrong(&pair.certificate, &what))?;
    let key = pem(&pair.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| wrong(&pair.key, &e))?;
    let key = ring::sign::any_supported_type(&key).map_err(|e| wrong(&pair.key, &e))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| {
        wrong(&pair.key, &format_args!("is not the key of {}", pair.certificate.display()))
    })?;
    Ok((names, Arc::new(certified)))
}

/// Checks the time of a certificate; gives back its names in lower case.
fn look_at(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<Vec<String>, String> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|e| format!("cannot read it: {e}"))?;
    let (seconds, validity) = (i64::try_from(now.seconds()).unwrap_or(i64::MAX), parsed.validity());
    if seconds > validity.not_after.timestamp() {
        return Err(format!("the certificate has expired on {}", validity.not_after));
    }
    if seconds < validity.not_before.timestamp() {
        return Err(format!("the certificate begins on {}", validity.not_before));
    }
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return Ok(Vec::new()) };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    Ok(alternatives.value.general_names.iter().filter_map(name).collect())
}

/// When the certificate of `pair` ends, in seconds since 1970.
///
/// # Errors
/// When it cannot be read.
pub fn expires(pair: &Pair) -> Result<i64, TlsError> {
    let bytes = pem(&pair.certificate)?;
    let wrong =
        |what: &dyn fmt::Display| TlsError::new(format!("{}: {what}", pair.certificate.display()));
    let leaf = CertificateDer::from_pem_slice(&bytes).map_err(|e| wrong(&e))?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|e| wrong(&e))?;
    Ok(parsed.validity().not_after.timestamp())
}

pub(super) fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |e: std::io::Error| TlsError::new(format!("{}: {e}", path.display()));
    // A pipe would be waited for without end, by the main thread at a reload.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(TlsError::new(format!("{}: not a file", path.display())));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(TlsError::new(format!("{}: too large for PEM", path.display())));
    }
    Ok(bytes)
}

/// The certificate that `--dev` uses: signed by itself, made once in `folder`, for ten years.
///
/// # Errors
/// When it cannot be made or written.
pub fn self_signed(folder: &Path, names: &[String]) -> Result<Pair, TlsError> {
    let pair = Pair { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    if pair.certificate.exists() && pair.key.exists() {
        return Ok(pair);
    }
    let failed = |e: &dyn fmt::Display| TlsError::new(format!("{}: {e}", folder.display()));
    fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| failed(&e))?;
    // The certificate last: when it is there, so is its key.
    write(&pair.key, made.signing_key.serialize_pem().as_bytes()).map_err(|e| failed(&e))?;
    write(&pair.certificate, made.cert.pem().as_bytes()).map_err(|e| failed(&e))?;
    Ok(pair)
}

/// Writes a file that only its owner may read.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new();
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}
