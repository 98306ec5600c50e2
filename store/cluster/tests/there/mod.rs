//! A Cassandra that is there, which `tests/cluster/servers.sh` starts: FSMTP_CASSANDRA names it.

use std::time::Duration;

use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::schema::Replication;

/// A keyspace of one test alone, which is not made yet; none, with a word, where there is no
/// server.
pub(crate) fn terms(name: &str) -> Option<Terms> {
    let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
        println!("skipped: FSMTP_CASSANDRA names no server");
        return None;
    };
    let terms = Terms {
        contacts: vec![server],
        keyspace: format!("fsmtp_{name}_{}", std::process::id()),
        replication: Replication::Simple(1),
        centre: None,
        login: None,
        redis: None,
        timeout: Duration::from_secs(10),
    };
    Cassandra::connect(&terms).unwrap().run(&drop_it(&terms)).unwrap();
    Some(terms)
}

pub(crate) fn drop_it(terms: &Terms) -> String {
    format!("DROP KEYSPACE IF EXISTS {}", terms.keyspace)
}
