//! What the limits of a node share with those of the other nodes of its cluster, by way of Redis.
//!
//! Asked by the thread of the bridge, each second. Names of buckets are hashed, so Redis learns no
//! addresses. Limits: those of [`Rates`]. Failure: none; where nobody asks, each node counts alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_cluster::redis::{Counts, Taken};
use ring::digest::{SHA256, digest};

use crate::rates::{HOUR_MICROS, Rates};
use crate::run::now;
use crate::signin::Gate;
use crate::strangers::Strangers;

/// The limits that are shared.
pub(crate) struct Sharing {
    gate: Arc<Gate>,
    strangers: Arc<Strangers>,
    /// What the names of the last exchange mean.
    named: Mutex<BTreeMap<String, (usize, Box<str>)>>,
}

impl Sharing {
    /// From now on these are shared.
    pub(crate) fn new(gate: Arc<Gate>, strangers: Arc<Strangers>) -> Self {
        let sharing = Self { gate, strangers, named: Mutex::default() };
        sharing.all().into_iter().for_each(|(_, rates)| rates.share());
        sharing
    }

    fn all(&self) -> [(&'static str, &Rates); 5] {
        let [address, network, sender, recipient] = self.strangers.rates();
        [("account", &self.gate.rates), address, network, sender, recipient]
    }
}

/// What a bucket is called: the same on all nodes, and nobody's address.
fn name(kind: &str, key: &str) -> String {
    let digest = digest(&SHA256, format!("{kind}\0{key}").as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Counts for Sharing {
    fn taken(&self, count_max: usize) -> Vec<Taken> {
        let (mut all, mut named) = (Vec::new(), BTreeMap::new());
        for (place, (kind, rates)) in self.all().into_iter().enumerate() {
            let left = count_max.saturating_sub(all.len());
            for (key, count) in rates.taken(left) {
                let name = name(kind, &key);
                let cost_us = rates.cost_us().saturating_mul(count.into());
                all.push(Taken { name: name.clone(), cost_us, most_us: HOUR_MICROS });
                named.insert(name, (place, key));
            }
        }
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = named;
        all
    }

    fn learn(&self, name: &str, full_at_us: u64) {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((place, key)) = named.get(name)
            && let Some((_, rates)) = self.all().get(*place)
        {
            rates.learn(key, full_at_us, now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signin::Limits;
    use crate::strangers::Terms;

    #[test]
    fn each_limit_is_shared_under_a_name_of_its_own() {
        let limits = Limits { recipients_per_hour: 10, ..Limits::default() };
        let terms = Terms { per_address: 10, per_network: 20, per_sender: 30, ..Terms::default() };
        let sharing = Sharing::new(Gate::new(&[7; 32], limits), Strangers::new(terms, &[7; 32]));
        let ip = "192.0.2.1".parse().unwrap();
        sharing.gate.rates.take("a@b.test", now()).unwrap();
        sharing.strangers.mail(ip, "a@b.test", now()).unwrap();
        let taken = sharing.taken(usize::MAX);
        let names: std::collections::BTreeSet<&str> =
            taken.iter().map(|taken| taken.name.as_str()).collect();
        assert_eq!((taken.len(), names.len()), (4, 4));
        assert!(names.iter().all(|name| name.len() == 32 && !name.contains('@')));
        // Another node has emptied the account's.
        let full = (now().ms() + 3_600_000) * 1000;
        sharing.learn(&taken[0].name, full);
        sharing.learn("whatever", full);
        assert!(sharing.gate.rates.take("a@b.test", now()).is_err());
        assert!(sharing.strangers.mail(ip, "a@b.test", now()).is_ok());
        assert!(sharing.taken(2).len() == 2 && sharing.taken(9).len() == 1);
    }
}
