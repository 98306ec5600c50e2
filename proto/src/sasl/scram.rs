//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, RFC 9266), as values.
//!
//! [`First`] is what the client opened with, [`Second`] waits for its proof. The server proves in
//! turn that it holds the user's keys, so a client is not fooled by a stranger. What the server
//! keeps of a user does not let anybody sign in; what a right proof gives back, the [`ClientKey`],
//! does, and it goes to the desk.
//!
//! A user may have several passwords; which of them the client has shows with its proof.

use core::fmt;
use ring::{digest, hmac};
use zeroize::Zeroize;

use super::encoding::{decode, encode};
use super::{ClientKey, Failure, text};

/// The longest message of a client; arbitrary, but names and extensions must fit.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// The longest nonce of a client; arbitrary, but what the server says must fit one reply line.
pub const NONCE_BYTES_MAX: usize = 128;

/// The longest salt, for the same reason.
pub const SALT_BYTES_MAX: usize = 64;

/// The most credentials of a user; more are left out. Arbitrary; bounds what a proof can cost.
pub const CREDENTIALS_COUNT_MAX: usize = 100;

/// The server's part of the nonce: random, never used before.
pub type Nonce = [u8; 18];

/// What is kept of a user's passwords (RFC 5802 §3). They have one salt and one count, because the
/// client is told both before it is known which of them it has.
pub struct ScramKeys {
    /// At most [`SALT_BYTES_MAX`] bytes; more are left out.
    pub salt: Box<[u8]>,
    /// How often the passwords were hashed; RFC 7677 §4 asks for 4096 or more.
    pub iterations: u32,
    /// One for each password, at most [`CREDENTIALS_COUNT_MAX`].
    pub credentials: Box<[ScramCredential]>,
}

/// What is kept of one password.
#[derive(Clone)]
pub struct ScramCredential {
    /// SHA-256 of the ClientKey.
    pub stored_key: [u8; 32],
    /// What the server proves itself with.
    pub server_key: [u8; 32],
}

impl Drop for ScramCredential {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for ScramCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramCredential(..)")
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramKeys({} iterations)", self.iterations)
    }
}

/// The client's first message, read.
#[derive(Debug)]
pub(super) struct First {
    user: Box<str>,
    /// `client-first-message-bare`, a part of what both sides sign.
    bare: Box<str>,
    nonce: Box<str>,
    /// What `c=` of the next message must be.
    channel: Box<str>,
}

impl First {
    /// RFC 5802 §7, `client-first-message`. `binding` is there when PLUS was offered.
    pub(super) fn parse(
        message: &[u8],
        plus: bool,
        binding: Option<[u8; 32]>,
    ) -> Result<(Box<str>, Self), Failure> {
        let message = printable(message)?;
        let (flag, rest) = message.split_once(',').ok_or(Failure::Malformed)?;
        let (identity, bare) = rest.split_once(',').ok_or(Failure::Malformed)?;
        let bound = check_flag(flag, plus, binding)?;
        let header = message.strip_suffix(bare).ok_or(Failure::Malformed)?;
        let channel = [header.as_bytes(), bound.as_ref().map_or(&[][..], |b| b)].concat();
        // RFC 5802 §5.1: `m=` is an extension that must be understood, and none is.
        let fields = bare.strip_prefix("n=").ok_or(Failure::Malformed)?;
        let (name, rest) = fields.split_once(",r=").ok_or(Failure::Malformed)?;
        let user = unescape(name)?;
        text::name(user.as_bytes())?;
        if !identity.is_empty() {
            let identity = identity.strip_prefix("a=").ok_or(Failure::Malformed)?;
            text::authorization(unescape(identity)?.as_bytes(), &user)?;
        }
        let nonce = rest.split(',').next().unwrap_or_default();
        if !(1..=NONCE_BYTES_MAX).contains(&nonce.len())
            || !nonce.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Failure::Malformed);
        }
        let first = Self {
            user: user.as_str().into(),
            bare: bare.into(),
            nonce: nonce.into(),
            channel: encode(&channel).into(),
        };
        Ok((user.into(), first))
    }

    /// Goes on with the user's keys; returns the server's first message as well.
    pub(super) fn with_keys(self, keys: &ScramKeys, nonce: &str) -> (Second, Vec<u8>) {
        let nonce = format!("{}{nonce}", self.nonce);
        let salt = keys.salt.get(..SALT_BYTES_MAX).unwrap_or(&keys.salt);
        let challenge = format!("r={nonce},s={},i={}", encode(salt), keys.iterations);
        let second = Second {
            user: self.user,
            signed: format!("{},{challenge},", self.bare),
            channel: self.channel,
            nonce: nonce.into(),
            credentials: keys.credentials.iter().take(CREDENTIALS_COUNT_MAX).cloned().collect(),
        };
        (second, challenge.into_bytes())
    }
}

/// RFC 5802 §6: whether the client binds to the channel, and to which bytes.
fn check_flag(
    flag: &str,
    plus: bool,
    binding: Option<[u8; 32]>,
) -> Result<Option<[u8; 32]>, Failure> {
    match (flag, plus) {
        ("n", false) => Ok(None),
        // The client could and believes that we cannot: somebody has removed PLUS from the list.
        ("y", false) if binding.is_some() => Err(Failure::Refused),
        ("y", false) => Ok(None),
        // RFC 9266 §2: the one binding that is there.
        ("p=tls-exporter", true) => binding.map(Some).ok_or(Failure::Refused),
        ("n" | "y", true) => Err(Failure::Refused),
        _ if flag.starts_with("p=") => Err(Failure::Refused),
        _ => Err(Failure::Malformed),
    }
}

