//! Keys that sign for a domain, and the record that tells everybody their public half.
//!
//! Read from PKCS #8 by whoever keeps the files; a [`Key`] is borrowed by
//! [`Signer::finish`](super::Signer::finish). Never shown by `Debug`. Fails by [`KeyError`].

use core::fmt;
use ring::error::KeyRejected;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{digest, error::Unspecified};

use crate::sasl::encode;

/// RFC 1035 §2.3.4, as text without the last dot.
pub const NAME_BYTES_MAX: usize = 253;
/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// What stands between selector and domain (RFC 6376 §3.6.2.1).
const BETWEEN: &str = "._domainkey.";

/// How a key signs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// `rsa-sha256` (RFC 6376 §3.3.1); `rsa-sha1` is not for signing any more (RFC 8301 §3.1).
    RsaSha256,
    /// `ed25519-sha256` (RFC 8463 §3).
    Ed25519Sha256,
}

impl Algorithm {
    /// As the tag `a=` of a signature names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    /// As the tag `k=` of a record names its kind of keys.
    #[must_use]
    pub const fn key_name(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa",
            Self::Ed25519Sha256 => "ed25519",
        }
    }
}

/// Why something is no key to sign with.
#[derive(Clone, Copy, Debug)]
pub enum KeyError {
    /// The domain is no host name in ASCII, see [`host_name`].
    Domain,
    /// The selector is none.
    Selector,
    /// The two are too long together.
    NameTooLong,
    /// Neither an Ed25519 key nor an RSA key of 2048 to 4096 bits in PKCS #8; and what it is.
    Rejected(KeyRejected),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = "is not made of letters, digits and inner hyphens, with dots between";
        match self {
            Self::Domain => write!(f, "the domain {labels}"),
            Self::Selector => write!(f, "the selector {labels}"),
            Self::NameTooLong => {
                write!(f, "selector and domain make a name of over {NAME_BYTES_MAX} bytes")
            }
            Self::Rejected(why) => write!(
                f,
                "neither an Ed25519 key nor an RSA key of 2048 to 4096 bits in PKCS #8 ({why})"
            ),
        }
    }
}

impl core::error::Error for KeyError {}

enum Secret {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key of a domain.
pub struct Key {
    domain: Box<str>,
    selector: Box<str>,
    secret: Secret,
}

impl Key {
    /// The key in `pkcs8` (RFC 5958, in DER), whose public half is published under `selector`.
    ///
    /// # Errors
    /// When a name is none, or it is not a key of one of the two kinds. RSA keys of fewer bits
    /// than 2048 are refused: they must have 1024 and should have 2048 (RFC 8301 §3.2).
    pub fn from_pkcs8(domain: &str, selector: &str, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let domain = host_name(domain).ok_or(KeyError::Domain)?;
        let selector = host_name(selector).ok_or(KeyError::Selector)?;
        if selector.len() + BETWEEN.len() + domain.len() > NAME_BYTES_MAX {
            return Err(KeyError::NameTooLong);
        }
        // Its public half may be absent: OpenSSL writes none.
        let secret = match Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
            Ok(pair) => Secret::Ed25519(Box::new(pair)),
            Err(_) => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(KeyError::Rejected)?;
                Secret::Rsa(Box::new(pair))
            }
        };
        Ok(Self { domain: domain.into(), selector: selector.into(), secret })
    }

    /// The domain that it signs for, in lower case.
    #[must_use]
    pub const fn domain(&self) -> &str {
        &self.domain
    }

    /// What tells it from the domain's other keys, in lower case.
    #[must_use]
    pub const fn selector(&self) -> &str {
        &self.selector
    }

    /// How it signs.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.secret {
            Secret::Rsa(_) => Algorithm::RsaSha256,
            Secret::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// The bits of an RSA modulus, rounded up to whole bytes; 256 for Ed25519.
    #[must_use]
    pub fn bits(&self) -> usize {
        match &self.secret {
            Secret::Rsa(pair) => pair.public().modulus_len() * 8,
            Secret::Ed25519(_) => 256,
        }
    }

    /// The name of the TXT record (RFC 6376 §3.6.2.1), without the last dot.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("{}{BETWEEN}{}", self.selector, self.domain)
    }

    /// The value of the TXT record (RFC 6376 §3.6.1).
    #[must_use]
    pub fn record(&self) -> String {
        let public = match &self.secret {
            Secret::Rsa(pair) => encode(&public_key_info(pair.public().as_ref())),
            // RFC 8463 §4: the 32 bytes as they are.
            Secret::Ed25519(pair) => encode(pair.public_key().as_ref()),
        };
        format!("v=DKIM1; k={}; p={public}", self.algorithm().key_name())
    }

    /// The signature of `text`.
    pub(crate) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match &self.secret {
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                // This padding has nothing random in it, so the generator is not asked.
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)?;
                Ok(signature)
            }
            // RFC 8463 §3: what is signed is the hash, and that is hashed once more.
            Secret::Ed25519(pair) => {
                let hash = digest::digest(&digest::SHA256, text);
                Ok(pair.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.record_name(), self.algorithm().name())
    }
}

