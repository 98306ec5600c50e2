//! Bytes that are wiped when they are dropped and that `Debug` does not show.

use core::fmt;
use zeroize::{Zeroize, Zeroizing};

/// A password or a token.
#[derive(PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    // copy: the window that the bytes stand in may be gone when the answer comes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The ClientKey of SCRAM (RFC 5802 §3), recovered from a proof that was right.
#[derive(PartialEq, Eq)]
pub struct ClientKey([u8; 32]);

impl ClientKey {
    /// RFC 5802 §3: what the client has hidden in its proof by the signature.
    pub(super) fn recover(proof: &[u8; 32], signature: &[u8]) -> Self {
        let mut key = Self([0; 32]);
        for (byte, (proof, signature)) in key.0.iter_mut().zip(proof.iter().zip(signature)) {
            *byte = proof ^ signature;
        }
        key
    }

    /// The key.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for ClientKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey")
    }
}
