//! The invariants, as far as they can be seen from outside when a run is over.
//!
//! 1. What was answered 250 is in the mailboxes of its recipients, once, byte for byte.
//! 2. What was neither acknowledged nor in doubt is nowhere; what is in doubt is there at most once.
//!
//! The clients check replies, order and splits as they go; `world.rs` checks liveness, leaks, and
//! that a seed run twice does the same.

use std::collections::BTreeMap;

use crate::ledger::{Ledger, State, token_of};
use crate::node::Delivery;

/// Compares the mailboxes with the ledger.
pub(crate) fn audit(ledger: &mut Ledger, deliveries: &[Delivery]) {
    let mut found: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    let named = |id| ledger.entries.iter().position(|entry| entry.id == Some(id));
    for Delivery { mailbox, id, bytes } in deliveries {
        let Some(bytes) = bytes else {
            // Deleted: only the id is left, which is known when it was acknowledged.
            if let Some(token) = named(*id) {
                *found.entry((token, *mailbox)).or_default() += 1;
            }
            continue;
        };
        let entry = token_of(bytes).and_then(|token| Some((token, ledger.entries.get(token)?)));
        let Some((token, entry)) = entry else {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            wrong.push(format!("mailbox u{mailbox} has what nobody sent: {start:?}"));
            continue;
        };
        *found.entry((token, *mailbox)).or_default() += 1;
        if !bytes.ends_with(&entry.body) {
            let (sent, kept) = (entry.body.len(), bytes.len());
            wrong.push(format!("message {token} was changed: {sent} bytes sent, {kept} kept"));
        }
        if entry.id.is_some_and(|known| known != *id) {
            wrong.push(format!("message {token} is stored under another id than was told"));
        }
        if !matches!(entry.state, State::Doubt | State::Acked) {
            wrong.push(format!("message {token} was delivered although {:?}", entry.state));
        }
        if !entry.boxes.contains(mailbox) {
            wrong.push(format!("message {token} is in u{mailbox}, which it was not for"));
        }
    }
    for ((token, mailbox), count) in &found {
        if *count > 1 {
            wrong.push(format!("message {token} is {count} times in u{mailbox}"));
        }
    }
    for (token, entry) in ledger.entries.iter().enumerate() {
        let missing = |mailbox: &&u32| !found.contains_key(&(token, **mailbox));
        if entry.state == State::Acked
            && let Some(mailbox) = entry.boxes.iter().find(missing)
        {
            wrong.push(format!("message {token} was acknowledged and is not in u{mailbox}"));
        }
    }
    for what in wrong {
        ledger.violate(what);
    }
}

#[cfg(test)]
mod tests {
    use fsmtp_store::QueueId;

    use super::*;

    fn run(state: State, deliveries: &[(u32, &str)]) -> usize {
        let mut ledger = Ledger::default();
        let token = ledger.enter(b"hello\r\n");
        ledger.entries[token].boxes = [1, 2].into();
        ledger.entries[token].state = state;
        let body = String::from_utf8_lossy(&ledger.entries[token].body).into_owned();
        let deliveries: Vec<Delivery> = deliveries
            .iter()
            .map(|(mailbox, tail)| Delivery {
                mailbox: *mailbox,
                id: QueueId(7),
                bytes: Some(format!("Received: by x\r\n{body}{tail}").into_bytes().into()),
            })
            .collect();
        audit(&mut ledger, &deliveries);
        ledger.violations.len()
    }

    #[test]
    fn each_way_to_be_wrong_is_seen() {
        assert_eq!(run(State::Acked, &[(1, ""), (2, "")]), 0);
        assert_eq!(run(State::Doubt, &[]), 0);
        assert_eq!(run(State::Doubt, &[(1, "")]), 0);
        assert_eq!(run(State::Acked, &[(1, "")]), 1, "lost");
        assert_eq!(run(State::Acked, &[(1, ""), (2, ""), (2, "")]), 1, "doubled");
        assert_eq!(run(State::Acked, &[(1, ""), (2, "x")]), 1, "changed");
        assert_eq!(run(State::Doubt, &[(3, "")]), 1, "misdirected");
        assert_eq!(run(State::Sending, &[(1, "")]), 1, "half there");
        assert_eq!(run(State::Refused, &[(1, "")]), 1, "refused and kept");
    }
}
