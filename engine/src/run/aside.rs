//! Shards that only take mail over, for a command while no engine runs: nothing listens, nothing is
//! sent on.
//!
//! Called by `import-cassandra`. Ends with what [`open_to_import`] gives back: shards first, then
//! the way to the cluster and the index, the lock of the folder last.

use std::sync::mpsc::channel;

use fsmtp_cluster::bridge::BridgeKeeper;
use fsmtp_store::mailbox::Keeper;

use super::{Happening, Order, Running, Store, Ways, open_store, start_shards};
use crate::admin::StoreAdmin;
use crate::admin::import::Importer;
use crate::config::Config;
use crate::control::{Admin, AdminError, AdminReply, AdminRequest};
use crate::dirlock::DirLock;
use crate::import;
use crate::log::{Level, Sink};

/// The store with its shards.
struct Aside {
    admin: StoreAdmin,
    shards: Vec<Running>,
    own: Option<(Sink, Option<BridgeKeeper>, Keeper, DirLock)>,
}

/// Opens the store for a command that takes mail over, while no engine runs on it.
///
/// # Errors
/// One line for the operator.
pub fn open_to_import(config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
    let store = open_store(config)?;
    let sink = Sink::stderr(config.log.format, Level::Error)
        .map_err(|error| format!("cannot start the log: {error}"))?;
    let door = import::Door::default();
    let ways = Ways { doors: &[], import: &door, reports: None };
    let (events, inbox) = channel();
    let shards = start_shards(config, &[], &store, &sink, (&events, None), &ways)?;
    let Store { mailboxes, keeper, bridge, .. } = store;
    let admin = StoreAdmin::online(mailboxes, &config.domain, config.store.sealing);
    let admin = admin.with_importer(Importer::new(&config.data, door));
    let aside = Aside { admin, shards, own: Some((sink, bridge, keeper, lock)) };
    for _ in &aside.shards {
        match inbox.recv() {
            Ok(Happening::Recovered) => {}
            Ok(Happening::Failed(why)) => return Err(why),
            _ => return Err("a shard has ended".to_owned()),
        }
    }
    Ok(Box::new(aside))
}

impl Admin for Aside {
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        self.admin.execute(request)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for shard in &self.shards {
            shard.orders.put(Order::Stop);
        }
        for shard in self.shards.drain(..) {
            // Why it failed was said in the log.
            let _ = shard.handle.join();
        }
        if let Some((sink, bridge, keeper, lock)) = self.own.take() {
            drop(bridge);
            // What the index did not write it reads from the shards' logs at the next start.
            let _ = keeper.close();
            sink.finish();
            drop(lock);
        }
    }
}
