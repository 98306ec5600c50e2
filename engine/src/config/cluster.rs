//! The section about the cluster.

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fsmtp_cluster::schema::Replication;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::file::File;
use crate::relay::routes::Login;

/// The most contacts; arbitrary, the others are found by them.
const CONTACTS_MAX: usize = 32;
/// The most copies; arbitrary.
const COPIES_MAX: u8 = 9;
/// The longest name of a keyspace: Cassandra's limit.
const KEYSPACE_BYTES_MAX: usize = 48;

/// A Cassandra or ScyllaDB, which holds the mailboxes and the directory of many nodes;
/// `fsmtp-engine store create` makes the keyspace. See docs/cassandra.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Cluster {
    /// Some of its servers, like `10.0.0.1:9042`; the others are found by them. When empty there is
    /// no cluster.
    pub(super) contacts: Vec<String>,
    /// The keyspace.
    pub(super) keyspace: String,
    /// How many copies of everything there are, when the keyspace is made; for one data centre.
    #[schemars(range(min = 1, max = 9))]
    pub(super) copies: u8,
    /// The same for several: `{ east = 3, west = 3 }`.
    pub(super) copies_in: BTreeMap<String, u8>,
    /// The data centre of this node. When absent: any server is as near as another.
    pub(super) centre: Option<String>,
    /// The name to sign in with.
    pub(super) user: Option<String>,
    /// The file with the password: its first line, which nobody else may read (mode 600).
    pub(super) password_file: Option<String>,
    /// How long connecting to a server and each statement may take, in seconds.
    #[schemars(range(min = 1, max = 60))]
    pub(super) timeout_s: u32,
    /// The file with a secret that all nodes share: 32 characters or more, for its owner only (mode
    /// 600). With it outgoing mail that waits has a copy in the cluster, sealed under the secret,
    /// and other nodes send it when its node is gone. When absent it lies on its node only.
    pub(super) secret_file: Option<String>,
    /// How long others wait for a sign of a node until they send its mail, in seconds.
    #[schemars(range(min = 15, max = 3600))]
    pub(super) takeover_s: u32,
    /// A Redis (6 or newer) that makes it quicker, and may vanish: nodes hear of changes at once,
    /// and count together what hosts and accounts have sent. Its address, like `10.0.0.1:6379`; of
    /// several the first one that answers is used. When empty there is none.
    pub(super) redis: Vec<String>,
    /// The name to sign in with there.
    pub(super) redis_user: Option<String>,
    /// The file with the password: its first line, which nobody else may read (mode 600).
    pub(super) redis_password_file: Option<String>,
    /// How long connecting to it and each answer may take, in milliseconds.
    #[schemars(range(min = 10, max = 10_000))]
    pub(super) redis_timeout_ms: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            contacts: Vec::new(),
            keyspace: "fsmtp".to_owned(),
            copies: 3,
            copies_in: BTreeMap::new(),
            centre: None,
            user: None,
            password_file: None,
            timeout_s: 5,
            secret_file: None,
            takeover_s: 60,
            redis: Vec::new(),
            redis_user: None,
            redis_password_file: None,
            redis_timeout_ms: 200,
        }
    }
}

/// How the cluster is reached; its password is not read yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Some of its servers.
    pub contacts: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// How it is replicated, when it is made.
    pub replication: Replication,
    /// The data centre of this node.
    pub centre: Option<String>,
    /// Name, and where the password stands.
    pub login: Option<Login>,
    /// How long connecting and each statement may take.
    pub timeout: Duration,
    /// Where the secret stands that all nodes share.
    pub secret_file: Option<PathBuf>,
    /// How long others wait for a sign of a node.
    pub takeover: Duration,
    /// The Redis beside it; its password is not read yet.
    pub redis: Option<RedisSettings>,
}

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub contacts: Vec<String>,
    /// Name, and where the password stands.
    pub login: Option<Login>,
    /// How long connecting and each answer may take.
    pub timeout: Duration,
}

/// Whether Cassandra takes it for a name without quotes.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(is_plain)
}

/// Checks the section; none when there is no cluster.
pub(super) fn check(checker: &mut Checker<'_>, file: &File) -> Option<Settings> {
    let raw = &file.cluster;
    if raw.contacts.is_empty() {
        return None;
    }
    contacts(checker, &["cluster", "contacts"], &raw.contacts);
    contacts(checker, &["cluster", "redis"], &raw.redis);
    if !is_name(&raw.keyspace) || raw.keyspace.len() > KEYSPACE_BYTES_MAX {
        let what = format!(
            "`{}` is no name of lower-case letters, digits and _, {KEYSPACE_BYTES_MAX} at most",
            raw.keyspace
        );
        checker.problem(&["cluster", "keyspace"], what);
    }
    let is_centre = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    for (centre, copies) in &raw.copies_in {
        if !is_centre(centre) || !(1..=COPIES_MAX).contains(copies) {
            let what = format!("`{centre} = {copies}` is no data centre with 1 to {COPIES_MAX}");
            checker.problem(&["cluster", "copies_in"], what);
        }
    }
    if raw.copies_in.len() > 1 && raw.secret_file.is_some() {
        // What one centre has written another one may not see yet.
        let what = "nodes stand in for each other within one data centre only";
        checker.problem(&["cluster", "secret_file"], what);
    }
    let redis = redis(checker, raw);
    let login = login(checker, ["user", "password_file"], (&raw.user, &raw.password_file));
    Some(Settings {
        contacts: raw.contacts.clone(),
        keyspace: raw.keyspace.clone(),
        replication: if raw.copies_in.is_empty() {
            Replication::Simple(raw.copies)
        } else {
            Replication::ByCentre(raw.copies_in.clone())
        },
        centre: raw.centre.clone(),
        login,
        timeout: Duration::from_secs(raw.timeout_s.into()),
        secret_file: raw.secret_file.as_ref().map(PathBuf::from),
        takeover: Duration::from_secs(raw.takeover_s.into()),
        redis,
    })
}

fn redis(checker: &mut Checker<'_>, raw: &Cluster) -> Option<RedisSettings> {
    let pair = (&raw.redis_user, &raw.redis_password_file);
    let login = login(checker, ["redis_user", "redis_password_file"], pair);
    (!raw.redis.is_empty()).then(|| RedisSettings {
        contacts: raw.redis.clone(),
        login,
        timeout: Duration::from_millis(raw.redis_timeout_ms.into()),
    })
}

fn contacts(checker: &mut Checker<'_>, at: &[&str], all: &[String]) {
    if all.len() > CONTACTS_MAX {
        checker.problem(at, format!("has over {CONTACTS_MAX} servers"));
    }
    for contact in all {
        let port = contact.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            let what = format!("`{contact}` is not a host and a port, like 10.0.0.1:9042");
            checker.problem(at, what);
        }
    }
}

/// A name, and where its password stands.
fn login(
    checker: &mut Checker<'_>,
    [user_key, file_key]: [&str; 2],
    pair: (&Option<String>, &Option<String>),
) -> Option<Login> {
    match pair {
        (Some(user), Some(file)) => match Login::new(user, Path::new(file)) {
            Ok(login) => Some(login),
            Err(error) => {
                checker.problem(&["cluster", user_key], error.to_string());
                None
            }
        },
        (None, None) => None,
        _ => {
            let what = format!("`{user_key}` and `{file_key}` stand together or not at all");
            checker.problem(&["cluster"], what);
            None
        }
    }
}
