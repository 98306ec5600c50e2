//! Secrets that people copy: app passwords and recovery keys, as groups of letters and digits.
//!
//! 128 random bits and a checksum of 12 bits make 28 characters of Crockford's base 32, in seven
//! groups of four: `7k2d-m9xp-...`. Made by us and shown once; Argon2 is not needed to protect
//! them, because nobody can try 2^128 of them. Case, hyphens and blanks do not count when one is
//! read, and what Crockford says may be mistaken is taken as meant: `o` for `0`, `i` and `l` for
//! `1`.
//!
//! Failure: a wrong length, a character outside the alphabet, and a checksum that does not fit each
//! have a name, so that a typing error is not reported as a wrong key. The checksum is a CRC: it
//! finds every single wrong character and every two neighbours that changed places, and all but
//! one in 4,096 of the rest. The two kinds start it differently, so one is not taken for the other.

use core::fmt;

use zeroize::Zeroizing;

use super::key::Random;

/// Random bytes of a secret.
pub(super) const SECRET_BYTES: usize = 16;
const CHARACTERS_COUNT: usize = 28;
const GROUP_CHARACTERS: usize = 4;
/// The longest text that is looked at; arbitrary, room for generous blanks.
const TEXT_BYTES_MAX: usize = 128;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What a secret opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretKind {
    /// A password for one program or device.
    App,
    /// The key on paper, for when the password is forgotten.
    Recovery,
}

impl SecretKind {
    const fn crc_start(self) -> u16 {
        match self {
            Self::App => 0x5a1,
            Self::Recovery => 0xc3e,
        }
    }
}

/// Why a text is no secret of the kind that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextError {
    /// Not 28 characters, hyphens and blanks not counted.
    Length,
    /// A character that the alphabet does not have.
    Character,
    /// The characters do not fit together: one is wrong, or it is a secret of the other kind.
    Checksum,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "7 groups of 4 letters or digits are expected"),
            Self::Character => write!(f, "there is a character that these keys do not use"),
            Self::Checksum => {
                write!(f, "a typing error, or a key of another kind: the characters do not fit")
            }
        }
    }
}

impl core::error::Error for TextError {}

/// A secret that opens a mailbox.
pub struct Secret {
    kind: SecretKind,
    bytes: Zeroizing<[u8; SECRET_BYTES]>,
}

impl Secret {
    pub(super) fn fresh(kind: SecretKind, random: Random<'_>) -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        random(bytes.as_mut());
        Self { kind, bytes }
    }

    /// Reads a secret as somebody typed it.
    ///
    /// # Errors
    /// [`TextError`] names what is wrong with it.
    pub fn parse(kind: SecretKind, text: &[u8]) -> Result<Self, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::Length);
        }
        let mut word = Zeroizing::new(Word::default());
        let mut count = 0;
        for character in text.iter().filter(|c| !matches!(c, b'-' | b' ' | b'\t')) {
            count += 1;
            if count > CHARACTERS_COUNT {
                return Err(TextError::Length);
            }
            word.push(digit(*character).ok_or(TextError::Character)?);
        }
        if count != CHARACTERS_COUNT {
            return Err(TextError::Length);
        }
        let bytes = Zeroizing::new(word.secret.to_be_bytes());
        if crc12(kind, &bytes) != word.check {
            return Err(TextError::Checksum);
        }
        Ok(Self { kind, bytes })
    }

    /// What it opens.
    #[must_use]
    pub const fn kind(&self) -> SecretKind {
        self.kind
    }

    /// The text to show, once.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let secret = u128::from_be_bytes(*self.bytes);
        let mut word = Zeroizing::new(Word { secret, check: crc12(self.kind, &self.bytes) });
        let mut text = Zeroizing::new(String::with_capacity(CHARACTERS_COUNT * 2));
        for index in 0..CHARACTERS_COUNT {
            if index > 0 && index.is_multiple_of(GROUP_CHARACTERS) {
                text.push('-');
            }
            let character = ALPHABET.get(word.pop()).copied().unwrap_or(b'0');
            text.push(char::from(character));
        }
        text
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?}, ..)", self.kind)
    }
}

