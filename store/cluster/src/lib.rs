//! The store of many nodes: what Cassandra holds, and the way there.
//!
//! `schema` says which tables there are and why; `cassandra` speaks to the servers; `keyspace`
//! makes, upgrades and checks a keyspace. Nodes do not keep their mail here yet: what is here is
//! for operators who prepare a cluster.

pub mod cassandra;
pub mod directory;
pub mod keyspace;
pub mod schema;
