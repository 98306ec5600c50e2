//! The store of many nodes: what Cassandra holds, and the way there.
//!
//! `schema` says which tables there are and why; `cassandra` speaks to the servers; `keyspace`
//! makes, upgrades and checks a keyspace; `bridge` is the thread that a node asks, `mail` what it
//! does about mail, `directory` what it does about the domains, accounts and aliases that all nodes
//! share, and `follow` keeps a node's copy of them; `relief` knows whose turn it is to send mail,
//! and `duty` keeps that true; `node` puts the node's own index and the cluster together. `redis`
//! is what nodes tell each other beside Cassandra, and `sync` brings that up to it. The crates
//! `scylla`, `redis` and `tokio` are named by these only.

pub mod bridge;
pub mod cassandra;
pub mod directory;
mod duty;
mod follow;
mod gather;
pub mod keyspace;
mod mail;
pub mod node;
pub mod original;
pub mod redis;
mod relief;
pub mod schema;
pub mod sync;
