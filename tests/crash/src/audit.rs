//! Takes everything out of every mailbox over POP3 and holds it against the ledger.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use wire_tests::mail::{find_mark, trace_only};
use wire_tests::{Engine, Pop};

use crate::ledger::{Account, Ledger};

/// Messages fetched with one write. Bounded, so that neither side waits for the other to read:
/// the commands of one group fit the receive window of any server.
const GROUP: usize = 32;

/// Whether the engine may be killed while the audit runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// No: any error is a failure, and what is not found is not there.
    Never,
    /// Yes: an error of the socket ends the audit, and senders are at work.
    Expected,
}

/// Audits every account of a running engine.
///
/// # Errors
/// The first thing that is not as it must be.
pub(crate) fn run(engine: &Engine, ledger: &Ledger, cut: Cut) -> Result<(), String> {
    at(engine.pop_address(), ledger, cut)
}

/// Audits every account over the POP3 server at `address`, all at the same time.
///
/// # Errors
/// As [`run`].
pub(crate) fn at(address: SocketAddr, ledger: &Ledger, cut: Cut) -> Result<(), String> {
    std::thread::scope(|scope| {
        let audits: Vec<_> = ledger
            .accounts()
            .iter()
            .enumerate()
            .map(|(index, account)| scope.spawn(move || one(address, ledger, index, account, cut)))
            .collect();
        let results: Vec<_> =
            audits.into_iter().map(|a| a.join().unwrap_or_else(|_| Err("panic".into()))).collect();
        results.into_iter().collect()
    })
}

enum Fault {
    /// The connection ended or was refused.
    Socket(io::Error),
    /// The engine broke a promise.
    Promise(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

fn one(
    address: SocketAddr,
    ledger: &Ledger,
    index: usize,
    account: &Account,
    cut: Cut,
) -> Result<(), String> {
    match empty(address, ledger, index, account) {
        Ok(()) => {
            if cut == Cut::Never {
                ledger.absent(index);
            }
            Ok(())
        }
        Err(Fault::Socket(error)) => {
            // `-ERR` where `+OK` was due is an answer, not a cut.
            let answered =
                matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData);
            if cut == Cut::Expected && !answered {
                Ok(())
            } else {
                Err(format!("{}: {error}", account.address))
            }
        }
        Err(Fault::Promise(why)) => Err(format!("{}: {why}", account.address)),
    }
}

fn empty(
    address: SocketAddr,
    ledger: &Ledger,
    index: usize,
    account: &Account,
) -> Result<(), Fault> {
    let due = ledger.due(index);
    let mut pop = Pop::login(address, &account.address, &account.password)?;
    let ids = pop.ids()?;
    let mut seen = BTreeSet::new();
    let numbers: Vec<usize> = (1..=ids.len()).collect();
    for group in numbers.chunks(GROUP) {
        let fetch: String = group.iter().map(|n| format!("RETR {n}\r\n")).collect();
        pop.send(fetch.as_bytes())?;
        for number in group {
            pop.ok()?;
            let stored = pop.lines()?;
            let id = ids.get(number - 1).map_or("", String::as_str);
            let message = judge(ledger, index, &stored, id).map_err(Fault::Promise)?;
            if !seen.insert(message) {
                return Err(Fault::Promise(format!("message {message} is there twice")));
            }
        }
        let remove: String = group.iter().map(|n| format!("DELE {n}\r\n")).collect();
        pop.send(remove.as_bytes())?;
        for _ in group {
            pop.ok()?;
        }
    }
    ledger.leaving(index, &seen);
    pop.quit()?;
    ledger.settled(index, &due, &seen).map_err(Fault::Promise)
}

/// The number of a stored message that is as it must be.
fn judge(ledger: &Ledger, account: usize, stored: &[u8], id: &str) -> Result<u64, String> {
    let (number, at) = find_mark(stored)
        .ok_or_else(|| format!("{id} has {} octets and is no message of ours", stored.len()))?;
    let (head, body) = stored.split_at(at);
    trace_only(head).map_err(|why| format!("message {number}, {id}: {why}"))?;
    let sent = ledger.content(number);
    if body != sent {
        let same = body.iter().zip(&sent).take_while(|(a, b)| a == b).count();
        return Err(format!(
            "message {number}, {id}, differs after {same} octets; {} are stored, {} were sent",
            body.len(),
            sent.len()
        ));
    }
    ledger.found(account, number, id)?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_judged_byte_for_byte() {
        let ledger = Ledger::new(6, 1);
        let order = ledger.order();
        let head = b"Return-Path: <a@b>\r\nReceived: from x by y;\r\n\tdate\r\n";
        let stored = [head.as_slice(), &order.content].concat();
        assert_eq!(judge(&ledger, 0, &stored, "id"), Ok(order.number));
        let (cut, _) = stored.split_at(stored.len() - 1);
        assert!(judge(&ledger, 0, cut, "id").is_err(), "half there");
        let mut flipped = stored.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(judge(&ledger, 0, &flipped, "id").is_err(), "one bit");
        let more = [b"X-Other: z\r\n", &*stored].concat();
        assert!(judge(&ledger, 0, &more, "id").is_err(), "something before it");
        assert!(judge(&ledger, 0, b"Subject: x\r\n\r\n", "id").is_err(), "not ours");
    }
}
