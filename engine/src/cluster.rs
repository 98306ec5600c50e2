//! The node's way into its cluster.
//!
//! Called when the store is opened, by the engine and by its commands, and by those about the
//! keyspace. Failure: one line that names the cause. A node that has been in its cluster before
//! starts without it, with what it remembers: its number ([`MEMBER_FILE`]) and the directory.

use core::time::Duration;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use fsmtp_cluster::bridge::{Bridge, BridgeKeeper, Copy};
use fsmtp_cluster::cassandra::{Cassandra, ClusterError, Terms};
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_cluster::redis::RedisTerms;
use fsmtp_store::NodeNumber;
use fsmtp_store::mailbox::Embedded;
use ring::digest::{Context, SHA256, digest};
use zeroize::Zeroizing;

use crate::config::{ClusterSettings, Config};
use crate::keyfile;
use crate::relay::routes::Login;
use crate::run::now;

/// The file in the data folder: the node's number, and the keyspace that it is from.
const MEMBER_FILE: &str = "cluster";
/// The shortest secret: as hex digits, 128 bits.
const SECRET_BYTES_MIN: usize = 32;

/// How the cluster is reached, with the password.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn terms(settings: &ClusterSettings) -> Result<Terms, String> {
    let read = |login: &Login, key: &str| {
        let read = login.read().map_err(|error| format!("{key}: {error}"))?;
        let password = String::from_utf8_lossy(read.password().unwrap_or_default());
        Ok::<_, String>((login.user.to_string(), password.into_owned()))
    };
    let login = settings.login.as_ref();
    let login = login.map(|login| read(login, "cluster.password_file")).transpose()?;
    let redis = settings.redis.as_ref().map(|redis| {
        let login = redis.login.as_ref();
        let login = login.map(|login| read(login, "cluster.redis_password_file")).transpose()?;
        Ok::<_, String>(RedisTerms {
            contacts: redis.contacts.clone(),
            login,
            timeout: redis.timeout,
        })
    });
    let redis = redis.transpose()?;
    Ok(Terms {
        contacts: settings.contacts.clone(),
        keyspace: settings.keyspace.clone(),
        replication: settings.replication.clone(),
        centre: settings.centre.clone(),
        login,
        redis,
        timeout: settings.timeout,
    })
}

/// What a node has of its cluster; nothing when it is alone.
pub(crate) struct Membership {
    pub(crate) mailboxes: NodeMailboxes,
    /// What the names that it gives out end in.
    pub(crate) number: Option<NodeNumber>,
    /// Keeps the way there.
    pub(crate) bridge: Option<BridgeKeeper>,
    /// Who the node is to others, and what seals its outgoing mail for them, where that has copies.
    pub(crate) succession: Option<Succession>,
}

/// What makes a node's outgoing mail one that others can send.
#[derive(Clone)]
pub(crate) struct Succession {
    /// Made of what all nodes share.
    pub(crate) secret: Zeroizing<[u8; 32]>,
    /// What its leases are held by.
    pub(crate) holder: String,
    /// How long others wait for a sign of it.
    pub(crate) patience: Duration,
}

/// The mailboxes of a node whose own index this is.
///
/// # Errors
/// When the cluster cannot be reached, or its keyspace is none for this program.
pub(crate) fn join(config: &Config, local: Embedded) -> Result<Membership, String> {
    let Some(settings) = &config.cluster else {
        return Ok(Membership {
            mailboxes: NodeMailboxes::alone(local),
            number: None,
            bridge: None,
            succession: None,
        });
    };
    let terms = terms(settings)?;
    let secret = settings.secret_file.as_deref().map(secret).transpose()?;
    let file = config.data.join(MEMBER_FILE);
    let member = Member::read(&file, &terms.keyspace)?;
    let copy = Copy { local: local.clone(), is_patient: member.is_some() };
    let started = Bridge::start(&terms, &config.node, now, Some(copy));
    let (bridge, keeper) = started.map_err(|error| error.to_string())?;
    let holder = holder(&config.node, local.secret());
    let number =
        Cassandra::connect(&terms).and_then(|cassandra| cassandra.number(&terms.keyspace, &holder));
    let number = match (number, member) {
        (Ok(number), _) => number,
        (Err(ClusterError::Refused(why)), _) => return Err(why),
        (Err(_), Some(member)) => member.number,
        (Err(error), None) => return Err(error.to_string()),
    };
    Member { keyspace: terms.keyspace, number }.write(&file)?;
    let patience = settings.takeover;
    let succession = secret.map(|secret| Succession { secret, holder, patience });
    Ok(Membership {
        mailboxes: NodeMailboxes::in_cluster(local, bridge),
        number: Some(number),
        bridge: Some(keeper),
        succession,
    })
}

/// What a file's secret comes to.
///
/// # Errors
/// When it cannot be read, or is too short.
pub(crate) fn secret(file: &Path) -> Result<Zeroizing<[u8; 32]>, String> {
    let at = |why: &dyn core::fmt::Display| format!("cluster.secret_file: {why}");
    let text = keyfile::read(file).map_err(|error| at(&error))?;
    let text = text.trim_ascii();
    if text.len() < SECRET_BYTES_MIN {
        let why = format!("{}: it has under {SECRET_BYTES_MIN} characters", file.display());
        return Err(at(&why));
    }
    let mut context = Context::new(&SHA256);
    context.update(b"fsmtp cluster secret");
    context.update(text);
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(context.finish().as_ref());
    Ok(secret)
}

/// What a data folder knows of the cluster that it is in, so that the node starts without it.
struct Member {
    keyspace: String,
    number: NodeNumber,
}

impl Member {
    /// None when it was never in this one.
    fn read(file: &Path, keyspace: &str) -> Result<Option<Self>, String> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        let odd = || format!("{}: it cannot be read as it was written", file.display());
        let (number, name) = text.trim_end().split_once(' ').ok_or_else(odd)?;
        let number = number.parse().ok().and_then(NodeNumber::new).ok_or_else(odd)?;
        Ok((name == keyspace).then(|| Self { keyspace: name.to_owned(), number }))
    }

    /// In place of what was there, whole or not at all.
    fn write(&self, file: &Path) -> Result<(), String> {
        let next = file.with_extension("next");
        let text = format!("{} {}\n", self.number.get(), self.keyspace);
        let write = || {
            let mut written = File::create(&next)?;
            written.write_all(text.as_bytes())?;
            written.sync_all()?;
            fs::rename(&next, file)
        };
        write().map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// What the cluster knows a data folder by; tells nothing of its secret.
fn holder(node: &str, secret: &[u8; 32]) -> String {
    let digest = digest(&SHA256, &[b"fsmtp cluster node", &secret[..]].concat());
    let name: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{node} {name}")
}
