//! Who gets a message, and what opens it: the part of a record that stays in clear.
//!
//! Written by `incoming` for sealed messages, read by `recover` when the log is replayed. Each
//! recipient brings the record of the window that wraps its key, so that no message depends on the
//! record of another one. Layout in the header of `format`. Failure: bytes that encoding would not
//! have written are refused with a reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use fsmtp_rt::UnixTime;

use crate::envelope::{Envelope, RECIPIENTS_COUNT_MAX};
use crate::id::MailboxId;
use crate::seal::{RECIPIENT_WRAP_BYTES, RecipientWrap, WindowId, WindowRecord};

/// Windows that are shared during a replay; some 2 MB.
const WINDOWS_COUNT_MAX: usize = 4096;
/// Received, count of recipients.
const FIXED_BYTES: usize = 8 + 4;

/// One mailbox that gets a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// Whose it is.
    pub mailbox: MailboxId,
    /// What opens the message for its owner; none when it lies in clear.
    pub key: Option<RecipientKey>,
}

/// How the owner of one mailbox opens a message: the window, then the wrap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientKey {
    /// The message's key, wrapped by the window's.
    pub wrap: RecipientWrap,
    /// The window; shared by the messages that it wraps.
    pub window: Arc<WindowRecord>,
}

impl RecipientKey {
    /// What it takes in a message's record.
    #[must_use]
    pub fn record_bytes(window: &WindowRecord) -> usize {
        RECIPIENT_WRAP_BYTES + 2 + window.encoded_bytes()
    }
}

/// The recipients of an envelope, for a message in clear.
pub(super) fn in_clear(envelope: &Envelope) -> Vec<Recipient> {
    let recipient = |mailbox| Recipient { mailbox, key: None };
    envelope.recipients.iter().map(|to| recipient(to.mailbox)).collect()
}

/// Whether `keys` are those of recipients with these mailboxes, as
/// [`Incoming::commit_sealed`](super::Incoming::commit_sealed) says.
pub(super) fn fit(mailboxes: impl Iterator<Item = MailboxId>, keys: &[RecipientKey]) -> bool {
    let is_local = |mailbox: &MailboxId| *mailbox != MailboxId::QUEUE;
    let mut travels = false;
    let local = mailboxes.inspect(|mailbox| travels |= !is_local(mailbox)).filter(is_local);
    let (last, before) = match keys.split_last() {
        Some((last, before)) if last.wrap.mailbox == MailboxId::QUEUE => (true, before),
        _ => (false, keys),
    };
    local.eq(before.iter().map(|key| key.wrap.mailbox)) && travels == last
}

