//! The client's side of SCRAM-SHA-256 (RFC 5802 §3, RFC 7677), for tests.

use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use fsmtp_proto::sasl::{ScramCredential, ScramKeys};
use ring::{digest, hmac, pbkdf2};

/// A user with a password, on one channel.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) nonce: String,
    /// `n,,` and the like.
    pub(crate) header: String,
    pub(crate) binding: Vec<u8>,
}

fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().unwrap()
}

fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut out = [0; 32];
    let iterations = NonZeroU32::new(iterations).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut out);
    out
}

pub(crate) fn client_key(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    sign(&salted(password, salt, iterations), b"Client Key")
}

fn credential(password: &str, salt: &[u8], iterations: u32) -> ScramCredential {
    let client_key = client_key(password, salt, iterations);
    ScramCredential {
        stored_key: digest::digest(&digest::SHA256, &client_key).as_ref().try_into().unwrap(),
        server_key: sign(&salted(password, salt, iterations), b"Server Key"),
    }
}

/// What a server keeps of a user's passwords.
pub(crate) fn keys(passwords: &[&str], salt: &[u8], iterations: u32) -> ScramKeys {
    ScramKeys {
        salt: salt.into(),
        iterations,
        credentials: passwords
            .iter()
            .map(|password| credential(password, salt, iterations))
            .collect(),
    }
}

impl Client {
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
            nonce: "rOprNGfwEbeRWgbNEkqO".into(),
            header: "n,,".into(),
            binding: Vec::new(),
        }
    }

    /// The same, bound to a channel.
    pub(crate) fn bound(self, binding: [u8; 32]) -> Self {
        Self { header: "p=tls-exporter,,".into(), binding: binding.into(), ..self }
    }

    fn bare(&self) -> String {
        let user = self.user.replace('=', "=3D").replace(',', "=2C");
        format!("n={user},r={}", self.nonce)
    }

    pub(crate) fn first(&self) -> String {
        self.header.clone() + &self.bare()
    }

    /// The last message and what the server must prove in return.
    pub(crate) fn last(&self, challenge: &str) -> (String, String) {
        let mut fields = challenge.split(',');
        let nonce = fields.next().unwrap().strip_prefix("r=").unwrap();
        assert!(nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len());
        let salt = BASE64_STANDARD.decode(fields.next().unwrap().strip_prefix("s=").unwrap());
        let iterations: u32 = fields.next().unwrap().strip_prefix("i=").unwrap().parse().unwrap();
        let salt = salt.unwrap();
        let channel = [self.header.as_bytes(), &self.binding].concat();
        let unproved = format!("c={},r={nonce}", BASE64_STANDARD.encode(channel));
        let signed = format!("{},{challenge},{unproved}", self.bare());
        let key = client_key(&self.password, &salt, iterations);
        let stored = digest::digest(&digest::SHA256, &key);
        let signature = sign(stored.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
        let last = format!("{unproved},p={}", BASE64_STANDARD.encode(proof));
        let server = sign(&salted(&self.password, &salt, iterations), b"Server Key");
        let server = sign(&server, signed.as_bytes());
        (last, format!("v={}", BASE64_STANDARD.encode(server)))
    }
}
