//! The node's way into its cluster.
//!
//! Called when the store is opened, by the engine and by its commands, and by those about the
//! keyspace. Failure: one line that names the cause; a node does not start without its cluster.

use fsmtp_cluster::bridge::{Bridge, BridgeKeeper};
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_store::NodeNumber;
use fsmtp_store::mailbox::{Embedded, wait};
use ring::digest::{SHA256, digest};

use crate::config::{ClusterSettings, Config};
use crate::run::now;

/// How the cluster is reached, with the password.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn terms(settings: &ClusterSettings) -> Result<Terms, String> {
    let login = match &settings.login {
        None => None,
        Some(login) => {
            let read = login.read().map_err(|error| format!("cluster.password_file: {error}"))?;
            let password = String::from_utf8_lossy(read.password().unwrap_or_default());
            Some((login.user.to_string(), password.into_owned()))
        }
    };
    Ok(Terms {
        contacts: settings.contacts.clone(),
        keyspace: settings.keyspace.clone(),
        replication: settings.replication.clone(),
        centre: settings.centre.clone(),
        login,
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
        });
    };
    let terms = terms(settings)?;
    let started = Bridge::start(&terms, &config.node, now);
    let (bridge, keeper) = started.map_err(|error| error.to_string())?;
    let holder = holder(&config.node, local.secret());
    let number = Cassandra::connect(&terms)
        .and_then(|cassandra| cassandra.number(&terms.keyspace, &holder))
        .map_err(|error| error.to_string())?;
    Ok(Membership {
        mailboxes: wait(NodeMailboxes::in_cluster(local, bridge)).map_err(|e| e.to_string())?,
        number: Some(number),
        bridge: Some(keeper),
    })
}

/// What the cluster knows a data folder by; tells nothing of its secret.
fn holder(node: &str, secret: &[u8; 32]) -> String {
    let digest = digest(&SHA256, &[b"fsmtp cluster node", &secret[..]].concat());
    let name: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{node} {name}")
}