/// What a proof turned out to be.
pub(super) enum Verdict {
    /// `proof` is the server's own.
    Right {
        user: Box<str>,
        client_key: ClientKey,
        proof: Vec<u8>,
    },
    Wrong {
        user: Box<str>,
    },
}

/// An exchange that waits for the client's proof.
pub(super) struct Second {
    user: Box<str>,
    /// What both sides sign, but for the client's last message.
    signed: String,
    channel: Box<str>,
    nonce: Box<str>,
    credentials: Box<[ScramCredential]>,
}

impl fmt::Debug for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Second({:?})", self.user)
    }
}

impl Second {
    /// RFC 5802 §7, `client-final-message`.
    pub(super) fn check(mut self, message: &[u8]) -> Result<Verdict, Failure> {
        let message = printable(message)?;
        let (unproved, proof) = message.rsplit_once(",p=").ok_or(Failure::Malformed)?;
        let fields = unproved.strip_prefix("c=").ok_or(Failure::Malformed)?;
        let (channel, rest) = fields.split_once(",r=").ok_or(Failure::Malformed)?;
        let nonce = rest.split(',').next().unwrap_or_default();
        let proof = decode(proof.as_bytes())?;
        let proof: &[u8; 32] = proof.as_slice().try_into().map_err(|_| Failure::Malformed)?;
        if *channel != *self.channel || *nonce != *self.nonce {
            return Err(Failure::Refused);
        }
        self.signed.push_str(unproved);
        let user = core::mem::take(&mut self.user);
        let Some((client_key, server_key)) = self.find(proof) else {
            return Ok(Verdict::Wrong { user });
        };
        let signature = sign(server_key, self.signed.as_bytes());
        let proof = format!("v={}", encode(signature.as_ref())).into_bytes();
        Ok(Verdict::Right { user, client_key, proof })
    }

    /// The ClientKey that the proof gives, and the ServerKey of the same password. As much work for
    /// every user, whether there or made up and however many passwords there are, so that the time
    /// it takes tells neither.
    fn find(&self, proof: &[u8; 32]) -> Option<(ClientKey, &[u8; 32])> {
        const NOBODY: &ScramCredential =
            &ScramCredential { stored_key: [0; 32], server_key: [0; 32] };
        let mut found = None;
        for place in 0..CREDENTIALS_COUNT_MAX {
            let kept = self.credentials.get(place);
            let ScramCredential { stored_key, server_key } = kept.unwrap_or(NOBODY);
            let signature = sign(stored_key, self.signed.as_bytes());
            let client_key = ClientKey::recover(proof, signature.as_ref());
            // RFC 5802 §3: H(ClientKey) is the StoredKey of the right password only.
            let hash = digest::digest(&digest::SHA256, client_key.bytes());
            if same(hash.as_ref(), stored_key) && kept.is_some() {
                found = Some((client_key, server_key));
            }
        }
        found
    }
}

fn sign(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

/// Compares in a time that does not depend on the bytes, as far as xor and or have it.
fn same(left: &[u8], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    core::hint::black_box(difference) == 0 && left.len() == right.len()
}

/// Messages are UTF-8 of bounded length, without controls.
fn printable(message: &[u8]) -> Result<&str, Failure> {
    let text = core::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
    let possible = text.len() <= MESSAGE_BYTES_MAX && !text.chars().any(char::is_control);
    if possible { Ok(text) } else { Err(Failure::Malformed) }
}

/// RFC 5802 §5.1: `=2C` is a comma, `=3D` is `=`, and no other `=` may stand in a name.
pub(super) fn unescape(name: &str) -> Result<String, Failure> {
    let mut parts = name.split('=');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match part.split_at_checked(2) {
            Some(("2C", rest)) => (',', rest),
            Some(("3D", rest)) => ('=', rest),
            _ => return Err(Failure::Malformed),
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    // A bare comma would have ended the field.
    if name.contains(',') { Err(Failure::Malformed) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> [u8; 32] {
        decode(text.as_bytes()).unwrap().as_slice().try_into().unwrap()
    }

    /// The example of RFC 7677 §3: user `user`, password `pencil`. The two keys are what PBKDF2
    /// with its salt and 4096 iterations gives.
    #[test]
    fn the_example_of_the_rfc_goes_as_printed() {
        let (user, first) = First::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, None).unwrap();
        assert_eq!(&*user, "user");
        let keys = ScramKeys {
            salt: decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().as_slice().into(),
            iterations: 4096,
            credentials: [ScramCredential {
                stored_key: bytes("WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="),
                server_key: bytes("wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="),
            }]
            .into(),
        };
        let (second, challenge) = first.with_keys(&keys, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(challenge, expected.as_bytes());
        let message = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let Ok(Verdict::Right { client_key, proof, .. }) = second.check(message.as_bytes()) else {
            panic!("the proof is right");
        };
        assert_eq!(proof, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let hash = digest::digest(&digest::SHA256, client_key.bytes());
        assert_eq!(hash.as_ref(), keys.credentials[0].stored_key);
    }

    #[test]
    fn names_are_unescaped_in_one_way_only() {
        for (name, plain) in [
            ("a", Some("a")),
            ("a=2Cb=3Dc", Some("a,b=c")),
            ("=3D2C", Some("=2C")),
            ("a=2cb", None),
            ("a=", None),
            ("a=2", None),
            ("a=é", None),
            ("a=00", None),
            ("a,b", None),
        ] {
            assert_eq!(unescape(name).ok().as_deref(), plain, "{name}");
        }
    }

    #[test]
    fn equal_means_equal() {
        assert!(same(&[1; 32], &[1; 32]));
        let mut other = [1; 32];
        other[31] = 2;
        assert!(!same(&other, &[1; 32]) && !same(&[1; 31], &[1; 32]) && !same(&[], &[1; 32]));
    }
}
