//! AES-256-GCM and HKDF-SHA256, and what distinguishes one use from another.
//!
//! The only file of `seal` that seals or opens bytes with a symmetric key. Every sealing is bound
//! to a [`Context`], 32 bytes that say what for and for whom: bytes that were sealed for one
//! purpose, mailbox, window or message open for no other.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use super::error::SealError;
use super::key::{KEY_BYTES, Key, TAG_BYTES, WRAPPED_BYTES};

/// The nonce where a key seals one thing only.
pub(super) const NONCE_ONCE: [u8; 12] = [0; 12];

/// What a key or a sealing is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Body,
    Part,
    Recipient,
    Window,
    Rewrap,
    PrivateKey,
    Password,
    App,
    Recovery,
    Scram,
    Slot,
    Slots,
    Queue,
}

impl Purpose {
    /// Never to be changed, nor used for anything else: stored bytes depend on them.
    const fn label(self) -> &'static [u8; 8] {
        match self {
            Self::Body => b"fs1.body",
            Self::Part => b"fs1.part",
            Self::Recipient => b"fs1.rcpt",
            Self::Window => b"fs1.wndw",
            Self::Rewrap => b"fs1.rewr",
            Self::PrivateKey => b"fs1.priv",
            Self::Password => b"fs1.pass",
            Self::App => b"fs1.appp",
            Self::Recovery => b"fs1.rcvr",
            Self::Scram => b"fs1.scrm",
            Self::Slot => b"fs1.slot",
            Self::Slots => b"fs1.slts",
            Self::Queue => b"fs1.queu",
        }
    }
}

/// A purpose and up to three numbers (of mailbox, window, message, chunk), 0 where there is none.
pub(super) type Context = [u8; 32];

/// The bytes that bind a sealing to its use.
pub(super) fn context(purpose: Purpose, numbers: [u64; 3]) -> Context {
    let mut bytes = [0; 32];
    let (label, rest) = bytes.split_at_mut(8);
    label.copy_from_slice(purpose.label());
    for (place, number) in rest.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// A key that is ready for use. Holds some hundred bytes; not wiped on drop, `ring` has no way to.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &Key) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).expect("a key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals `data` in place; it grows by [`TAG_BYTES`].
    pub(super) fn seal(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(nonce, Aad::from(context), data)
            .map_err(|_| SealError::TooLarge("what is sealed"))
    }

    /// Opens `data` in place; gives the front of it that is plaintext.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        data: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(context), data).map_err(|_| SealError::Refused)
    }

    /// `key` under this one.
    pub(super) fn wrap(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        key: &Key,
    ) -> Result<[u8; WRAPPED_BYTES], SealError> {
        let mut wrapped = [0; WRAPPED_BYTES];
        let (sealed, tag_place) = wrapped.split_at_mut(KEY_BYTES);
        sealed.copy_from_slice(key.bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(context), sealed);
        // The clear key lies in `wrapped` when sealing failed, so nothing of it leaves then.
        let tag = tag.map_err(|_| SealError::Unavailable)?;
        debug_assert_eq!(tag.as_ref().len(), TAG_BYTES);
        tag_place.copy_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    /// What [`wrap`](Self::wrap) wrapped.
    pub(super) fn unwrap_key(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        wrapped: &[u8; WRAPPED_BYTES],
    ) -> Result<Key, SealError> {
        let mut bytes = zeroize::Zeroizing::new(*wrapped);
        let opened = self.open(nonce, context, bytes.as_mut())?;
        let key = opened.first_chunk::<KEY_BYTES>().ok_or(SealError::Refused)?;
        Ok(Key::from_bytes(key))
    }
}

/// The key for one purpose out of a secret that has at least 128 bits of randomness (RFC 5869).
pub(super) fn derive(secret: &[u8], salt: &[u8], context: &Context) -> Key {
    let info = [context.as_slice()];
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let derived = derived.expand(&info, hkdf::HKDF_SHA256).expect("32 bytes are one block");
    Key::filled(|key| derived.fill(key).expect("SHA-256 gives 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn agrees_with_the_gcm_specification() {
        // Test case 16 of "The Galois/Counter Mode of Operation", McGrew and Viega.
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let key = Key::from_bytes(key.first_chunk().unwrap());
        let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let nonce = *hex("cafebabefacedbaddecaf888").first_chunk().unwrap();
        let mut data = plain.clone();
        let cipher = Cipher::new(&key);
        cipher.seal(nonce, &aad, &mut data).unwrap();
        let expected = hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                            8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
                            76fc6ece0f4e1768cddf8853bb2d551b");
        assert_eq!(data, expected);
        assert_eq!(cipher.open(nonce, &aad, &mut data).unwrap(), plain);
    }

    #[test]
    fn agrees_with_rfc_5869() {
        // Appendix A.3's extraction (no salt, no info) cannot be used, since info is a context
        // here; this is Python's hmac, twice: extract, then one block of expand.
        let derived = derive(b"secret", b"salt", &context(Purpose::App, [1, 2, 3]));
        let expected = hex("28ca824d93e09d8f29a9a3bd9ff5f8dcd0066a82399bb66dd5249093e0d2d4cd");
        assert_eq!(derived.bytes().as_slice(), expected);
    }

    #[test]
    fn contexts_differ_in_every_field() {
        let purposes = [
            Purpose::Body,
            Purpose::Part,
            Purpose::Recipient,
            Purpose::Window,
            Purpose::Rewrap,
            Purpose::PrivateKey,
            Purpose::Password,
            Purpose::App,
            Purpose::Recovery,
            Purpose::Scram,
            Purpose::Slot,
            Purpose::Slots,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for purpose in purposes {
            for numbers in [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]] {
                assert!(seen.insert(context(purpose, numbers)), "{purpose:?} {numbers:?}");
            }
        }
    }
}
