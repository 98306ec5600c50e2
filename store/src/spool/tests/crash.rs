//! Random traffic, random crashes, random faults: the books must balance after each.

use core::time::Duration;
use std::collections::BTreeSet;

use super::*;
use crate::testing::Fate;

/// What the world outside knows: survives every crash.
#[derive(Default)]
struct Ledger {
    /// Body by id, of every message that was ever begun.
    begun: RefCell<BTreeMap<QueueId, Vec<u8>>>,
    /// Those that were answered with success.
    acknowledged: RefCell<BTreeSet<QueueId>>,
    /// Those that were deleted since.
    deleted: RefCell<BTreeSet<QueueId>>,
    bodies_count: Cell<u64>,
}

struct Boot {
    life: Life,
    plate: Rc<Plate>,
    index: Rc<Index>,
    ledger: Rc<Ledger>,
}

impl Boot {
    async fn open(&self) -> Result<Opened, StoreError> {
        let applied = self.index.now.borrow().applied;
        let (machine, disk) = (self.life.machine.clone(), self.life.disk.clone());
        Spool::open(machine, disk, small_config(), applied, self.index.clone()).await
    }

    /// Sends messages until it fails.
    fn sender(&self, spool: &Spool<Machine>) {
        let (spool, ledger) = (spool.clone(), self.ledger.clone());
        let machine = self.life.machine.clone();
        self.life.machine.spawn(Class::Session, async move {
            loop {
                let number = ledger.bodies_count.get();
                ledger.bodies_count.set(number + 1);
                let chance = machine.chance();
                let most = [200, 3000, 30_000][chance.below(3)];
                let text = body(number, chance.below(most));
                let Ok(mut incoming) = spool.incoming() else { return };
                let id = incoming.id();
                assert!(ledger.begun.borrow_mut().insert(id, text.clone()).is_none());
                for piece in text.chunks(1 + chance.below(5000)) {
                    if incoming.push(piece).await.is_err() {
                        return;
                    }
                }
                if chance.once_in(10) {
                    continue;
                }
                match incoming.commit(b"", envelope(number)).await {
                    Ok(stored) => {
                        assert_eq!((stored.id, stored.octets), (id, text.len() as u64));
                        ledger.acknowledged.borrow_mut().insert(id);
                    }
                    Err(_) => return,
                }
            }
        });
    }

    /// Persists the index, deletes messages, compacts.
    fn caretaker(&self, spool: &Spool<Machine>) {
        let (spool, index, ledger) = (spool.clone(), self.index.clone(), self.ledger.clone());
        let machine = self.life.machine.clone();
        self.life.machine.spawn(Class::Background, async move {
            loop {
                machine.sleep_until(machine.now() + Duration::from_micros(300)).await;
                let chance = machine.chance();
                if chance.once_in(3) {
                    for (at, _) in index.bodies() {
                        if !chance.once_in(4) && index.delete(at.id) {
                            ledger.deleted.borrow_mut().insert(at.id);
                        }
                    }
                    index.persist();
                }
                if chance.once_in(2) {
                    index.persist();
                }
                match spool.compact(&*index).await {
                    Ok(_) | Err(StoreError::Poisoned { .. } | StoreError::DiskLow { .. }) => {}
                    Err(StoreError::Io(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }

    /// Every message that the index knows is whole, and every acknowledged one is known.
    async fn audit(&self) {
        let deleted = self.ledger.deleted.borrow().clone();
        let mut known = BTreeSet::new();
        for (at, octets) in self.index.bodies() {
            let id = at.id;
            let text = read(&self.life.disk, at).await.unwrap_or_else(|e| panic!("{id}: {e}"));
            assert_eq!(text.len() as u64, octets);
            let sent = self.ledger.begun.borrow().get(&id) == Some(&text);
            assert!(sent, "{id} is not what was sent");
            known.insert(id);
        }
        for id in self.ledger.acknowledged.borrow().iter() {
            assert!(known.contains(id) || deleted.contains(id), "{id} was lost");
        }
        assert!(self.index.repeated.borrow().is_empty(), "indexed twice");
        assert!(known.is_disjoint(&deleted), "a deleted message came back");
    }
}

fn lives(seed: u64) -> (u64, u64) {
    let outer = Chance::new(seed);
    let plate = Plate::new();
    let index = Rc::new(Index::default());
    let ledger = Rc::new(Ledger::default());
    let mut recycled = 0;
    for number in 0..4 {
        plate.set_delay(Duration::from_micros([0, 50, 500][outer.below(3)]));
        let life = Life::new(outer.number(), &plate);
        // Later than every life before, as on any machine whose clock is right.
        life.machine.set_unix_ms(1_790_000_000_000 + number * 1_000_000);
        let boot =
            Boot { life, plate: plate.clone(), index: index.clone(), ledger: ledger.clone() };
        if outer.once_in(3) {
            let fate = [Fate::Lost, Fate::Kept, Fate::Torn][outer.below(3)];
            plate.fail_after(outer.below(100) as u64, fate);
        }
        if outer.once_in(2) {
            let fate = [Fate::Lost, Fate::Kept, Fate::Torn][outer.below(3)];
            plate.halt_after(outer.below(150) as u64, fate);
        }
        let machine = boot.life.machine.clone();
        let steps = 200 + outer.below(8000) as u64;
        machine.run_steps(steps, async {
            // A disk that fails while the log opens is a start that fails.
            let Ok((spool, _)) = boot.open().await else { return };
            boot.audit().await;
            for _ in 0..1 + machine.chance().below(6) {
                boot.sender(&spool);
            }
            boot.caretaker(&spool);
            loop {
                machine.sleep_until(machine.now() + Duration::from_millis(1)).await;
                let counters = spool.counters();
                recycled = recycled.max(counters.recycled_count);
            }
        });
        plate.lose_power(&outer);
        machine.crash();
        index.crash();
        drop(boot);
    }
    let boot = Boot { life: Life::new(1, &plate), plate, index, ledger };
    boot.life.run(async {
        let (spool, _) = boot.open().await.unwrap();
        boot.audit().await;
        boot.index.persist();
        while spool.compact(&*boot.index).await.unwrap() != Compaction::default() {}
        boot.audit().await;
        // Most of what is left is live, but for the segments around the end of the log.
        let live: u64 = boot.index.live_bytes(SHARD).await.unwrap().values().sum();
        let config = spool.config();
        let most = live * 100 / config.compact_live_percent / config.segment_bytes + 5;
        assert!(boot.plate.names().len() as u64 <= most, "{} files", boot.plate.names().len());
    });
    let acknowledged = boot.ledger.acknowledged.borrow().len() as u64;
    (acknowledged, recycled)
}

#[test]
fn whatever_happens_acknowledged_mail_is_there_once_and_whole() {
    // More of them: FSMTP_SEEDS=10000.
    let more = std::env::var("FSMTP_SEEDS").ok().and_then(|count| count.parse().ok());
    let seeds_count = more.unwrap_or(24);
    let (mut acknowledged, mut recycled) = (0, 0);
    for seed in 0..seeds_count {
        let (more, segments) = std::panic::catch_unwind(|| lives(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
        acknowledged += more;
        recycled += segments;
    }
    // The test would prove nothing if little happened in it.
    assert!(acknowledged > 30 * seeds_count, "{acknowledged} messages");
    assert!(recycled > seeds_count, "{recycled} segments");
}
