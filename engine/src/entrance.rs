//! What stands at each listener, made once for all shards: limits, certificates, ticket keys.
//!
//! Called by `run.rs` before the shards start, so that a certificate that cannot be used ends a
//! start with one line; each shard then makes its [`Door`]s of it.

use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::access::{Access, TlsMode as Mode};
use fsmtp_proto::sasl::{Mechanism, Mechanisms};
use fsmtp_proto::{pop3, smtp};

use crate::accept::{Door, Service};
use crate::admit::{Admission, Limits};
use crate::config::{Config, Listener, Protocol, TlsMode};
use crate::run::now;
use crate::tls::{Acceptor, Certs, TlsError, self_signed};

/// Where `--dev` keeps the certificate that signs itself, in the data folder.
pub(crate) const TLS_FOLDER: &str = "tls";

/// A listener's part of what shards share.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) listener: Listener,
    pub(crate) admission: Arc<Admission>,
    acceptor: Option<Acceptor>,
}

/// The certificates that the configuration names; none when nothing is encrypted.
///
/// # Errors
/// The first thing that is wrong with one of them.
pub(crate) fn certificates(config: &Config) -> Result<Option<Certs>, TlsError> {
    if config.listeners.iter().all(|listener| listener.tls == TlsMode::None) {
        return Ok(None);
    }
    let mut pairs = config.certificates.clone();
    if pairs.is_empty() && config.dev.is_some() {
        let names = [config.node.clone(), "localhost".to_owned()];
        pairs.push(self_signed(&config.data.join(TLS_FOLDER), &names)?);
    }
    let certs = Certs::load(&pairs, now())?;
    match &config.client_ca {
        Some(file) => certs.with_client_ca(file).map(Some),
        None => Ok(Some(certs)),
    }
}

/// All entrances, in the order of the listeners.
///
/// # Errors
/// When keys for tickets cannot be made.
pub(crate) fn entrances(config: &Config, certs: Option<&Certs>) -> Result<Vec<Entrance>, TlsError> {
    let entrance = |listener: &Listener| {
        let certs = certs.filter(|_| listener.tls != TlsMode::None);
        Ok(Entrance {
            listener: *listener,
            admission: admission(listener),
            acceptor: certs.map(|certs| acceptor(listener, certs)).transpose()?,
        })
    };
    config.listeners.iter().map(entrance).collect()
}

/// Clients are asked for a certificate where they submit mail. Where they fetch it one would not
/// help: it does not open a sealed mailbox.
fn acceptor(listener: &Listener, certs: &Certs) -> Result<Acceptor, TlsError> {
    match listener.protocol {
        Protocol::Submission => Acceptor::asking(certs),
        Protocol::Smtp | Protocol::Pop3 => Acceptor::new(certs),
    }
}

fn admission(listener: &Listener) -> Arc<Admission> {
    let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
    Admission::new(Limits {
        connections_max: count(listener.connections_max),
        connections_per_address_max: count(listener.connections_per_address_max),
    })
}

impl Entrance {
    /// The door of one shard.
    ///
    /// # Errors
    /// When the configuration cannot be spoken of in a greeting.
    pub(crate) fn door(&self, config: &Config) -> Result<Door, String> {
        let service = match self.listener.protocol {
            Protocol::Smtp | Protocol::Submission => {
                Service::Smtp(Rc::new(self.smtp(config)?), self.listener.durability)
            }
            Protocol::Pop3 => Service::Pop3(Rc::new(pop3::Settings {
                node: config.node.as_str().into(),
                idle: config.pop3.idle_timeout,
                access: self.access(config),
            })),
        };
        let implicit = self.listener.tls == TlsMode::Implicit;
        Ok(Door { service, tls: self.acceptor.clone(), implicit })
    }

    fn smtp(&self, config: &Config) -> Result<smtp::server::Settings, String> {
        let limits = smtp::server::Limits {
            message_bytes_max: config.smtp.size_bytes_max,
            recipients_max: u16::try_from(config.smtp.recipients_max).unwrap_or(u16::MAX),
            command_timeout: config.smtp.command_timeout,
            data_timeout: config.smtp.data_timeout,
            ..smtp::server::Limits::default()
        };
        smtp::server::Settings::new(&config.node, limits)
            .and_then(|settings| settings.with_access(self.access(config)))
            .map_err(|e| e.to_string())
    }

    /// Users sign in where they fetch and submit mail, never where strangers bring it.
    fn access(&self, config: &Config) -> Access {
        let users = self.listener.protocol != Protocol::Smtp;
        let mut mechanisms = match config.scram {
            true => Mechanisms::PASSWORD,
            false => Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login),
        };
        if self.listener.protocol == Protocol::Submission && config.client_ca.is_some() {
            mechanisms = mechanisms.with(Mechanism::External);
        }
        Access {
            tls: match self.listener.tls {
                TlsMode::None => Mode::None,
                TlsMode::Starttls => Mode::StartTls,
                TlsMode::Implicit => Mode::Implicit,
            },
            mechanisms: if users { mechanisms } else { Mechanisms::NONE },
            submission: self.listener.protocol == Protocol::Submission,
            // What travels on loopback is seen by this machine only.
            clear_auth_allowed: self.listener.address.ip().is_loopback(),
        }
    }
}
