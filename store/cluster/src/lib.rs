//! The store of many nodes: what Cassandra holds, and the way there.
//!
//! `schema` says which tables there are and why; `cassandra` speaks to the servers; `keyspace`
//! makes, upgrades and checks a keyspace. Nodes do not keep their mail here yet: what is here is
//! for operators who prepare a cluster.

pub mod bridge;
pub mod cassandra;
pub mod keyspace;
mod mail;
pub mod node;
pub mod schema;
mod statements;
