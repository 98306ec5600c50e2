//! The envelope of a message as it is kept with the body, and its binary form.
//!
//! The desk makes one from the dialogue; the spool writes it into the message's record; the mailbox
//! index reads it to know who gets the message. Nothing here judges addresses: they were parsed
//! before, and are bytes here.
//!
//! The binary form begins with a version. Limits: [`PATH_BYTES_MAX`] for an address,
//! [`PARAMETER_BYTES_MAX`] for ENVID and ORCPT, [`RECIPIENTS_COUNT_MAX`] recipients,
//! [`ENVELOPE_BYTES_MAX`] in all. Encoding refuses what is over a limit, decoding refuses
//! everything that encoding would not have written; neither allocates more than the bytes justify.

use core::fmt;

use fsmtp_rt::UnixTime;

use crate::id::MailboxId;

/// The longest address. RFC 5321 §4.5.3.1.3 says 256; the rest is room for UTF-8 (RFC 6531).
pub const PATH_BYTES_MAX: usize = 1024;
/// The longest ENVID or ORCPT. RFC 3461 §5.4 says 100 and 500 characters, before decoding.
pub const PARAMETER_BYTES_MAX: usize = 512;
/// The most recipients. SMTP takes fewer; the rest is room for aliases with several targets.
pub const RECIPIENTS_COUNT_MAX: usize = 16_384;
/// The largest binary form: a thousand recipients with the longest RFC 3461 parameters fit.
pub const ENVELOPE_BYTES_MAX: usize = 832 * 1024;
/// The newest version of the binary form, and the only one so far.
pub const ENVELOPE_VERSION: u8 = 1;

/// What the sender said about the body's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyFlags {
    /// BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// BODY=BINARYMIME (RFC 3030).
    pub binary: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
}

/// How much of the message a failure report shall carry (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// The whole message.
    Full,
    /// The header section only.
    Headers,
}

/// When the sender wants to hear about a recipient (RFC 3461 §4.1). None set: not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notify {
    /// In no case; excludes the others.
    pub never: bool,
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

/// One mailbox that gets the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvelopeRecipient {
    /// The mailbox that the address resolved to when it was accepted.
    pub mailbox: MailboxId,
    /// The address as the client gave it, without angle brackets.
    pub address: Vec<u8>,
    /// The NOTIFY parameter.
    pub notify: Notify,
    /// The ORCPT parameter, type and address, as it was given.
    pub orcpt: Option<Vec<u8>>,
}

/// Who sent a message, to whom, and what was agreed about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    /// The sender without angle brackets; empty for the null sender.
    pub reverse_path: Vec<u8>,
    /// When the message was taken.
    pub received: UnixTime,
    /// What was said about the body.
    pub body: BodyFlags,
    /// The RET parameter.
    pub ret: Option<Ret>,
    /// The ENVID parameter, as it was given.
    pub envid: Option<Vec<u8>>,
    /// REQUIRETLS (RFC 8689): it goes nowhere but under TLS with a proved host.
    pub require_tls: bool,
    /// Who gets it; may be empty when every recipient asked for nothing to be kept.
    pub recipients: Vec<EnvelopeRecipient>,
}

/// An envelope cannot be written, or bytes are not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnvelopeError {
    /// A version that is not known here.
    Version(u8),
    /// A part is over its limit; says which.
    TooLarge(&'static str),
    /// Not the binary form of an envelope; says where it goes wrong.
    Malformed(&'static str),
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "envelope version {found} is unknown, {ENVELOPE_VERSION} is the newest")
            }
            Self::TooLarge(part) => write!(f, "the envelope's {part} is over its limit"),
            Self::Malformed(part) => write!(f, "the envelope's {part} is malformed"),
        }
    }
}

impl core::error::Error for EnvelopeError {}

const FLAG_EIGHT_BIT: u8 = 1;
const FLAG_BINARY: u8 = 1 << 1;
const FLAG_UTF8: u8 = 1 << 2;
const FLAG_RET_FULL: u8 = 1 << 3;
const FLAG_RET_HEADERS: u8 = 1 << 4;
const FLAG_ENVID: u8 = 1 << 5;
const FLAG_REQUIRE_TLS: u8 = 1 << 6;
const FLAGS_KNOWN: u8 = (1 << 7) - 1;

const NOTIFY_NEVER: u8 = 1;
const NOTIFY_SUCCESS: u8 = 1 << 1;
const NOTIFY_FAILURE: u8 = 1 << 2;
const NOTIFY_DELAY: u8 = 1 << 3;
const NOTIFY_ORCPT: u8 = 1 << 4;
const NOTIFY_KNOWN: u8 = (1 << 5) - 1;

