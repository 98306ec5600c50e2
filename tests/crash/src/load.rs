//! One sender: transactions in all the ways there are, until the connection is cut.

use std::io;
use std::net::SocketAddr;

use wire_tests::mail::{Rng, stuffed};
use wire_tests::{Reply, Smtp};

use crate::ledger::{Ledger, Order};

/// How a transaction is put on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// Each command waits for its reply.
    Commands,
    /// The envelope and DATA in one write.
    Pipelined,
    /// Everything in one write, the message in two chunks (RFC 3030).
    Chunks,
}

/// How a transaction ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The first refusal, or else the last reply.
    pub(crate) reply: Reply,
    /// The accounts whose RCPT was taken.
    pub(crate) taken: Vec<usize>,
}

/// Sends until the engine dies, which is how it should end; anything else is entered as wrong.
pub(crate) fn send_until_cut(address: SocketAddr, ledger: &Ledger, sender: u32) {
    let mut rng = Rng::new(u64::from(sender));
    loop {
        let ended = Smtp::hello(address).and_then(|mut smtp| {
            for _ in 0..1 + rng.below(50) {
                one(&mut smtp, ledger, &mut rng)?;
            }
            smtp.command("QUIT").map(|_| ())
        });
        if let Err(error) = ended {
            // A connection that is refused or cut is the kill. What the engine said is not.
            if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData) {
                ledger.wrong(error.to_string());
            }
            return;
        }
    }
}

fn one(smtp: &mut Smtp, ledger: &Ledger, rng: &mut Rng) -> io::Result<()> {
    let order = ledger.order();
    let how = match rng.below(3) {
        0 => How::Commands,
        1 => How::Pipelined,
        _ => How::Chunks,
    };
    let outcome = transact(smtp, ledger, &order, how)?;
    enter(ledger, &order, &outcome)?;
    if outcome.reply.code != 250 && smtp.command("RSET")?.code != 250 {
        return Err(io::Error::other("out of step after a refusal"));
    }
    Ok(())
}

/// Sends `order` command by command and enters how that ended.
///
/// # Errors
/// Those of the socket, and `Other` for a reply that has no place here.
pub(crate) fn send(smtp: &mut Smtp, ledger: &Ledger, order: &Order) -> io::Result<Outcome> {
    let outcome = transact(smtp, ledger, order, How::Commands)?;
    enter(ledger, order, &outcome)?;
    Ok(outcome)
}

fn enter(ledger: &Ledger, order: &Order, outcome: &Outcome) -> io::Result<()> {
    match (outcome.reply.code, outcome.reply.queue_id()) {
        (250, Some(id)) => ledger.acknowledged(order, &outcome.taken, id),
        (451 | 452, _) => ledger.refused(order),
        _ => {
            return Err(io::Error::other(format!("message {}: {:?}", order.number, outcome.reply)));
        }
    }
    Ok(())
}

fn transact(smtp: &mut Smtp, ledger: &Ledger, order: &Order, how: How) -> io::Result<Outcome> {
    let mut taken = Vec::new();
    let mut envelope = vec!["MAIL FROM:<sender@sender.test>\r\n".to_owned()];
    for account in &order.to {
        let address = ledger.accounts().get(*account).map_or("", |a| a.address.as_str());
        envelope.push(format!("RCPT TO:<{address}>\r\n"));
    }
    let (first, last) = order.content.split_at(order.content.len() / 3);
    match how {
        How::Commands => {}
        How::Pipelined => smtp.send(format!("{}DATA\r\n", envelope.concat()).as_bytes())?,
        How::Chunks => {
            let mut wire = format!("{}BDAT {}\r\n", envelope.concat(), first.len()).into_bytes();
            wire.extend_from_slice(first);
            wire.extend_from_slice(format!("BDAT {} LAST\r\n", last.len()).as_bytes());
            wire.extend_from_slice(last);
            smtp.send(&wire)?;
        }
    }
    let mut refusal = None;
    for (index, line) in envelope.iter().enumerate() {
        if how == How::Commands {
            smtp.send(line.as_bytes())?;
        }
        let reply = smtp.reply()?;
        match index.checked_sub(1).and_then(|i| order.to.get(i)) {
            _ if reply.code >= 400 => refusal = refusal.or(Some(reply)),
            Some(account) => taken.push(*account),
            None => {}
        }
    }
    let reply = match how {
        How::Chunks => {
            let begun = smtp.reply()?;
            let ended = smtp.reply()?;
            if begun.code >= 400 { begun } else { ended }
        }
        How::Commands if refusal.is_some() => Reply::default(),
        How::Commands | How::Pipelined => {
            if how == How::Commands {
                smtp.send(b"DATA\r\n")?;
            }
            let ready = smtp.reply()?;
            if ready.code == 354 {
                smtp.send(&stuffed(&order.content))?;
                smtp.reply()?
            } else {
                ready
            }
        }
    };
    // What the last reply says holds for the recipients that were taken, if any were.
    let reply = if reply.code == 250 { reply } else { refusal.unwrap_or(reply) };
    Ok(Outcome { reply, taken })
}
