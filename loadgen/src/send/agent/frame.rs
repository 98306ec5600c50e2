//! What two hosts of a run say to each other: frames of JSON, and the proof that both know the
//! token.
//!
//! A frame is four octets of length, most significant first, and that many octets of one JSON
//! document. Who reads says how long it may be and by when it must be whole; a frame that is
//! longer, later or no JSON ends the connection. The token never travels: each side proves with
//! HMAC-SHA256 over numbers of both that it has it. What follows is neither encrypted nor signed.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;

/// A frame of the greeting, and of orders while a run goes on.
pub(super) const SMALL_BYTES_MAX: usize = 4 * 1024;
/// A plan: its words and users.
pub(super) const PLAN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The figures of a core in an interval: at most some 27,000 counts in each of 14 histograms.
pub(super) const FIGURES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Octets of a token, without the white space around it.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1_024;
/// How long a frame may take to be taken by the other side.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Channel {
    stream: TcpStream,
}

impl Channel {
    pub(super) fn new(stream: TcpStream) -> Result<Self, String> {
        let set =
            stream.set_write_timeout(Some(WRITE_TIME)).and_then(|()| stream.set_nodelay(true));
        set.map_err(|e| e.to_string())?;
        Ok(Self { stream })
    }

    /// The same connection, for another thread.
    pub(super) fn twin(&self) -> Result<Self, String> {
        let stream = self.stream.try_clone().map_err(|e| e.to_string())?;
        Ok(Self { stream })
    }

    /// Ends it for all who hold it.
    pub(super) fn shut(&self) {
        // It may be gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    pub(super) fn write(&mut self, value: &Value) -> Result<(), String> {
        let text = value.to_string();
        let length = u32::try_from(text.len()).map_err(|_| "a frame is too long".to_owned())?;
        let bytes = [&length.to_be_bytes()[..], text.as_bytes()].concat();
        self.stream.write_all(&bytes).map_err(|e| format!("it takes nothing: {e}"))
    }

    /// The next frame, of at most `bytes_max` octets, whole within `time`.
    pub(super) fn read(&mut self, bytes_max: usize, time: Duration) -> Result<Value, String> {
        let until = Instant::now() + time;
        let mut length = [0; 4];
        self.fill(&mut length, until)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > bytes_max {
            return Err(format!("a frame of {length} octets, {bytes_max} are allowed"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, until)?;
        serde_json::from_slice(&bytes).map_err(|_| "a frame that is no JSON".to_owned())
    }

    fn fill(&mut self, mut rest: &mut [u8], until: Instant) -> Result<(), String> {
        while !rest.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("silent for too long".into());
            }
            self.stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
            match self.stream.read(rest) {
                Ok(0) => return Err("gone".into()),
                Ok(got) => rest = rest.split_at_mut(got).1,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err("silent for too long".into());
                }
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }
}

/// What both sides know.
#[derive(Clone)]
pub(super) struct Token(hmac::Key);

impl Token {
    /// # Errors
    /// When the file cannot be read or has no token.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = std::fs::read(path).map_err(|e| format!("{name}: {e}"))?;
        let token = text.trim_ascii();
        if !TOKEN_BYTES.contains(&token.len()) {
            let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
            return Err(format!("{name}: a token has {least} to {most} octets"));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, token)))
    }

    /// What `role` says to show that it knows the token.
    pub(super) fn proof(&self, role: &str, nonces: (&str, &str)) -> String {
        hex(hmac::sign(&self.0, message(role, nonces).as_bytes()).as_ref())
    }

    /// Whether that is what it must be; takes as long for any wrong one.
    pub(super) fn holds(&self, role: &str, nonces: (&str, &str), proof: &str) -> bool {
        let proof = unhex(proof).unwrap_or_default();
        hmac::verify(&self.0, message(role, nonces).as_bytes(), &proof).is_ok()
    }
}

/// A number that is used once, in hexadecimal.
pub(super) fn nonce() -> Result<String, String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "there is no randomness".to_owned())?;
    Ok(hex(&bytes))
}

fn message(role: &str, (ours, theirs): (&str, &str)) -> String {
    format!("loadgen 1 {role} {ours} {theirs}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect()).flatten()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    pub(crate) fn pair() -> (Channel, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Channel::new(ours).unwrap(), listener.accept().unwrap().0)
    }

    #[test]
    fn a_frame_arrives_as_it_was_and_all_else_is_an_error_in_time() {
        let second = Duration::from_secs(1);
        let (mut ours, theirs) = pair();
        let mut theirs = Channel::new(theirs).unwrap();
        theirs.write(&json!({ "a": [1, 2] })).unwrap();
        assert_eq!(ours.read(100, second), Ok(json!({ "a": [1, 2] })));
        theirs.write(&json!("x".repeat(99))).unwrap();
        assert_eq!(ours.read(100, second), Err("a frame of 101 octets, 100 are allowed".into()));

        for (bytes, why) in [
            (&b"\0\0\0\x02{"[..], "silent for too long"),
            (b"\0\0", "silent for too long"),
            (b"\0\0\0\x02{x", "a frame that is no JSON"),
            (b"\xff\xff\xff\xff", "a frame of 4294967295 octets, 100 are allowed"),
        ] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(bytes).unwrap();
            assert_eq!(ours.read(100, Duration::from_millis(50)), Err(why.into()));
        }
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert_eq!(ours.read(100, second), Err("gone".into()));
    }

    #[test]
    fn only_the_token_makes_a_proof_and_each_role_and_number_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let token = |text: &str| {
            let path = folder.path().join("token");
            std::fs::write(&path, text).unwrap();
            Token::read(&path)
        };
        let ours = token("  0123456789abcdef\n").unwrap();
        let same = token("0123456789abcdef").unwrap();
        let other = token("0123456789abcdeF").unwrap();
        let proof = ours.proof("agent", ("1", "2"));
        assert!(same.holds("agent", ("1", "2"), &proof));
        assert!(!other.holds("agent", ("1", "2"), &proof));
        for (role, nonces, proof) in [
            ("sender", ("1", "2"), proof.as_str()),
            ("agent", ("2", "1"), &proof),
            ("agent", ("1", "2"), &proof[2..]),
            ("agent", ("1", "2"), ""),
            ("agent", ("1", "2"), "ö"),
        ] {
            assert!(!ours.holds(role, nonces, proof), "{role} {proof}");
        }
        assert!(token("short").is_err() && token(&"x".repeat(1_025)).is_err());
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