/// Version, flags, time, length of the path, count of recipients.
const FIXED_BYTES: usize = 1 + 1 + 8 + 2 + 4;
/// What an allocation costs beside its bytes, about.
const ALLOCATION_BYTES: usize = 16;
/// Mailbox, length of the address, notify.
const RECIPIENT_FIXED_BYTES: usize = 8 + 2 + 1;

impl Envelope {
    /// Bytes of the binary form.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] when a limit of this module is exceeded.
    pub fn encoded_bytes(&self) -> Result<usize, EnvelopeError> {
        let part = |bytes: &[u8], max: usize, name| {
            if bytes.len() > max { Err(EnvelopeError::TooLarge(name)) } else { Ok(bytes.len()) }
        };
        let mut total = FIXED_BYTES + part(&self.reverse_path, PATH_BYTES_MAX, "sender")?;
        if let Some(envid) = &self.envid {
            total += 2 + part(envid, PARAMETER_BYTES_MAX, "ENVID")?;
        }
        if self.recipients.len() > RECIPIENTS_COUNT_MAX {
            return Err(EnvelopeError::TooLarge("recipient list"));
        }
        for recipient in &self.recipients {
            total += RECIPIENT_FIXED_BYTES + part(&recipient.address, PATH_BYTES_MAX, "recipient")?;
            if let Some(orcpt) = &recipient.orcpt {
                total += 2 + part(orcpt, PARAMETER_BYTES_MAX, "ORCPT")?;
            }
        }
        if total > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge("recipient list"));
        }
        Ok(total)
    }

    /// About what it holds in memory besides itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        let piece = |bytes: &Vec<u8>| bytes.capacity() + ALLOCATION_BYTES;
        let optional = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, piece);
        let recipient = |to: &EnvelopeRecipient| piece(&to.address) + optional(&to.orcpt);
        piece(&self.reverse_path)
            + optional(&self.envid)
            + self.recipients.capacity() * size_of::<EnvelopeRecipient>()
            + self.recipients.iter().map(recipient).sum::<usize>()
    }

    /// Hands the binary form to `put`, piece by piece. Call [`Self::encoded_bytes`] first: it
    /// checks the limits, and this writes exactly so many bytes.
    pub fn encode(&self, mut put: impl FnMut(&[u8])) {
        let mut fixed = [0; 12];
        fixed[0] = ENVELOPE_VERSION;
        fixed[1] = self.flags();
        fixed[2..10].copy_from_slice(&self.received.ms().to_le_bytes());
        fixed[10..].copy_from_slice(&short(self.reverse_path.len()));
        put(&fixed);
        put(&self.reverse_path);
        if let Some(envid) = &self.envid {
            put(&short(envid.len()));
            put(envid);
        }
        let count = u32::try_from(self.recipients.len()).unwrap_or(u32::MAX);
        put(&count.to_le_bytes());
        for recipient in &self.recipients {
            let mut fixed = [0; RECIPIENT_FIXED_BYTES];
            fixed[..8].copy_from_slice(&recipient.mailbox.0.to_le_bytes());
            fixed[8..10].copy_from_slice(&short(recipient.address.len()));
            fixed[10] = recipient.flags();
            put(&fixed);
            put(&recipient.address);
            if let Some(orcpt) = &recipient.orcpt {
                put(&short(orcpt.len()));
                put(orcpt);
            }
        }
    }

    /// Reads the binary form; the bytes may come from anywhere.
    ///
    /// # Errors
    /// [`EnvelopeError`] for everything that [`Self::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge("recipient list"));
        }
        let mut rest = Rest(bytes);
        match rest.byte("version")? {
            ENVELOPE_VERSION => {}
            version => return Err(EnvelopeError::Version(version)),
        }
        let flags = rest.byte("flags")?;
        let received = UnixTime::from_ms(rest.long("time")?);
        let reverse_path = rest.piece(PATH_BYTES_MAX, "sender")?.to_vec();
        let ret = match flags & (FLAG_RET_FULL | FLAG_RET_HEADERS) {
            0 => None,
            FLAG_RET_FULL => Some(Ret::Full),
            FLAG_RET_HEADERS => Some(Ret::Headers),
            _ => return Err(EnvelopeError::Malformed("flags")),
        };
        if flags & !FLAGS_KNOWN != 0 {
            return Err(EnvelopeError::Malformed("flags"));
        }
        let envid = match flags & FLAG_ENVID {
            0 => None,
            _ => Some(rest.piece(PARAMETER_BYTES_MAX, "ENVID")?.to_vec()),
        };
        let recipients = rest.recipients()?;
        if !rest.0.is_empty() {
            return Err(EnvelopeError::Malformed("end"));
        }
        let body = BodyFlags {
            eight_bit: flags & FLAG_EIGHT_BIT != 0,
            binary: flags & FLAG_BINARY != 0,
            utf8: flags & FLAG_UTF8 != 0,
        };
        let require_tls = flags & FLAG_REQUIRE_TLS != 0;
        Ok(Self { reverse_path, received, body, ret, envid, require_tls, recipients })
    }

    fn flags(&self) -> u8 {
        let ret = match self.ret {
            None => 0,
            Some(Ret::Full) => FLAG_RET_FULL,
            Some(Ret::Headers) => FLAG_RET_HEADERS,
        };
        bit(self.body.eight_bit, FLAG_EIGHT_BIT)
            | bit(self.body.binary, FLAG_BINARY)
            | bit(self.body.utf8, FLAG_UTF8)
            | bit(self.envid.is_some(), FLAG_ENVID)
            | bit(self.require_tls, FLAG_REQUIRE_TLS)
            | ret
    }
}