/// `name` in lower case, when it is labels of 1 to 63 ASCII letters, digits and inner hyphens with
/// dots between: what RFC 6376 §3.1 allows for selectors and RFC 6376 §3.5 for domains. Letters
/// beyond ASCII are to be written in their `xn--` form. Good for a file name, too.
#[must_use]
pub fn host_name(name: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let right = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label);
    right.then(|| name.to_ascii_lowercase())
}

/// The `SubjectPublicKeyInfo` of RFC 5280 around an `RSAPublicKey`. RFC 6376 §3.6.1 asks for the
/// latter, but the records that it prints itself hold the former, and so do all others.
fn public_key_info(key: &[u8]) -> Vec<u8> {
    /// rsaEncryption, NULL.
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    // From 256 to 65535 bytes, as every key of these sizes has, a length takes three.
    let head = |tag: u8, length: usize| {
        let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        [tag, 0x82, high, low]
    };
    let bits = [&head(0x03, key.len() + 1)[..], &[0], key].concat();
    [&head(0x30, ALGORITHM.len() + bits.len())[..], &ALGORITHM, &bits].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    /// A line of the vector that has an RSA key for tests.
    fn rsa(name: &str) -> Vec<u8> {
        let text = include_str!("../../../tests/vectors/seal/oaep.txt");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        hex(line.unwrap())
    }

    pub(crate) fn rsa_key() -> Key {
        Key::from_pkcs8("example.test", "r1", &rsa("pkcs8")).unwrap()
    }

    /// The key of RFC 8463 appendix A.1, which is test 1 of RFC 8032 §7.1.
    pub(crate) fn ed25519_key(domain: &str, selector: &str) -> Key {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let pkcs8 = hex(&format!("302e020100300506032b657004220420{seed}"));
        Key::from_pkcs8(domain, selector, &pkcs8).unwrap()
    }

    #[test]
    fn records_are_what_others_publish() {
        let key = ed25519_key("football.example.com", "brisbane");
        assert_eq!(key.record_name(), "brisbane._domainkey.football.example.com");
        let record = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        assert_eq!((key.record().as_str(), key.bits()), (record, 256));

        let key = rsa_key();
        assert_eq!(key.record(), format!("v=DKIM1; k=rsa; p={}", encode(&rsa("public"))));
        assert_eq!((key.algorithm(), key.bits()), (Algorithm::RsaSha256, 2048));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["a", "example.test", "a.b-c.d", "xn--bcher-kva.test", "9.x"] {
            assert_eq!(host_name(name).as_deref(), Some(name));
        }
        assert_eq!(host_name("EXAMPLE.Test").as_deref(), Some("example.test"));
        let label = "l".repeat(64);
        let long = "abc.".repeat(63) + "de";
        let names =
            ["", ".", "..", "a..b", ".a", "a.", "a/b", "../a", "a b", "-a", "a-", "a_b", "b\u{fc}"];
        for name in names.into_iter().chain([label.as_str(), long.as_str()]) {
            assert_eq!(host_name(name), None, "{name:?}");
        }
        assert!(host_name(&long[1..]).is_some());
        let pkcs8 = rsa("pkcs8");
        let refused =
            |domain: &str, selector: &str| Key::from_pkcs8(domain, selector, &pkcs8).err();
        assert!(matches!(refused("a/b", "s"), Some(KeyError::Domain)));
        assert!(matches!(refused("a.b", ".."), Some(KeyError::Selector)));
        assert!(matches!(refused(&long[1..], "s"), Some(KeyError::NameTooLong)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bytes in [&b""[..], b"x", &rsa("public"), &rsa("pkcs8")[1..]] {
            let refused = Key::from_pkcs8("a.test", "s", bytes).unwrap_err();
            assert!(refused.to_string().contains("2048 to 4096 bits"), "{refused}");
        }
        let shown = format!("{:?}", rsa_key());
        assert_eq!(shown, "Key(r1._domainkey.example.test, rsa-sha256)");
    }
}
