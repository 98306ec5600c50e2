//! The invariants, as far as they can be seen from outside when a run is over.
//!
//! 1. What was answered 250 is in the mailboxes of its recipients, once, byte for byte, or was
//!    deleted by them.
//! 2. What was neither acknowledged nor in doubt is nowhere; what is in doubt is there at most
//!    once.
//! 3. What was deleted does not come back.
//!
//! The clients check replies, order and splits as they go; `world.rs` checks liveness, and that a
//! seed run twice does the same.

use std::collections::BTreeMap;

use crate::ledger::{Gone, Ledger, State, token_of};
use crate::node::Delivery;

/// Looks at one message that is in a mailbox; says which one it is.
pub(crate) fn delivery(ledger: &mut Ledger, delivery: &Delivery) -> Option<usize> {
    let Delivery { account, id, bytes } = delivery;
    let entry = token_of(bytes).and_then(|token| Some((token, ledger.entries.get(token)?)));
    let Some((token, entry)) = entry else {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        ledger.violate(format!("u{account} has what nobody sent: {start:?}"));
        return None;
    };
    let mut wrong = Vec::new();
    // DATA ends a line that has no end of its own.
    let bare = bytes.strip_suffix(b"\r\n").filter(|_| entry.raw);
    let head = bytes.strip_suffix(&*entry.body);
    let head = head.or_else(|| bare?.strip_suffix(&*entry.body));
    match head {
        None => {
            let (sent, kept) = (entry.body.len(), bytes.len());
            wrong.push(format!("message {token} was changed: {sent} bytes sent, {kept} kept"));
        }
        Some(head) => {
            let text = String::from_utf8_lossy(head);
            let named = text.contains(&format!("id {id}"));
            if !text.starts_with("Return-Path: <") || !named || !text.ends_with("\r\n") {
                wrong.push(format!("message {token} has the trace header {text:?}"));
            }
        }
    }
    if entry.id.is_some_and(|told| told != *id) {
        wrong.push(format!("message {token} is stored under another id than was told"));
    }
    if !matches!(entry.state, State::Doubt | State::Acked) {
        wrong.push(format!("message {token} was delivered although {:?}", entry.state));
    }
    if !entry.accounts.contains(account) {
        wrong.push(format!("message {token} is in u{account}, which it was not for"));
    }
    if ledger.gone.get(&(*account, *id)) == Some(&Gone::Surely) {
        wrong.push(format!("message {token} of u{account} was deleted and is back"));
    }
    for what in wrong {
        ledger.violate(what);
    }
    Some(token)
}

/// Compares the mailboxes with the ledger.
pub(crate) fn audit(ledger: &mut Ledger, deliveries: &[Delivery]) {
    let mut found: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    for one in deliveries {
        if let Some(token) = delivery(ledger, one) {
            *found.entry((token, one.account)).or_default() += 1;
        }
    }
    let mut wrong = Vec::new();
    for ((token, account), count) in &found {
        if *count > 1 {
            wrong.push(format!("message {token} is {count} times in u{account}"));
        }
    }
    for (token, entry) in ledger.entries.iter().enumerate().filter(|_| !ledger.rotten) {
        let missing = |account: &&u32| {
            let gone = entry.id.is_some_and(|id| ledger.gone.contains_key(&(**account, id)));
            !gone && !found.contains_key(&(token, **account))
        };
        // A flipped bit in the last batch looks like a torn tail: see S-states in store's spool.
        if entry.state == State::Acked
            && !ledger.rotten
            && let Some(account) = entry.accounts.iter().find(missing)
        {
            wrong.push(format!("message {token} was acknowledged and is not in u{account}"));
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

    fn run(state: State, gone: Option<Gone>, deliveries: &[(u32, &str)]) -> usize {
        let mut ledger = Ledger::default();
        let token = ledger.enter(b"hello\r\n");
        let id = QueueId(7);
        ledger.entries[token].accounts = [1, 2].into();
        ledger.entries[token].state = state;
        ledger.entries[token].id = Some(id);
        ledger.gone.extend(gone.map(|gone| ((2, id), gone)));
        let body = String::from_utf8_lossy(&ledger.entries[token].body).into_owned();
        let deliveries: Vec<Delivery> = deliveries
            .iter()
            .map(|(account, tail)| {
                let text = format!("Return-Path: <>\r\nReceived: by x id {id}\r\n{body}{tail}");
                Delivery { account: *account, id, bytes: text.into_bytes() }
            })
            .collect();
        audit(&mut ledger, &deliveries);
        ledger.violations.len()
    }

    #[test]
    fn each_way_to_be_wrong_is_seen() {
        assert_eq!(run(State::Acked, None, &[(1, ""), (2, "")]), 0);
        assert_eq!(run(State::Acked, Some(Gone::Surely), &[(1, "")]), 0);
        assert_eq!(run(State::Acked, Some(Gone::Perhaps), &[(1, ""), (2, "")]), 0);
        assert_eq!(run(State::Doubt, None, &[]), 0);
        assert_eq!(run(State::Doubt, None, &[(1, "")]), 0);
        assert_eq!(run(State::Acked, None, &[(1, "")]), 1, "lost");
        assert_eq!(run(State::Acked, None, &[(1, ""), (2, ""), (2, "")]), 1, "doubled");
        assert_eq!(run(State::Acked, None, &[(1, ""), (2, "x")]), 1, "changed");
        assert_eq!(run(State::Acked, Some(Gone::Surely), &[(1, ""), (2, "")]), 1, "back");
        assert_eq!(run(State::Doubt, None, &[(3, "")]), 1, "misdirected");
        assert_eq!(run(State::Sending, None, &[(1, "")]), 1, "half there");
        assert_eq!(run(State::Refused, None, &[(1, "")]), 1, "refused and kept");
    }
}