/// The 140 bits of a text: the secret, then the checksum; characters pass through at 5 bits each.
#[derive(Default)]
struct Word {
    secret: u128,
    check: u16,
}

const CHECK_BITS: u32 = 12;

impl Word {
    /// Appends five bits at the end.
    fn push(&mut self, five: u8) {
        let check = u32::from(self.check) << 5 | u32::from(five);
        self.secret = self.secret << 5 | u128::from(check >> CHECK_BITS);
        self.check = (check & ((1 << CHECK_BITS) - 1)) as u16;
    }

    /// Takes five bits from the front.
    fn pop(&mut self) -> usize {
        let five = (self.secret >> 123) as usize;
        let check = u32::from(self.check) << 5;
        self.secret = self.secret << 5 | u128::from(check >> CHECK_BITS);
        self.check = (check & ((1 << CHECK_BITS) - 1)) as u16;
        five
    }
}

impl zeroize::Zeroize for Word {
    fn zeroize(&mut self) {
        self.secret.zeroize();
        self.check.zeroize();
    }
}

fn digit(character: u8) -> Option<u8> {
    let meant = match character.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    let index = ALPHABET.iter().position(|&a| a == meant)?;
    u8::try_from(index).ok()
}

/// CRC-12, polynomial x^12 + x^11 + x^3 + x^2 + x + 1.
fn crc12(kind: SecretKind, bytes: &[u8; SECRET_BYTES]) -> u16 {
    let mut crc = kind.crc_start();
    for byte in bytes {
        crc ^= u16::from(*byte) << 4;
        for _ in 0..8 {
            crc = if crc & 0x800 == 0 { crc << 1 } else { crc << 1 ^ 0x80f } & 0xfff;
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(kind: SecretKind, seed: u8) -> Secret {
        let mut next = seed;
        Secret::fresh(kind, &mut |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(167).wrapping_add(91);
                *byte = next;
            }
        })
    }

    #[test]
    fn the_text_reads_back_however_it_is_typed() {
        for kind in [SecretKind::App, SecretKind::Recovery] {
            for seed in 0..=255 {
                let secret = secret(kind, seed);
                let text = secret.text();
                assert_eq!(text.len(), 34, "{}", *text);
                let sloppy = text.to_uppercase().replace('-', "  ").replace('0', "O");
                let sloppy = sloppy.replace('1', "l");
                for typed in [text.as_str(), &sloppy, &text.replace('-', "")] {
                    let read = Secret::parse(kind, typed.as_bytes()).unwrap();
                    assert_eq!(read.bytes(), secret.bytes());
                }
            }
        }
    }

    #[test]
    fn every_wrong_character_and_every_exchange_of_neighbours_is_named() {
        for kind in [SecretKind::App, SecretKind::Recovery] {
            let text = secret(kind, 7).text().replace('-', "").into_bytes();
            for index in 0..text.len() {
                for other in ALPHABET.iter().filter(|a| **a != text[index]) {
                    let mut typed = text.clone();
                    typed[index] = *other;
                    assert_eq!(Secret::parse(kind, &typed).unwrap_err(), TextError::Checksum);
                }
                let mut typed = text.clone();
                typed.swap(index, (index + 1).min(text.len() - 1));
                if typed != text {
                    assert_eq!(Secret::parse(kind, &typed).unwrap_err(), TextError::Checksum);
                }
            }
        }
    }

    #[test]
    fn other_mistakes_are_named() {
        let app = secret(SecretKind::App, 1).text();
        let parse = |text: &str| Secret::parse(SecretKind::App, text.as_bytes()).unwrap_err();
        assert_eq!(parse(""), TextError::Length);
        assert_eq!(parse(&app[..33]), TextError::Length);
        assert_eq!(parse(&format!("{}0", *app)), TextError::Length);
        assert_eq!(parse(&" ".repeat(200)), TextError::Length);
        assert_eq!(parse(&app.replace(&app[..1], "u")), TextError::Character);
        assert_eq!(parse("correct horse battery staple"), TextError::Length);
        let other = Secret::parse(SecretKind::Recovery, app.as_bytes());
        assert_eq!(other.unwrap_err(), TextError::Checksum);
    }
}
