//! The store of many nodes: what Cassandra holds, and the way there.
//!
//! `schema` says which tables there are and why; `cassandra` speaks to the servers; `keyspace`
//! makes, upgrades and checks a keyspace. `bridge` is a node's way to its mail there, `mail` the
//! statements that it sends. Nodes do not keep their mail here yet.

pub mod bridge;
pub mod cassandra;
pub mod keyspace;
mod mail;
pub mod schema;
