//! SU, the seeds' verb by which one node of an owner gets in at another, with a proof.
//!
//! The nodes of an owner share one or more [`Keys`]. The client says `SU` and a [`Token`], which
//! covers its name, the time, a random nonce and the TLS channel; the server checks it, and answers
//! with a proof of its own over the same, so that both know whom they talk to:
//!
//! ```text
//!   token = base64(body tag{1,4})
//!   body  = version (1) | Unix time in seconds (8, big endian) | nonce (16)
//!         | number of tags (1) | length of the name (1) | name of the node
//!   tag   = HMAC-SHA-256(key, "fsmtp-engine SU client\0" | tls-exporter (32) | body)
//!   proof = HMAC-SHA-256(key, "fsmtp-engine SU server\0" | tls-exporter (32) | body and tags)
//! ```
//!
//! There is a tag for each key that the client has: two nodes understand each other as long as they
//! have one key in common, so keys are exchanged without a moment at which nothing works. A token
//! is of no use on another connection, for each has another exporter (RFC 9266 §2), and none after
//! [`FRESH`]. The two roles sign different texts: nothing that one says can be sent back to it.
//!
//! Used by both sessions' drivers; nothing here has a clock or draws random numbers. Limits:
//! [`KEYS_COUNT_MAX`], [`NAME_BYTES_MAX`], [`TOKEN_BYTES_MAX`]. Fails by [`Denied`]; the server has
//! one reply to all of it, 651.

use core::fmt;
use core::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{self, HMAC_SHA256};

use crate::time::UnixTime;

/// The length of a key.
pub const KEY_BYTES: usize = 32;
/// The most keys of a node; two while they are exchanged.
pub const KEYS_COUNT_MAX: usize = 4;
/// The longest name of a node, that of a domain (RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 255;
/// How far the clocks of two nodes may be apart, and how long a token is good on its connection.
pub const FRESH: Duration = Duration::from_secs(300);
/// The random bytes of a token.
pub const NONCE_BYTES: usize = 16;
/// The channel binding of a connection.
pub type Exporter = [u8; 32];
/// What the server says to show that it has the key, too.
pub type Proof = [u8; TAG_BYTES];

const TAG_BYTES: usize = 32;
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + NONCE_BYTES + 1 + 1;
/// The longest token, in base64.
pub const TOKEN_BYTES_MAX: usize =
    (HEAD_BYTES + NAME_BYTES_MAX + KEYS_COUNT_MAX * TAG_BYTES).div_ceil(3) * 4;

const _: () = assert!("SU \r\n".len() + TOKEN_BYTES_MAX <= 1024, "any token fits the line");

const CLIENT: &[u8] = b"fsmtp-engine SU client\0";
const SERVER: &[u8] = b"fsmtp-engine SU server\0";

/// The keys that the nodes of one owner share; none by default, and then nobody is trusted.
#[derive(Clone, Default)]
pub struct Keys(Box<[hmac::Key]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// What a client says behind SU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    bytes: Vec<u8>,
    text: String,
}

impl Token {
    /// As it goes over the wire.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A token that was right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The node that has shown it, as it calls itself: ASCII letters, digits, `-`, `_` and `.`.
    pub node: Box<str>,
    /// What it is answered.
    pub proof: Proof,
}

/// Why a token gets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// This node shares no key with anybody.
    NoKeys,
    /// It is no token.
    Malformed,
    /// It was made with other keys or for another connection.
    Wrong,
    /// It is too old, or one of the two clocks is wrong.
    Stale,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKeys => "this node has no key of trust",
            Self::Malformed => "the token is malformed",
            Self::Wrong => "the token is of other keys or of another connection",
            Self::Stale => "the token is too old, or a clock is wrong",
        })
    }
}

impl core::error::Error for Denied {}