/// The keys of a message as its record holds them.
pub(super) fn encode(received: UnixTime, keys: &[RecipientKey]) -> Vec<u8> {
    let records: usize = keys.iter().map(|key| RecipientKey::record_bytes(&key.window)).sum();
    let mut bytes = Vec::with_capacity(FIXED_BYTES + records);
    bytes.extend_from_slice(&received.ms().to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(keys.len()).unwrap_or(u32::MAX).to_le_bytes());
    for key in keys {
        bytes.extend_from_slice(&key.wrap.encode());
        let record = key.window.encode();
        bytes.extend_from_slice(&u16::try_from(record.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Windows that were read a short while ago: messages of one window share its record in memory,
/// also when they are replayed. When there are too many it begins anew.
pub(super) struct Windows {
    known: BTreeMap<(MailboxId, WindowId), Arc<WindowRecord>>,
    count_max: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self::of(WINDOWS_COUNT_MAX)
    }
}

impl Windows {
    const fn of(count_max: usize) -> Self {
        Self { known: BTreeMap::new(), count_max }
    }

    fn share(&mut self, window: WindowRecord) -> Arc<WindowRecord> {
        let name = (window.mailbox(), window.id());
        if let Some(known) = self.known.get(&name).filter(|known| ***known == window) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.count_max {
            self.known.clear();
        }
        let window = Arc::new(window);
        self.known.insert(name, Arc::clone(&window));
        window
    }
}

/// What [`encode`] wrote.
pub(super) fn decode(
    bytes: &[u8],
    windows: &mut Windows,
) -> Result<(UnixTime, Vec<Recipient>), String> {
    let early = || "the keys end early".to_owned();
    let (received, rest) = bytes.split_first_chunk().ok_or_else(early)?;
    let (count, mut rest) = rest.split_first_chunk().ok_or_else(early)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    // A count that the bytes cannot hold must not make us allocate for it.
    if count > RECIPIENTS_COUNT_MAX || count.saturating_mul(RECIPIENT_WRAP_BYTES) > rest.len() {
        return Err("there are more recipients than keys".to_owned());
    }
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        let (wrap, behind) = rest.split_first_chunk::<RECIPIENT_WRAP_BYTES>().ok_or_else(early)?;
        let (bytes, behind) = behind.split_first_chunk().ok_or_else(early)?;
        let bytes = usize::from(u16::from_le_bytes(*bytes));
        let (record, behind) = behind.split_at_checked(bytes).ok_or_else(early)?;
        rest = behind;
        let wrap = RecipientWrap::decode(wrap).map_err(|error| error.to_string())?;
        let window = WindowRecord::decode(record).map_err(|error| error.to_string())?;
        if (wrap.mailbox, wrap.window) != (window.mailbox(), window.id()) {
            return Err("a key and its window are not of one mailbox".to_owned());
        }
        let key = RecipientKey { wrap, window: windows.share(window) };
        recipients.push(Recipient { mailbox: wrap.mailbox, key: Some(key) });
    }
    if !rest.is_empty() {
        return Err("the keys go on after their end".to_owned());
    }
    Ok((UnixTime::from_ms(u64::from_le_bytes(*received)), recipients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QueueId;
    use crate::seal::{ContentKey, MailboxKey, RsaBits, Sealer, UserKeys, Window};
    use proptest::prelude::*;

    fn random(seed: u8) -> impl FnMut(&mut [u8]) {
        let mut next = seed;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(167).wrapping_add(91);
                *byte = next;
            }
        }
    }

    fn key(mailbox: u64, owner: &MailboxKey, content: &ContentKey) -> RecipientKey {
        let mut random = random(mailbox as u8);
        let begun = Window::begin_under(MailboxId(mailbox), owner, &mut random);
        let (window, record) = begun.unwrap();
        let wrap = window.wrap(content, QueueId(5)).unwrap();
        RecipientKey { wrap, window: Arc::new(record) }
    }

    fn keys() -> Vec<RecipientKey> {
        let made = UserKeys::generate(MailboxId(1), RsaBits::B2048, &mut random(1));
        let (_, owner) = made.unwrap();
        let sealer = Sealer::begin(QueueId(5), &mut random(2));
        (1..4).map(|mailbox| key(mailbox, &owner, sealer.content_key())).collect()
    }

    #[test]
    fn keys_read_back_and_share_their_windows() {
        let (received, keys) = (UnixTime::from_ms(7), keys());
        let bytes = encode(received, &keys);
        assert_eq!(bytes.len(), FIXED_BYTES + 3 * RecipientKey::record_bytes(&keys[0].window));
        let mut windows = Windows::default();
        let first = decode(&bytes, &mut windows).unwrap();
        let wanted =
            |key: &RecipientKey| Recipient { mailbox: key.wrap.mailbox, key: Some(key.clone()) };
        assert_eq!(first, (received, keys.iter().map(wanted).collect()));
        let again = decode(&bytes, &mut windows).unwrap();
        for (one, other) in first.1.iter().zip(&again.1) {
            let [one, other] = [one, other].map(|to| &to.key.as_ref().unwrap().window);
            assert!(Arc::ptr_eq(one, other));
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], &mut windows).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert_eq!(decode(&longer, &mut windows).unwrap_err(), "the keys go on after their end");
        let mut many = bytes;
        many[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let said = decode(&many, &mut windows).unwrap_err();
        assert_eq!(said, "there are more recipients than keys");
    }

    #[test]
    fn beyond_the_limit_windows_are_read_anew_and_are_the_same() {
        let keys = keys();
        let (one, all) =
            (encode(UnixTime::from_ms(7), &keys[..1]), encode(UnixTime::from_ms(7), &keys));
        let mut windows = Windows::of(2);
        let shared = |windows: &mut Windows| {
            let (_, recipients) = decode(&one, windows).unwrap();
            Arc::clone(&recipients[0].key.as_ref().unwrap().window)
        };
        let first = shared(&mut windows);
        assert!(Arc::ptr_eq(&first, &shared(&mut windows)));
        // Three windows: the third one finds no room.
        let (_, recipients) = decode(&all, &mut windows).unwrap();
        let read = |to: &Recipient| to.key.clone().unwrap();
        assert_eq!(recipients.iter().map(read).collect::<Vec<_>>(), keys);
        assert_eq!(windows.known.len(), 1);
        let again = shared(&mut windows);
        assert!(!Arc::ptr_eq(&first, &again) && first == again);
        // What is known needs no room.
        assert!(Arc::ptr_eq(&again, &shared(&mut windows)));
        assert_eq!(windows.known.len(), 2);
    }

    #[test]
    fn a_key_and_the_window_of_another_mailbox_are_refused() {
        let mut keys = keys();
        keys[0].window = Arc::clone(&keys[1].window);
        let bytes = encode(UnixTime::from_ms(7), &keys);
        let said = decode(&bytes, &mut Windows::default()).unwrap_err();
        assert_eq!(said, "a key and its window are not of one mailbox");
    }

    proptest! {
        #[test]
        fn hostile_keys_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, &mut Windows::default());
            let _ = WindowRecord::decode(&bytes);
        }
    }
}
