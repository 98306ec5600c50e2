//! Clients that fetch mail in a loop: how many sessions a server gives, and what one costs it.
//!
//! Called by `main`. A session is: connect, USER, PASS, UIDL, some RETR, QUIT, each command after
//! the answer to the one before. Before anything is measured each account is looked at once, which
//! learns the sizes that LIST gives; so first sign-ins and indexes that a server makes at first
//! sight are not in the figures. Every message is counted to its end and must have the octets of
//! LIST. One thread per client; a maildrop is open once at a time, so no two clients share an
//! account.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::maildrop::Pop;
use crate::process::raise_open_files;
use crate::target::Target;
use crate::tree::Tree;

/// Where two sessions of an account begin in its maildrop is this many messages apart; a prime, so
/// that sessions touch different messages.
const STRIDE: u64 = 389;

/// What to fetch, and where.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) at: Target,
    /// A process of the server on this machine; its descendants count with it. More than one may
    /// be given.
    #[arg(long)]
    pid: Vec<u32>,
    /// Clients at the same time.
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// Accounts, named u0, u1 and so on; at least one for each client.
    #[arg(long, default_value_t = 16)]
    accounts: u64,
    /// What stands behind the @ of each account.
    #[arg(long, default_value = "example.test")]
    domain: String,
    /// The password of all of them.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Sessions in all.
    #[arg(long, default_value_t = 1_000)]
    sessions: u64,
    /// Messages that a session fetches.
    #[arg(long, default_value_t = 20)]
    retrieve: u64,
}

/// Does them all.
///
/// # Errors
/// What failed, in a sentence: the first session's, and how many failed.
pub(crate) fn run(plan: &Plan, target: SocketAddr) -> Result<Vec<String>, String> {
    if plan.clients == 0 || plan.sessions == 0 || plan.accounts < plan.clients {
        return Err("at least one client and session, and an account for each client".to_owned());
    }
    raise_open_files(usize::try_from(plan.clients).unwrap_or(usize::MAX))?;
    let tree = Tree::new(&plan.pid);
    let cpu_before = tree.cpu()?;
    let mut sizes = Vec::new();
    for number in 0..plan.accounts {
        let account = account(plan, number);
        let there = look(plan, target, &account).map_err(|e| format!("{account}: {e}"))?;
        if (there.len() as u64) < plan.retrieve {
            return Err(format!("{account} has {} messages only", there.len()));
        }
        sizes.push(there);
    }
    let cpu_looked = tree.cpu()?;
    let taken = AtomicU64::new(0);
    let begun = Instant::now();
    let results: Vec<Tally> = std::thread::scope(|scope| {
        let (sizes, taken) = (&sizes, &taken);
        let one = |client| scope.spawn(move || client_loop((plan, target), client, sizes, taken));
        let all: Vec<_> = (0..plan.clients).map(one).collect();
        all.into_iter().map(|t| t.join().unwrap_or_else(|_| Tally::panicked())).collect()
    });
    let took = begun.elapsed().as_secs_f64();
    let spent = tree.cpu()?.saturating_sub(cpu_looked);
    let failures: u64 = results.iter().map(|tally| tally.failures).sum();
    if let Some(first) = results.iter().find_map(|tally| tally.first.as_deref()) {
        return Err(format!("{failures} of {} sessions failed, the first: {first}", plan.sessions));
    }
    let octets: u64 = results.iter().map(|tally| tally.octets).sum();
    let mut figures = vec![
        format!("sessions {} complete", plan.sessions),
        format!("octets {octets} of messages"),
        format!("rate {:.1} 1/s", plan.sessions as f64 / took),
    ];
    if !plan.pid.is_empty() {
        let looking = cpu_looked.saturating_sub(cpu_before).as_secs_f64();
        figures.push(format!("server_cpu_first {:.3} ms/account", each(looking, plan.accounts)));
        let spent = spent.as_secs_f64();
        figures.push(format!("server_cpu {:.3} ms/session", each(spent, plan.sessions)));
    }
    Ok(figures)
}

/// Milliseconds for each.
fn each(seconds: f64, count: u64) -> f64 {
    seconds * 1e3 / count.max(1) as f64
}

fn account(plan: &Plan, number: u64) -> String {
    format!("u{number}@{}", plan.domain)
}

/// What one client did.
#[derive(Debug, Default)]
struct Tally {
    octets: u64,
    failures: u64,
    first: Option<String>,
}

impl Tally {
    fn panicked() -> Self {
        Self { failures: 1, first: Some("a panic".to_owned()), ..Self::default() }
    }
}

