//! How a connection to the server is encrypted, and with what key exchange.
//!
//! Used by every kind of load that can be encrypted, and by the sink from the other side.
//! Handshakes are full ones, nothing is remembered from one connection to the next, except where
//! `send --resume` asks for it. The server's certificate is not looked at, since a server that is
//! measured has any: never a model for a client of real mail.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use clap::ValueEnum;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};
use rustls::{Connection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};

use crate::client::{Client, Wire, connect};

/// Servers whose sessions are remembered: there is one.
const SESSIONS_MAX: usize = 8;

/// When a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Never.
    None,
    /// After EHLO and STARTTLS.
    Starttls,
    /// From the first byte.
    Implicit,
}

/// The key exchange that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// What most software offers today.
    X25519,
    /// Together with ML-KEM, as newer software does.
    X25519mlkem768,
}

/// What the options say.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How connections are encrypted.
    #[arg(long, value_enum, default_value_t = Mode::None)]
    pub(crate) tls: Mode,
    /// The key exchange that is offered.
    #[arg(long, value_enum, default_value_t = Group::X25519mlkem768)]
    pub(crate) group: Group,
}

/// How `send` makes handshakes.
#[derive(Debug, Clone)]
pub(crate) struct Configs {
    /// Nothing is remembered.
    pub(crate) full: Arc<ClientConfig>,
    /// A connection resumes the session of one before it.
    pub(crate) resuming: Arc<ClientConfig>,
}

impl Options {
    /// Both ways; `None` without TLS.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub(crate) fn configs(self) -> Result<Option<Configs>, String> {
        if self.tls == Mode::None {
            return Ok(None);
        }
        let full = self.config()?;
        let mut resuming = full.clone();
        resuming.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Some(Configs { full: Arc::new(full), resuming: Arc::new(resuming) }))
    }

    /// TLS 1.3 with this key exchange, and nothing remembered.
    fn config(self) -> Result<ClientConfig, String> {
        let mut provider = ring::default_provider();
        provider.kx_groups = vec![match self.group {
            Group::X25519 => ring::kx_group::X25519,
            Group::X25519mlkem768 => aws_lc_rs::kx_group::X25519MLKEM768,
        }];
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| format!("TLS: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// A session of this config that has not begun, with a server of this address.
pub(crate) fn client_session(config: &Arc<ClientConfig>, server: IpAddr) -> Option<Connection> {
    let session = ClientConnection::new(Arc::clone(config), ServerName::from(server));
    session.ok().map(Connection::from)
}

/// What a server needs that anybody may trust: a certificate of its own making.
///
/// # Errors
/// When the library cannot be set up.
pub(crate) fn server_config() -> Result<Arc<ServerConfig>, String> {
    let made = rcgen::generate_simple_self_signed(["sink.loadgen.test".to_owned()])
        .map_err(|e| format!("TLS: {e}"))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut provider = ring::default_provider();
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            let chain = vec![made.cert.der().clone()];
            config.with_no_client_auth().with_single_cert(chain, key.into())
        })
        .map(Arc::new)
        .map_err(|e| format!("TLS: {e}"))
}

/// A session of this config that has not begun.
pub(crate) fn server_session(config: &Arc<ServerConfig>) -> Option<Connection> {
    ServerConnection::new(Arc::clone(config)).ok().map(Connection::from)
}

/// Opens connections, all in the same way.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    mode: Mode,
    config: Arc<ClientConfig>,
}

impl Dialer {
    /// # Errors
    /// When the library cannot be set up.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let config = options.config()?;
        Ok(Self { mode: options.tls, config: Arc::new(config) })
    }

    /// A session that has said EHLO, and has made a handshake if one is due.
    pub(crate) fn hello(&self, target: SocketAddr) -> io::Result<Client> {
        match self.mode {
            Mode::None => Client::hello(target),
            Mode::Starttls => {
                let mut client = Client::hello(target)?;
                client.send(b"STARTTLS\r\n")?;
                client.expect(220)?;
                client.encrypt(|stream| self.handshake(stream))
            }
            Mode::Implicit => Client::greeted(self.handshake(connect(target)?)?),
        }
    }

    /// How connections are encrypted.
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Encrypts a connection.
    pub(crate) fn handshake(&self, mut stream: TcpStream) -> io::Result<Wire> {
        let nobody = ServerName::from(stream.peer_addr()?.ip());
        let session = ClientConnection::new(Arc::clone(&self.config), nobody);
        let mut session = session.map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let full = session.handshake_kind() == Some(HandshakeKind::Full);
        if !full || session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(io::Error::other("not a full handshake of TLS 1.3"));
        }
        Ok(Wire::Encrypted(Box::new(StreamOwned::new(session, stream))))
    }
}

/// Takes every server for the right one; the generator's CPU time is nobody's concern, but it
/// shares cores with the server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
