//! What verifying a signature costs, beside what it cannot cost less than: `cargo run --release -p
//! bench --bin verify`.
//!
//! First the relaxed form of some bodies, into nothing. Then whole messages: from their first byte
//! to the verdict, against SHA-256 of the same bytes and one RSA verification by ring, in turn. All
//! in memory and in one thread, medians of the rounds. Promised for mail text: 2 GB/s, and at most
//! 1.2 times the bare loop. Ends with an error when a signature does not verify.

use std::error::Error;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fsmtp_proto::dkim::canon::{Body, Canon};
use fsmtp_proto::dkim::verify::{Verdict, Verifier, sum};
use fsmtp_proto::dkim::{Key, Signer, Terms};
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Data, Found, Kind, Question};
use fsmtp_proto::time::UnixTime;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const NOW: UnixTime = UnixTime::from_ms(1_700_000_000_000);
const BODY_BYTES: usize = 100 * 1024;
/// What the engine feeds at once: a receive buffer.
const PIECE_BYTES: usize = 16 * 1024;
const ROUNDS: usize = 2001;
const HEADER: &[u8] = b"Received: from client.example.test by mx.example.test; \
    Tue, 14 Nov 2023 22:13:20 +0000\r\n\
    From: Somebody <somebody@example.test>\r\nTo: Somebody else <else@example.test>\r\n\
    Subject: What a signature costs\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n\
    Message-ID: <1@example.test>\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\r\n";

fn main() -> Outcome<()> {
    let bodies = [
        ("text", cycled(TEXT)),
        ("Base64", cycled(BASE64)),
        ("code", cycled(CODE)),
        ("spaces", b" ".repeat(BODY_BYTES)),
        ("space, letter", b" a\t".repeat(BODY_BYTES / 3)),
        ("line ends", b"\r\n".repeat(BODY_BYTES / 2)),
    ];
    println!(
        "{:<16}{:>14}{:>14}{:>10}{:>14}",
        "body", "relaxed GB/s", "verify µs", "bare µs", "ratio"
    );
    for (name, body) in &bodies {
        let speed = relaxed(body);
        let [verify, bare, ratio] = verified(body)?;
        println!("{name:<16}{speed:>14.2}{verify:>14.1}{bare:>10.1}{ratio:>13.2}");
    }
    Ok(())
}

/// Lines as mail programs write them: 76 bytes, two spaces behind some sentences.
const TEXT: &[u8] = b"A sentence in a line of text, as long as those that mail programs write,\r\n\
    and another one.  People who learnt to type on a machine put two spaces be-\r\n\
    hind a full stop, so that a row of them comes now and then. Here is one line\r\n\
    without any, and here is a second one. The third line has only one space, as\r\n\
    has the fourth one, which is the last of a paragraph.\r\n\r\n";
const BASE64: &[u8] =
    b"JVBERi0xLjQKJcfsj6IKNSAwIG9iago8PC9MZW5ndGggNiAwIFIvRmlsdGVyIC9GbGF0ZURlY29k\r\n";
/// Whose relaxed form is another: indented with tabs, spaces in rows and at line ends.
const CODE: &[u8] = b"\tif (a  ==  b)\t{ \r\n\t\treturn a + b;   // the sum\r\n\t}\r\n\r\n";

fn cycled(text: &[u8]) -> Vec<u8> {
    text.iter().copied().cycle().take(BODY_BYTES / text.len() * text.len()).collect()
}

/// GB/s of the relaxed form by itself.
fn relaxed(text: &[u8]) -> f64 {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        times.push(nanoseconds(|| {
            let (mut body, mut octets) = (Body::new(Canon::Relaxed), 0);
            for piece in black_box(text).chunks(PIECE_BYTES) {
                body.feed(piece, &mut |piece| octets += black_box(piece).len());
            }
            body.finish(&mut |piece| octets += piece.len());
            black_box(octets);
        }));
    }
    text.len() as f64 / median(times)
}

/// µs of a message's verdict and of the bare loop, and how often the second fits into the first.
fn verified(body: &[u8]) -> Outcome<[f64; 3]> {
    let pkcs8 = vector("pkcs8")?;
    let key = Key::from_pkcs8("example.test", "r1", &pkcs8)?;
    let mut signer = Signer::new(Terms::default());
    signer.feed(HEADER);
    signer.feed(body);
    let field = signer.finish(std::slice::from_ref(&key), NOW)?;
    let message = [&field, HEADER, body].concat();
    let known = known(&key)?;

    let pair = RsaKeyPair::from_pkcs8(&pkcs8).map_err(|error| error.to_string())?;
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = SystemRandom::new();
    let signed = pair.sign(&RSA_PKCS1_SHA256, &random, HEADER, &mut signature);
    signed.map_err(|_| "ring does not sign")?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());

    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut good = true;
    for _ in 0..ROUNDS {
        let one = nanoseconds(|| {
            let mut verifier = Verifier::new();
            for piece in black_box(&message).chunks(PIECE_BYTES) {
                verifier.feed(piece);
            }
            let judged = verifier.finish().check(&known, NOW);
            good &= matches!(judged, Next::Done(judged) if sum(&judged) == Verdict::Pass);
        });
        let other = nanoseconds(|| {
            black_box(digest(&SHA256, black_box(&message)));
            good &= public.verify(black_box(HEADER), &signature).is_ok();
        });
        ours.push(one);
        bare.push(other);
        ratios.push(one / other);
    }
    if !good {
        return Err("a signature does not verify".into());
    }
    Ok([median(ours) / 1e3, median(bare) / 1e3, median(ratios)])
}

/// What the DNS would say of the key.
fn known(key: &Key) -> Outcome<Known> {
    let found = Found {
        name: key.record_name().into(),
        records: vec![Data::Txt(key.record().into_bytes().into())],
        secure: false,
        ttl: Duration::ZERO,
    };
    let mut known = Known::default();
    let question = Question::new(&key.record_name(), Kind::Txt);
    known.put(question.map_err(|bad| bad.to_string())?, Ok(Rc::new(found)));
    Ok(known)
}

/// A line of the vector that has an RSA key for tests.
fn vector(name: &str) -> Outcome<Vec<u8>> {
    let text = include_str!("../../../tests/vectors/seal/oaep.txt");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let line = line.ok_or("the vector is gone")?;
    let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2).unwrap_or_default(), 16);
    let bytes: Result<_, _> = (0..line.len()).step_by(2).map(byte).collect();
    Ok(bytes?)
}

fn nanoseconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
