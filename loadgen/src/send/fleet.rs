//! The cores of this host: an executor for each, and the channel that their figures come through.
//!
//! `mod.rs` launches it for a run, and `agent/` for its share of a run on several hosts: then the
//! cores are numbered over all hosts, and each takes its part of schedule, connections and
//! mailboxes as if all were here.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use fsmtp_rt::glommio::{GlommioRuntime, ShardHandle, ShardOptions, processors, start_shard};
use fsmtp_rt::helpers::Helpers;

use super::exchange::{News, Return, SPARES, Seat};
use super::executor::{self, Shared};
use super::measure::CoreUse;
use super::plan::Plan;
use super::{Set, thread_cpu};
use crate::process::raise_open_files;

/// Descriptors of a core beside its connections.
const CORE_DESCRIPTORS: usize = 32;

/// The cores that are here, among those of all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) first: u32,
    /// Of all hosts.
    pub(crate) cores: u32,
}

/// Cores at work.
pub(crate) struct Fleet {
    pub(crate) news: Receiver<News>,
    pub(crate) returns: Vec<Option<Return>>,
    shards: Vec<ShardHandle>,
    first: u32,
}

impl Fleet {
    /// Starts as many cores as the plan has for each host.
    ///
    /// # Errors
    /// When the system refuses threads, rings or descriptors.
    pub(crate) fn launch(plan: &Plan, set: &Set, share: Share) -> Result<Self, String> {
        let options = &plan.options;
        let cores = options.cores;
        raise_open_files(options.connections as usize + cores as usize * CORE_DESCRIPTORS)?;
        let helpers = Helpers::new("loadgen-helper", 1).map_err(|e| e.to_string())?;
        let shared = Shared {
            plan: Arc::new(plan.clone()),
            templates: Arc::clone(&set.templates),
            stop: Arc::clone(&set.stop),
            run: set.run,
            cores: share.cores,
            ledger: set.ledger.clone(),
        };
        // Room for every piece that can exist, so that no core waits.
        let (sender, news) = sync_channel(cores as usize * (SPARES + 1));
        let (mut shards, mut returns) = (Vec::new(), Vec::new());
        for core in 0..cores {
            let (seat, back) = Seat::new(sender.clone(), options.interval);
            shards.push(start(core, share.first + core, &helpers, shared.clone(), seat)?);
            returns.push(Some(back));
        }
        Ok(Self { news, returns, shards, first: share.first })
    }

    /// The way back to a core, by its number among all.
    pub(crate) fn seat_of(&self, source: u32) -> Option<&Return> {
        let here = source.checked_sub(self.first)?;
        self.returns.get(here as usize)?.as_ref()
    }

    /// Waits for the cores, which have sent their last piece.
    ///
    /// # Errors
    /// When one has failed.
    pub(crate) fn join(self) -> Result<(), String> {
        self.shards.into_iter().try_for_each(|shard| shard.join().map_err(|e| e.to_string()))
    }
}

fn start(
    core: u32,
    number: u32,
    helpers: &Helpers,
    shared: Shared,
    seat: Seat,
) -> Result<ShardHandle, String> {
    // The last processors first: a server beside us most likely has the first ones.
    let cpu = shared.plan.options.pin.then(processors);
    let cpu = cpu.and_then(|all| all.iter().rev().nth(core as usize % all.len().max(1)).copied());
    let options = ShardOptions {
        name: format!("loadgen-{core}"),
        cpu,
        stall_after: None,
        helpers: helpers.clone(),
    };
    let main = move |rt: GlommioRuntime| async move {
        let (begun, before, full) = (Instant::now(), thread_cpu(), seat.full.clone());
        let news = match executor::run(rt, number, shared, Some(seat)).await {
            Ok(mut piece) => {
                let cpu = thread_cpu().saturating_sub(before);
                let share = cpu.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-9);
                piece.measures.cores.push(CoreUse { host: 0, core, cpu, share });
                News::Last(Box::new(piece))
            }
            Err(why) => News::Failed { sources: number..number + 1, why },
        };
        // Somebody waits for it.
        let _ = full.send(news);
    };
    start_shard(options, main).map_err(|e| e.to_string())
}
