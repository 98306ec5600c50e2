//! Keys of a run, made from its seed, and signatures by them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rsa::pkcs1::EncodeRsaPublicKey as _;
use rsa::pkcs8::EncodePublicKey as _;
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::{Pkcs1v15Sign, RsaPrivateKey};

use crate::random::Random;
use crate::theirs::Outcome;

/// PKCS #1 (RFC 8017): what stands in front of the hash.
const SHA256_PREFIX: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const SHA1_PREFIX: [u8; 15] =
    [0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14];

/// RSA keys of these sizes are made.
const BITS: [usize; 4] = [2048, 1024, 2048, 768];

pub(crate) struct Keys {
    rsa: Vec<RsaPrivateKey>,
    ed25519: Vec<Ed25519KeyPair>,
}

/// Which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Rsa(usize),
    Ed25519(usize),
}

struct Seeded(Random);

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        self.0.next() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.next() as u8;
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Seeded {}

impl Keys {
    pub(crate) fn make(seed: u64) -> Outcome<Self> {
        let mut random = Seeded(Random::of(seed, u64::MAX));
        let rsa = BITS.into_iter().map(|bits| RsaPrivateKey::new(&mut random, bits));
        let rsa = rsa.collect::<Result<_, _>>()?;
        let ed25519 = [[7; 32], [9; 32]]
            .map(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).expect("any seed is one"));
        Ok(Self { rsa, ed25519: ed25519.into() })
    }

    /// Most are the first; the last RSA key is too short to prove anything.
    pub(crate) fn which(random: &mut Random) -> Which {
        match random.below(20) {
            0..=8 => Which::Rsa(0),
            9..=12 => Which::Rsa(1),
            13 => Which::Rsa(3),
            14 => Which::Rsa(2),
            15..=18 => Which::Ed25519(0),
            _ => Which::Ed25519(1),
        }
    }

    /// The signature of a text by `a=`.
    pub(crate) fn sign(&self, which: Which, sha1: bool, text: &[u8]) -> Vec<u8> {
        let algorithm = if sha1 { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
        let hash = digest(algorithm, text);
        match which {
            Which::Rsa(index) => {
                let prefix = if sha1 { &SHA1_PREFIX[..] } else { &SHA256_PREFIX };
                let scheme =
                    Pkcs1v15Sign { hash_len: Some(hash.as_ref().len()), prefix: prefix.into() };
                self.rsa[index].sign(scheme, hash.as_ref()).expect("the key is long enough")
            }
            Which::Ed25519(index) => self.ed25519[index].sign(hash.as_ref()).as_ref().to_vec(),
        }
    }

    /// The public half for `p=`; RSA keys are published in two ways.
    pub(crate) fn public(&self, which: Which, bare: bool) -> String {
        let der = match which {
            Which::Rsa(index) if bare => {
                let public = self.rsa[index].to_public_key();
                public.to_pkcs1_der().expect("it has one").as_bytes().to_vec()
            }
            Which::Rsa(index) => {
                let public = self.rsa[index].to_public_key();
                public.to_public_key_der().expect("it has one").as_bytes().to_vec()
            }
            Which::Ed25519(index) => self.ed25519[index].public_key().as_ref().to_vec(),
        };
        STANDARD.encode(der)
    }
}

/// `rsa-sha256` by any key.
pub(crate) fn rsa_sha256(key: &RsaPrivateKey, text: &[u8]) -> Option<Vec<u8>> {
    let hash = digest(&SHA256, text);
    let scheme = Pkcs1v15Sign { hash_len: Some(32), prefix: SHA256_PREFIX.into() };
    key.sign(scheme, hash.as_ref()).ok()
}