impl Keys {
    /// These keys; `None` when there are more than [`KEYS_COUNT_MAX`].
    #[must_use]
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k [u8; KEY_BYTES]>) -> Option<Self> {
        let keys: Box<[hmac::Key]> =
            keys.into_iter().map(|key| hmac::Key::new(HMAC_SHA256, key)).collect();
        (keys.len() <= KEYS_COUNT_MAX).then_some(Self(keys))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the client `node` says on the connection with this `exporter`; `nonce` was never used
    /// before. None without keys, or with a name that is none.
    #[must_use]
    pub fn token(
        &self,
        node: &str,
        exporter: &Exporter,
        nonce: &[u8; NONCE_BYTES],
        now: UnixTime,
    ) -> Option<Token> {
        if self.is_empty() || !is_name(node.as_bytes()) {
            return None;
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + node.len() + self.0.len() * TAG_BYTES);
        bytes.push(VERSION);
        bytes.extend(now.seconds().to_be_bytes());
        bytes.extend(nonce);
        bytes.extend([u8::try_from(self.0.len()).ok()?, u8::try_from(node.len()).ok()?]);
        bytes.extend(node.as_bytes());
        let signed = text(CLIENT, exporter, &bytes);
        for key in &self.0 {
            bytes.extend(hmac::sign(key, &signed).as_ref());
        }
        let text = STANDARD.encode(&bytes);
        Some(Token { bytes, text })
    }

    /// Whether the client on the connection with this `exporter`, who says `token`, is a node of
    /// the same owner.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        token: &[u8],
        exporter: &Exporter,
        now: UnixTime,
    ) -> Result<Granted, Denied> {
        if self.is_empty() {
            return Err(Denied::NoKeys);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Malformed);
        }
        // RFC 4648 §3.5: one encoding of each token.
        let bytes = STANDARD.decode(token).map_err(|_| Denied::Malformed)?;
        let Parsed { time, node, body, tags } = Parsed::of(&bytes).ok_or(Denied::Malformed)?;
        let signed = text(CLIENT, exporter, body);
        // `verify` takes as long for every tag of this length.
        let matches = |key: &&hmac::Key| {
            tags.chunks_exact(TAG_BYTES).any(|tag| hmac::verify(key, &signed, tag).is_ok())
        };
        let key = self.0.iter().find(matches).ok_or(Denied::Wrong)?;
        if now.seconds().abs_diff(time) > FRESH.as_secs() {
            return Err(Denied::Stale);
        }
        let tag = hmac::sign(key, &text(SERVER, exporter, &bytes));
        let proof = tag.as_ref().try_into().map_err(|_| Denied::Malformed)?;
        Ok(Granted { node: node.into(), proof })
    }

    /// Whether `proof`, in base64, is of a server that has one of these keys and was shown `token`
    /// on the connection with this `exporter`.
    #[must_use]
    pub fn confirm(&self, proof: &[u8], token: &Token, exporter: &Exporter) -> bool {
        let Ok(proof) = STANDARD.decode(proof) else { return false };
        let signed = text(SERVER, exporter, &token.bytes);
        self.0.iter().any(|key| hmac::verify(key, &signed, &proof).is_ok())
    }
}

fn text(role: &[u8], exporter: &Exporter, of: &[u8]) -> Vec<u8> {
    [role, exporter, of].concat()
}

/// What stands in a log and in a header without doing harm there.
fn is_name(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(allowed)
}

/// A token, taken apart.
struct Parsed<'b> {
    time: u64,
    node: &'b str,
    body: &'b [u8],
    tags: &'b [u8],
}

