//! Against a real Cassandra, which `tests/cluster/servers.sh` starts: what operators meet when they
//! make and check a keyspace. Skipped, with a word, where FSMTP_CASSANDRA names no server.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod there;

use fsmtp_cluster::cassandra::{Cassandra, ClusterError};
use fsmtp_cluster::keyspace::{KeyspaceError, Task, perform};
use fsmtp_cluster::schema::{Problem, TABLES};
use there::{drop_it, terms};

#[test]
fn a_keyspace_is_made_checked_and_mended() {
    let Some(terms) = terms("made") else { return };
    let checked = || perform(Task::Check, &terms, false).unwrap().problems;
    assert_eq!(checked(), [Problem::NoKeyspace]);
    let planned = perform(Task::Create, &terms, true).unwrap().statements;
    assert_eq!(planned.len(), TABLES.len() + 2);
    assert_eq!(checked(), [Problem::NoKeyspace], "a dry run changes nothing");
    assert_eq!(perform(Task::Create, &terms, false).unwrap().statements, planned);
    assert_eq!(checked(), []);
    for task in [Task::Create, Task::Upgrade] {
        assert_eq!(perform(task, &terms, false).unwrap().statements, Vec::<String>::new());
    }
    let cassandra = Cassandra::connect(&terms).unwrap();
    let facts = format!("{}.facts", terms.keyspace);
    let say = |version: &str| {
        let text = format!("INSERT INTO {facts} (name, value) VALUES ('schema', '{version}')");
        cassandra.run(&text).unwrap();
    };
    say("9");
    assert_eq!(checked(), [Problem::Newer(9)]);
    for task in [Task::Create, Task::Upgrade] {
        let refused = perform(task, &terms, false);
        assert_eq!(refused, Err(KeyspaceError::Problem(Problem::Newer(9))));
    }
    say("0");
    assert_eq!(checked(), [Problem::Older(0)]);
    assert_eq!(perform(Task::Upgrade, &terms, false).unwrap().statements.len(), 1);
    cassandra.run(&format!("DROP TABLE {}.bodies", terms.keyspace)).unwrap();
    assert_eq!(checked(), [Problem::NoTable("bodies")]);
    assert_eq!(perform(Task::Create, &terms, false).unwrap().statements.len(), 1);
    assert_eq!(checked(), []);
    cassandra.run(&drop_it(&terms)).unwrap();
}

#[test]
fn half_of_the_contacts_may_be_dead() {
    let Some(mut terms) = terms("dead") else { return };
    terms.contacts.insert(0, "127.0.0.1:1".to_owned());
    assert!(Cassandra::connect(&terms).is_ok());
    terms.contacts.truncate(1);
    let refused = Cassandra::connect(&terms).unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, ClusterError::Connect { .. }), "{said}");
    assert!(said.contains("127.0.0.1:1") && !said.contains('\n'), "{said}");
}

#[test]
fn what_is_refused_is_said_in_a_line() {
    let Some(terms) = terms("refused") else { return };
    let cassandra = Cassandra::connect(&terms).unwrap();
    let refused = cassandra.run("SELECT nothing").unwrap_err();
    assert!(matches!(refused, ClusterError::Refused(_)), "{refused:?}");
    assert!(!refused.to_string().contains('\n'), "{refused}");
}
