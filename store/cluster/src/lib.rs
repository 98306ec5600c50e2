//! The store of many nodes: what Cassandra holds, and the way there.
//!
//! `schema` says which tables there are and why; `cassandra` speaks to the servers; `keyspace`
//! makes, upgrades and checks a keyspace; `directory` has the domains, accounts and aliases that
//! all nodes share. Nodes do not keep their mail here yet.

pub mod cassandra;
pub mod directory;
pub mod keyspace;
pub mod schema;
