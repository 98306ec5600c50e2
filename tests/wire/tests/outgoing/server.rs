//! Another mail server that speaks TLS, and a web server with one page: what mail is sent to here.
//!
//! Each runs until it is dropped; a connection has [`PATIENCE`] for each read. Nothing of the
//! engine's own protocol code is in it.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData as _,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use wire_tests::PATIENCE;

/// Who makes certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.0.der()
    }

    /// A certificate for these names, until the beginning of a year, with its authority.
    pub(crate) fn server(&self, names: &[&str], last_year: i32) -> Secured {
        self.server_of(names, last_year, rustls::DEFAULT_VERSIONS)
    }

    /// The same for a server that speaks these versions of TLS.
    pub(crate) fn server_of(
        &self,
        names: &[&str],
        last_year: i32,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Secured {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap().der().clone();
        let public_key = key.subject_public_key_info();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.clone(), self.0.der().clone()], key)
            .unwrap();
        Secured { config: Arc::new(config), leaf: leaf.to_vec(), public_key }
    }
}

/// What a server shows.
#[derive(Clone)]
pub(crate) struct Secured {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) leaf: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
}

/// What a mail server does.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// None: it offers no STARTTLS.
    pub(crate) tls: Option<Secured>,
    /// TLS from the first byte.
    pub(crate) implicit: bool,
    /// What AUTH PLAIN must say, in base64; none: it is not offered.
    pub(crate) login: Option<String>,
    /// What else EHLO offers, once there is TLS.
    pub(crate) offers: &'static [&'static str],
}

/// A transaction that was accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    /// All commands of its connection so far.
    pub(crate) commands: Vec<String>,
    pub(crate) encrypted: bool,
    /// Whether this handshake continued an older one.
    pub(crate) resumed: bool,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A server on loopback.
pub(crate) struct Server<T> {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<T>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Clone + Send + 'static> Server<T> {
    fn start(
        serve: impl Fn(TcpStream, &Mutex<Vec<T>>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, ended) = (Arc::default(), Arc::<AtomicBool>::default());
        let (inner, stop, serve) = (Arc::clone(&taken), Arc::clone(&ended), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (inner, serve) = (Arc::clone(&inner), Arc::clone(&serve));
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    // What goes wrong with a connection is over with it.
                    let _ = serve(stream, &inner);
                });
            }
        });
        Self { address, taken, ended, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    pub(crate) fn taken(&self) -> Vec<T> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T> Drop for Server<T> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accept.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A mail server.
pub(crate) fn mail(manners: Manners) -> Server<Taken> {
    Server::start(move |stream, taken| session(stream, &manners, taken))
}

/// A web server that answers each request with what `page` holds then; it keeps the requests.
pub(crate) fn web(secured: &Secured, page: Arc<Mutex<String>>) -> Server<String> {
    let config = Arc::clone(&secured.config);
    Server::start(move |stream, requests| {
        let (stream, _) = encrypt(stream, &config)?;
        let mut input = BufReader::new(stream);
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if input.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let page = page.lock().unwrap_or_else(PoisonError::into_inner).clone();
        input.get_mut().write_all(page.as_bytes())?;
        input.get_mut().flush()
    })
}

fn encrypt(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<(Box<dyn Wire>, bool)> {
    let session = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((Box::new(stream), resumed))
}

fn session(stream: TcpStream, manners: &Manners, all: &Mutex<Vec<Taken>>) -> Result<()> {
    let clear = stream.try_clone()?;
    let mut seen = Taken::default();
    let mut wire: Box<dyn Wire> = Box::new(stream);
    if let Some(tls) = manners.tls.as_ref().filter(|_| manners.implicit) {
        (wire, seen.resumed) = encrypt(clear.try_clone()?, &tls.config)?;
        seen.encrypted = true;
    }
    let mut input = BufReader::new(wire);
    input.get_mut().write_all(b"220 remote.test ESMTP\r\n")?;
    let mut line = String::new();
    loop {
        input.get_mut().flush()?;
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        seen.commands.push(line.trim_end().to_owned());
        let verb = line.trim_end().split(' ').next().unwrap_or("").to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => hello(manners, seen.encrypted),
            "STARTTLS" => {
                input.get_mut().write_all(b"220 2.0.0 go on\r\n")?;
                let Some(tls) = &manners.tls else { return Ok(()) };
                let (wire, resumed) = encrypt(clear.try_clone()?, &tls.config)?;
                input = BufReader::new(wire);
                seen = Taken { encrypted: true, resumed, ..Taken::default() };
                continue;
            }
            "AUTH" => {
                let said = line.trim_end().strip_prefix("AUTH PLAIN ");
                let good = said.is_some() && said == manners.login.as_deref();
                if good { "235 2.7.0 ok\r\n" } else { "535 5.7.8 not you\r\n" }.to_owned()
            }
            "DATA" => {
                input.get_mut().write_all(b"354 go on\r\n")?;
                input.get_mut().flush()?;
                while line != ".\r\n" {
                    line.clear();
                    if input.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
                "250 2.6.0 taken\r\n".to_owned()
            }
            "QUIT" => "221 2.0.0 bye\r\n".to_owned(),
            _ => "250 2.0.0 ok\r\n".to_owned(),
        };
        input.get_mut().write_all(reply.as_bytes())?;
    }
}

fn hello(manners: &Manners, encrypted: bool) -> String {
    let mut reply = "250-remote.test\r\n".to_owned();
    if manners.tls.is_some() && !encrypted {
        reply += "250-STARTTLS\r\n";
    }
    if manners.login.is_some() {
        reply += "250-AUTH PLAIN LOGIN\r\n";
    }
    for offer in manners.offers.iter().filter(|_| encrypted) {
        reply += &format!("250-{offer}\r\n");
    }
    reply + "250 8BITMIME\r\n"
}