impl<'b> Parsed<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (_, rest) = rest.split_at_checked(NONCE_BYTES)?;
        let ([tags_count, name_bytes], rest) = rest.split_first_chunk()?;
        let (name, tags) = rest.split_at_checked(usize::from(*name_bytes))?;
        let tags_count = usize::from(*tags_count);
        let possible = *version == VERSION
            && (1..=KEYS_COUNT_MAX).contains(&tags_count)
            && tags.len() == tags_count * TAG_BYTES
            && is_name(name);
        possible.then_some(Self {
            time: u64::from_be_bytes(*time),
            node: core::str::from_utf8(name).ok()?,
            body: bytes.get(..bytes.len() - tags.len())?,
            tags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixTime = UnixTime::from_ms(1_600_000_000_000);
    const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];
    const HERE: Exporter = [1; 32];

    fn keys(of: &[u8]) -> Keys {
        let bytes: Vec<_> = of.iter().map(|byte| [*byte; KEY_BYTES]).collect();
        Keys::new(&bytes).unwrap()
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_ms(NOW.ms().checked_add_signed(seconds * 1000).unwrap())
    }

    #[test]
    fn who_has_a_key_gets_in_and_is_told_by_whom() {
        for (ours, theirs) in [(&[1][..], &[1][..]), (&[1, 2], &[2, 3]), (&[1, 2, 3, 4], &[4])] {
            let (ours, theirs) = (keys(ours), keys(theirs));
            let token = ours.token("node_A-1.example", &HERE, &NONCE, NOW).unwrap();
            let granted = theirs.check(token.text().as_bytes(), &HERE, NOW).unwrap();
            assert_eq!(&*granted.node, "node_A-1.example");
            let proof = STANDARD.encode(granted.proof);
            assert!(ours.confirm(proof.as_bytes(), &token, &HERE));
            // Neither the proof for another connection or token, nor the token itself.
            assert!(!ours.confirm(proof.as_bytes(), &token, &[2; 32]));
            let other = ours.token("node_A-1.example", &HERE, &[8; 16], NOW).unwrap();
            assert!(!ours.confirm(proof.as_bytes(), &other, &HERE));
            let tag = STANDARD.encode(&token.bytes[token.bytes.len() - TAG_BYTES..]);
            assert!(!ours.confirm(tag.as_bytes(), &token, &HERE));
            assert!(!keys(&[7]).confirm(proof.as_bytes(), &token, &HERE));
            assert!(!ours.confirm(b"", &token, &HERE) && !ours.confirm(b"=", &token, &HERE));
        }
    }

    #[test]
    fn everything_that_is_not_as_it_was_made_is_denied() {
        let ours = keys(&[1]);
        let token = ours.token("a", &HERE, &NONCE, NOW).unwrap();
        let text = token.text().as_bytes();
        for (keys, exporter, now, why) in [
            (Keys::default(), HERE, NOW, Denied::NoKeys),
            (keys(&[2, 3]), HERE, NOW, Denied::Wrong),
            (keys(&[1]), [2; 32], NOW, Denied::Wrong),
            (keys(&[1]), HERE, at(301), Denied::Stale),
            (keys(&[1]), HERE, at(-301), Denied::Stale),
        ] {
            assert_eq!(keys.check(text, &exporter, now), Err(why));
        }
        for now in [at(300), at(-300)] {
            assert!(ours.check(text, &HERE, now).is_ok());
        }
        for at in 0..token.bytes.len() {
            for bit in 0..8 {
                let mut bytes = token.bytes.clone();
                bytes[at] ^= 1 << bit;
                let text = STANDARD.encode(&bytes);
                assert!(ours.check(text.as_bytes(), &HERE, NOW).is_err(), "{at} {bit}");
            }
            let cut = STANDARD.encode(&token.bytes[..at]);
            assert_eq!(ours.check(cut.as_bytes(), &HERE, NOW), Err(Denied::Malformed));
        }
        let long = [text, b"AAAA"].concat();
        for text in [&long[..], b"", b"=", &vec![b'A'; TOKEN_BYTES_MAX + 4]] {
            assert_eq!(ours.check(text, &HERE, NOW), Err(Denied::Malformed));
        }
    }

    #[test]
    fn limits_are_reached_and_not_passed() {
        let all = keys(&[1, 2, 3, 4]);
        let name = "n".repeat(NAME_BYTES_MAX);
        let token = all.token(&name, &HERE, &NONCE, NOW).unwrap();
        assert_eq!(token.text().len(), TOKEN_BYTES_MAX);
        assert_eq!(*all.check(token.text().as_bytes(), &HERE, NOW).unwrap().node, *name);
        assert!(Keys::new(&[[0; KEY_BYTES]; KEYS_COUNT_MAX + 1]).is_none());
        for name in ["", "a b", "a\r\n", "é", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(all.token(name, &HERE, &NONCE, NOW), None, "{name:?}");
        }
        assert_eq!(Keys::default().token("a", &HERE, &NONCE, NOW), None);
        assert_eq!(format!("{all:?}"), "Keys(4)");
    }

    proptest! {
        #[test]
        fn no_other_bytes_get_in(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let ours = keys(&[1, 2]);
            prop_assert!(ours.check(&bytes, &HERE, NOW).is_err());
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            prop_assert!(ours.check(STANDARD.encode(&bytes).as_bytes(), &HERE, NOW).is_err());
        }
    }
}