impl EnvelopeRecipient {
    fn flags(&self) -> u8 {
        bit(self.notify.never, NOTIFY_NEVER)
            | bit(self.notify.success, NOTIFY_SUCCESS)
            | bit(self.notify.failure, NOTIFY_FAILURE)
            | bit(self.notify.delay, NOTIFY_DELAY)
            | bit(self.orcpt.is_some(), NOTIFY_ORCPT)
    }
}

const fn bit(set: bool, value: u8) -> u8 {
    if set { value } else { 0 }
}

fn short(bytes: usize) -> [u8; 2] {
    // `encoded_bytes` has checked the limits, all of which are below 64 KiB.
    u16::try_from(bytes).unwrap_or(u16::MAX).to_le_bytes()
}

/// What was not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize, part: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(EnvelopeError::Malformed(part))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], EnvelopeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(EnvelopeError::Malformed(part))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self, part: &'static str) -> Result<u8, EnvelopeError> {
        self.array::<1>(part).map(|[byte]| byte)
    }

    fn long(&mut self, part: &'static str) -> Result<u64, EnvelopeError> {
        self.array(part).map(u64::from_le_bytes)
    }

    fn piece(&mut self, bytes_max: usize, part: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let bytes = usize::from(u16::from_le_bytes(self.array(part)?));
        if bytes > bytes_max {
            return Err(EnvelopeError::TooLarge(part));
        }
        self.take(bytes, part)
    }

    fn recipients(&mut self) -> Result<Vec<EnvelopeRecipient>, EnvelopeError> {
        const PART: &str = "recipient list";
        let count = usize::try_from(u32::from_le_bytes(self.array(PART)?))
            .map_err(|_| EnvelopeError::TooLarge(PART))?;
        if count > RECIPIENTS_COUNT_MAX {
            return Err(EnvelopeError::TooLarge(PART));
        }
        // A count that the bytes cannot hold must not make us allocate for it.
        if count.saturating_mul(RECIPIENT_FIXED_BYTES) > self.0.len() {
            return Err(EnvelopeError::Malformed(PART));
        }
        let mut recipients = Vec::with_capacity(count);
        for _ in 0..count {
            recipients.push(self.recipient()?);
        }
        Ok(recipients)
    }

    fn recipient(&mut self) -> Result<EnvelopeRecipient, EnvelopeError> {
        let mailbox = MailboxId(self.long("recipient")?);
        let address_bytes = usize::from(u16::from_le_bytes(self.array("recipient")?));
        if address_bytes > PATH_BYTES_MAX {
            return Err(EnvelopeError::TooLarge("recipient"));
        }
        let flags = self.byte("recipient")?;
        if flags & !NOTIFY_KNOWN != 0 {
            return Err(EnvelopeError::Malformed("NOTIFY"));
        }
        let address = self.take(address_bytes, "recipient")?.to_vec();
        let orcpt = match flags & NOTIFY_ORCPT {
            0 => None,
            _ => Some(self.piece(PARAMETER_BYTES_MAX, "ORCPT")?.to_vec()),
        };
        let notify = Notify {
            never: flags & NOTIFY_NEVER != 0,
            success: flags & NOTIFY_SUCCESS != 0,
            failure: flags & NOTIFY_FAILURE != 0,
            delay: flags & NOTIFY_DELAY != 0,
        };
        Ok(EnvelopeRecipient { mailbox, address, notify, orcpt })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    fn recipients() -> impl Strategy<Value = EnvelopeRecipient> {
        (any::<u64>(), vec(any::<u8>(), 0..80), 0u8..16, of(vec(any::<u8>(), 0..40))).prop_map(
            |(mailbox, address, bits, orcpt)| EnvelopeRecipient {
                mailbox: MailboxId(mailbox),
                address,
                notify: Notify {
                    never: bits & 1 != 0,
                    success: bits & 2 != 0,
                    failure: bits & 4 != 0,
                    delay: bits & 8 != 0,
                },
                orcpt,
            },
        )
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        (
            vec(any::<u8>(), 0..80),
            any::<u64>(),
            0u8..16,
            of(any::<bool>()),
            of(vec(any::<u8>(), 0..100)),
            vec(recipients(), 0..6),
        )
            .prop_map(|(reverse_path, ms, bits, ret, envid, recipients)| Envelope {
                reverse_path,
                received: UnixTime::from_ms(ms),
                body: BodyFlags {
                    eight_bit: bits & 1 != 0,
                    binary: bits & 2 != 0,
                    utf8: bits & 4 != 0,
                },
                ret: ret.map(|full| if full { Ret::Full } else { Ret::Headers }),
                envid,
                require_tls: bits & 8 != 0,
                recipients,
            })
    }

    fn encoded(envelope: &Envelope) -> Vec<u8> {
        let mut bytes = Vec::new();
        envelope.encode(|piece| bytes.extend_from_slice(piece));
        assert_eq!(envelope.encoded_bytes(), Ok(bytes.len()));
        bytes
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(envelope in envelopes()) {
            prop_assert_eq!(Envelope::decode(&encoded(&envelope)), Ok(envelope));
        }

        #[test]
        fn every_cut_is_refused(envelope in envelopes(), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&envelope);
            let cut = cut.index(bytes.len());
            prop_assert!(Envelope::decode(&bytes[..cut]).is_err());
        }

        #[test]
        fn garbage_is_refused_or_means_one_thing(mut bytes in vec(any::<u8>(), 0..200)) {
            if let Some(version) = bytes.first_mut() {
                *version = ENVELOPE_VERSION;
            }
            if let Ok(envelope) = Envelope::decode(&bytes) {
                prop_assert_eq!(encoded(&envelope), bytes);
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(
            envelope in envelopes(), at in any::<prop::sample::Index>(), with in 1u8..,
        ) {
            let mut bytes = encoded(&envelope);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            if let Ok(envelope) = Envelope::decode(&bytes) {
                prop_assert_eq!(encoded(&envelope), bytes);
            }
        }
    }

    #[test]
    fn each_limit_is_reached_and_held() {
        let recipient = EnvelopeRecipient {
            mailbox: MailboxId(1),
            address: vec![b'a'; 256],
            notify: Notify::default(),
            orcpt: Some(vec![b'o'; 500]),
        };
        let thousand = Envelope { recipients: vec![recipient; 1000], ..Envelope::default() };
        assert_eq!(Envelope::decode(&encoded(&thousand)), Ok(thousand.clone()));

        let mut over = thousand.clone();
        over.recipients.extend(thousand.recipients);
        assert_eq!(over.encoded_bytes(), Err(EnvelopeError::TooLarge("recipient list")));

        let path = |bytes| Envelope { reverse_path: vec![b'p'; bytes], ..Envelope::default() };
        assert!(path(PATH_BYTES_MAX).encoded_bytes().is_ok());
        assert_eq!(
            path(PATH_BYTES_MAX + 1).encoded_bytes(),
            Err(EnvelopeError::TooLarge("sender"))
        );
        let envid = |bytes| Envelope { envid: Some(vec![b'e'; bytes]), ..Envelope::default() };
        assert!(envid(PARAMETER_BYTES_MAX).encoded_bytes().is_ok());
        assert!(envid(PARAMETER_BYTES_MAX + 1).encoded_bytes().is_err());
        let bare = EnvelopeRecipient {
            mailbox: MailboxId(1),
            address: Vec::new(),
            notify: Notify::default(),
            orcpt: None,
        };
        let many =
            |count| Envelope { recipients: vec![bare.clone(); count], ..Envelope::default() };
        assert!(Envelope::decode(&encoded(&many(RECIPIENTS_COUNT_MAX))).is_ok());
        assert!(many(RECIPIENTS_COUNT_MAX + 1).encoded_bytes().is_err());
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused() {
        let mut bytes = encoded(&Envelope::default());
        let count_at = bytes.len() - 4;
        bytes[count_at..].copy_from_slice(&16_000u32.to_le_bytes());
        assert_eq!(Envelope::decode(&bytes), Err(EnvelopeError::Malformed("recipient list")));
        bytes[count_at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Envelope::decode(&bytes), Err(EnvelopeError::TooLarge("recipient list")));
    }

    #[test]
    fn envelopes_from_before_requiretls_are_read() {
        let mut bytes = encoded(&Envelope { require_tls: true, ..Envelope::default() });
        assert_eq!(bytes[1], FLAG_REQUIRE_TLS);
        bytes[1] = 0;
        assert_eq!(Envelope::decode(&bytes), Ok(Envelope::default()));
        bytes[1] = 1 << 7;
        assert_eq!(Envelope::decode(&bytes), Err(EnvelopeError::Malformed("flags")));
    }

    #[test]
    fn another_version_is_refused_by_number() {
        assert_eq!(Envelope::decode(&[9, 0, 0]), Err(EnvelopeError::Version(9)));
    }
}
