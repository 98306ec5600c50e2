//! What sealing costs: `cargo run --release -p bench --bin seal`.
//!
//! One line for each case, with the median of the runs and the best of them; on a machine that is
//! busy with other things the best says more. Figures and what follows from them stand in
//! docs/decisions/0006-sealing.md.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use fsmtp_store::password::{self, Cost};
use fsmtp_store::seal::{
    AppWrap, CHUNK_BYTES_MAX, MailboxKey, Opener, PasswordWrap, RsaBits, ScramWrap, SealError,
    Sealer, TAG_BYTES, UserKeys, Window,
};
use fsmtp_store::{MailboxId, QueueId};
use ring::rand::{SecureRandom, SystemRandom};

type Outcome = Result<(), Box<dyn Error>>;

const MAILBOX: MailboxId = MailboxId(1);
const MESSAGE_BYTES: usize = 4096;
const LARGE_BYTES: usize = 1024 * 1024;

fn main() -> Outcome {
    let system = SystemRandom::new();
    let random = &mut |bytes: &mut [u8]| assert!(system.fill(bytes).is_ok(), "no random numbers");
    let (keys, key) = UserKeys::generate(MAILBOX, RsaBits::B2048, random)?;
    messages(&keys, &key, random)?;
    rsa(&keys, &key, random)?;
    credentials(&key, random)?;
    throughput(random)
}

/// One message of 4 KiB, for and by one recipient.
fn messages(keys: &UserKeys, key: &MailboxKey, random: &mut dyn FnMut(&mut [u8])) -> Outcome {
    let (window, record) = Window::begin(MAILBOX, &keys.public_key()?, random)?;
    let open = record.open_rsa(&keys.private_key(MAILBOX, key)?)?;
    let mut id = QueueId(0);
    let mut buf = Vec::with_capacity(MESSAGE_BYTES + TAG_BYTES);
    let mut wrap = None;
    report("seal 4 KiB, one recipient, window open", 20_000, || {
        id = QueueId(id.0 + 1);
        buf.clear();
        buf.resize(MESSAGE_BYTES, b'm');
        let mut sealer = Sealer::begin(id, random);
        sealer.seal_chunk(&mut buf, true)?;
        wrap = Some(window.wrap(sealer.content_key(), id)?);
        Ok(())
    })?;
    let wrap = wrap.ok_or("nothing was sealed")?;
    report("open it, window open", 20_000, || {
        let mut copy = buf.clone();
        let mut opener = Opener::new(&open.open(&wrap, id)?, id);
        black_box(opener.open_chunk(&mut copy, true)?);
        opener.finish()
    })?;
    let rewrapped = open.rewrap(key, random)?;
    report("open a window by the mailbox key", 20_000, || {
        black_box(rewrapped.open(key)?);
        Ok(())
    })
}

/// What a window costs once, and a key pair.
fn rsa(keys: &UserKeys, key: &MailboxKey, random: &mut dyn FnMut(&mut [u8])) -> Outcome {
    let public = keys.public_key()?;
    let private = keys.private_key(MAILBOX, key)?;
    let (_, record) = Window::begin(MAILBOX, &public, random)?;
    report("RSA 2048: read the public key", 2_000, || keys.public_key().map(drop))?;
    report("RSA 2048: begin a window (wrap)", 2_000, || {
        Window::begin(MAILBOX, &public, random).map(drop)
    })?;
    report("RSA 2048: open a window (unwrap)", 300, || record.open_rsa(&private).map(drop))?;
    report("RSA 2048: unseal the private key", 300, || keys.private_key(MAILBOX, key).map(drop))?;
    report("RSA 2048: make a key pair", 15, || {
        UserKeys::generate(MAILBOX, RsaBits::B2048, random).map(drop)
    })?;
    report("RSA 4096: make a key pair", 3, || {
        UserKeys::generate(MAILBOX, RsaBits::B4096, random).map(drop)
    })
}

/// What a login costs.
fn credentials(key: &MailboxKey, random: &mut dyn FnMut(&mut [u8])) -> Outcome {
    let wrap = PasswordWrap::seal(key, MAILBOX, b"correct horse", Cost::default(), random)?;
    report("open by password (Argon2id, 19 MiB, 2 passes)", 25, || {
        wrap.open(MAILBOX, b"correct horse").map(drop)
    })?;
    let stored = password::hash(b"correct horse", [1; password::SALT_BYTES], Cost::default());
    let stored = stored.map_err(|error| error.to_string())?;
    report("compare with a stored hash, as without sealing", 25, || {
        black_box(password::verify(b"correct horse", &stored));
        Ok(())
    })?;
    report("dummy for an unknown user", 25, || {
        black_box(PasswordWrap::open_dummy(b"correct horse", Cost::default()));
        Ok(())
    })?;
    let (wrap, secret) = AppWrap::seal(key, MAILBOX, random)?;
    report("open by app password", 20_000, || wrap.open(MAILBOX, &secret).map(drop))?;
    report("make a SCRAM wrap of 10,000 iterations", 50, || {
        ScramWrap::seal(key, MAILBOX, b"correct horse", 10_000, random).map(drop)
    })
}

/// 1 MiB in chunks.
fn throughput(random: &mut dyn FnMut(&mut [u8])) -> Outcome {
    let id = QueueId(1);
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for _ in 0..LARGE_BYTES / CHUNK_BYTES_MAX {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES_MAX + TAG_BYTES);
        chunk.resize(CHUNK_BYTES_MAX, b'm');
        chunks.push(chunk);
    }
    let last = chunks.len() - 1;
    report("seal and open 1 MiB in chunks of 64 KiB", 300, || {
        let mut sealer = Sealer::begin(id, random);
        for (index, chunk) in chunks.iter_mut().enumerate() {
            sealer.seal_chunk(chunk, index == last)?;
        }
        let mut opener = Opener::new(&sealer.finish()?, id);
        for (index, chunk) in chunks.iter_mut().enumerate() {
            opener.open_chunk(chunk, index == last)?;
            chunk.truncate(CHUNK_BYTES_MAX);
        }
        opener.finish()
    })
}

/// Runs `each` so many times and prints what one run takes.
fn report(
    what: &str,
    runs_count: usize,
    mut each: impl FnMut() -> Result<(), SealError>,
) -> Outcome {
    let mut times: Vec<Duration> = Vec::with_capacity(runs_count);
    for _ in 0..runs_count {
        let began = Instant::now();
        each()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let us = |index: usize| times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6;
    println!("{what:<46} median {:>11.1} us   best {:>11.1} us", us(runs_count / 2), us(0));
    Ok(())
}