fn client_loop(
    (plan, target): (&Plan, SocketAddr),
    client: u64,
    sizes: &[Vec<u64>],
    taken: &AtomicU64,
) -> Tally {
    let mut tally = Tally::default();
    // Accounts client, client + clients, ..: no other client ever has one of them.
    let own: Vec<u64> = (client..plan.accounts).step_by(plan.clients.max(1) as usize).collect();
    for (round, number) in own.iter().cycle().enumerate() {
        if taken.fetch_add(1, Ordering::Relaxed) >= plan.sessions {
            break;
        }
        let account = account(plan, *number);
        let sizes = sizes.get(*number as usize).map_or(&[][..], Vec::as_slice);
        match session((plan, target), &account, sizes, round as u64) {
            Ok(octets) => tally.octets += octets,
            Err(error) => {
                tally.failures += 1;
                tally.first.get_or_insert_with(|| format!("{account}: {error}"));
            }
        }
    }
    tally
}

/// Which messages, by number from 1, session `round` fetches of `count`: spread evenly, and from
/// another beginning each time.
fn picked(count: u64, retrieve: u64, round: u64) -> impl Iterator<Item = u64> {
    let begin = round.wrapping_mul(STRIDE) % count.max(1);
    let retrieve = retrieve.min(count);
    (0..retrieve).map(move |n| 1 + (begin + n * count / retrieve.max(1)) % count)
}

/// The sizes that LIST gives.
fn look(plan: &Plan, target: SocketAddr, account: &str) -> io::Result<Vec<u64>> {
    let mut pop = Pop::login(target, None, account, &plan.password)?;
    let listing = pop.many(b"LIST\r\n")?;
    let size = |line: &str| line.split(' ').nth(1)?.parse().ok();
    let sizes: Option<Vec<u64>> = lines(listing).map(size).collect();
    pop.one(b"QUIT\r\n")?;
    sizes.ok_or_else(|| io::Error::other("LIST is not a list of sizes"))
}

/// One session; how many octets the messages had.
fn session(
    (plan, target): (&Plan, SocketAddr),
    account: &str,
    sizes: &[u64],
    round: u64,
) -> io::Result<u64> {
    let mut pop = Pop::login(target, None, account, &plan.password)?;
    let named = lines(pop.many(b"UIDL\r\n")?).count();
    if named != sizes.len() {
        return Err(io::Error::other(format!("UIDL has {named} lines, LIST {}", sizes.len())));
    }
    let mut octets = 0;
    for number in picked(sizes.len() as u64, plan.retrieve, round) {
        let message = pop.many(format!("RETR {number}\r\n").as_bytes())?;
        // RFC 1939 §3: a dot that stands first is doubled, and counts once.
        let doubled = message.windows(2).filter(|w| w == b"\n.").count();
        let size = (message.len() - doubled - usize::from(message.starts_with(b"."))) as u64;
        let due = sizes.get(number as usize - 1).copied().unwrap_or(0);
        if size != due {
            return Err(io::Error::other(format!("RETR {number}: {size} octets, LIST has {due}")));
        }
        octets += size;
    }
    pop.one(b"QUIT\r\n")?;
    Ok(octets)
}

/// The lines of a listing.
fn lines(listing: &[u8]) -> impl Iterator<Item = &str> {
    listing.split_inclusive(|&b| b == b'\n').map(|l| str::from_utf8(l).unwrap_or("").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_picked_all_over_the_maildrop_and_never_twice() {
        for (count, retrieve) in [(1_000, 20), (20, 20), (7, 20), (1, 1), (0, 20)] {
            for round in 0..50 {
                let mut all: Vec<u64> = picked(count, retrieve, round).collect();
                assert_eq!(all, picked(count, retrieve, round).collect::<Vec<u64>>());
                all.sort_unstable();
                all.dedup();
                assert_eq!(all.len() as u64, retrieve.min(count));
                assert!(all.iter().all(|n| (1..=count).contains(n)));
            }
        }
        let first: Vec<u64> = picked(1_000, 20, 0).take(3).collect();
        assert_eq!(first, [1, 51, 101]);
        assert_ne!(first, picked(1_000, 20, 1).take(3).collect::<Vec<u64>>());
    }

    #[test]
    fn lines_of_a_listing() {
        assert_eq!(lines(b"1 20\r\n2 30\r\n").collect::<Vec<_>>(), ["1 20", "2 30"]);
        assert_eq!(lines(b"").count(), 0);
    }
}
