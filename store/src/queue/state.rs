//! What is kept of a queued message between two starts, as bytes.
//!
//! Version 1: received (ms), count of legs; for each of them domain, due (s), attempts, flags,
//! cause, code, count of recipients and their places in the envelope, the last words; written as
//! in `leb`.
//! Failure: every byte that encoding would not have written is refused with a reason.

use std::rc::Rc;

use fsmtp_rt::UnixTime;

use super::{Cause, DOMAIN_BYTES_MAX, WORDS_BYTES_MAX};
use crate::envelope::RECIPIENTS_COUNT_MAX;
use crate::leb::{Rest, put, put_text};

const VERSION: u64 = 1;
const HELD: u64 = 1;
const DELAY_TOLD: u64 = 1 << 1;

/// A leg as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) domain: Rc<str>,
    pub(super) due_s: u64,
    pub(super) attempts_count: u16,
    pub(super) held: bool,
    pub(super) delay_told: bool,
    pub(super) cause: Cause,
    pub(super) code: u16,
    pub(super) recipients: Rc<[u16]>,
    pub(super) words: Rc<str>,
}

pub(super) fn encode(received: UnixTime, legs: &[Kept]) -> Box<[u8]> {
    let mut row = Vec::new();
    put(&mut row, VERSION);
    put(&mut row, received.ms());
    put(&mut row, legs.len() as u64);
    for leg in legs {
        put_text(&mut row, &leg.domain);
        put(&mut row, leg.due_s);
        put(&mut row, u64::from(leg.attempts_count));
        let flag = |is: bool, flag| if is { flag } else { 0 };
        put(&mut row, flag(leg.held, HELD) | flag(leg.delay_told, DELAY_TOLD));
        put(&mut row, u64::from(leg.cause as u8));
        put(&mut row, u64::from(leg.code));
        put(&mut row, leg.recipients.len() as u64);
        for recipient in leg.recipients.iter() {
            put(&mut row, u64::from(*recipient));
        }
        put_text(&mut row, &leg.words);
    }
    row.into()
}

pub(super) fn decode(row: &[u8]) -> Result<(UnixTime, Vec<Kept>), &'static str> {
    let mut rest = Rest(row);
    if rest.number()? != VERSION {
        return Err("its version is unknown");
    }
    let received = UnixTime::from_ms(rest.number()?);
    let legs_count: usize = rest.small()?;
    // What a leg takes at least: nobody makes us allocate for more than there is.
    if legs_count == 0 || legs_count > rest.0.len() / 8 {
        return Err("its count of legs is wrong");
    }
    let mut legs = Vec::with_capacity(legs_count);
    for _ in 0..legs_count {
        legs.push(leg(&mut rest)?);
    }
    rest.end()?;
    Ok((received, legs))
}

fn leg(rest: &mut Rest<'_>) -> Result<Kept, &'static str> {
    let domain = rest.text()?;
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX {
        return Err("its domain has a wrong length");
    }
    let (due_s, attempts_count, flags) = (rest.number()?, rest.small()?, rest.number()?);
    if flags & !(HELD | DELAY_TOLD) != 0 {
        return Err("its flags are unknown");
    }
    let cause = Cause::from_number(rest.small()?).ok_or("its cause is unknown")?;
    let code = rest.small()?;
    let count: usize = rest.small()?;
    if count == 0 || count > RECIPIENTS_COUNT_MAX || count > rest.0.len() {
        return Err("its count of recipients is wrong");
    }
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        recipients.push(rest.small()?);
    }
    let words = rest.text()?;
    if words.len() > WORDS_BYTES_MAX {
        return Err("its words are too long");
    }
    Ok(Kept {
        domain: domain.into(),
        due_s,
        attempts_count,
        held: flags & HELD != 0,
        delay_told: flags & DELAY_TOLD != 0,
        cause,
        code,
        recipients: recipients.into(),
        words: words.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn kept() -> impl Strategy<Value = Kept> {
        let numbers =
            (any::<u64>(), any::<u16>(), any::<bool>(), any::<bool>(), 0..10_u8, 0..999_u16);
        ("[a-z.]{1,40}", numbers, vec(any::<u16>(), 1..9), "[ -~é]{0,60}").prop_map(
            |(
                domain,
                (due_s, attempts_count, held, delay_told, cause, code),
                recipients,
                words,
            )| {
                Kept {
                    domain: domain.into(),
                    due_s,
                    attempts_count,
                    held,
                    delay_told,
                    cause: Cause::from_number(cause).unwrap(),
                    code,
                    recipients: recipients.into(),
                    words: words.into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(ms in any::<u64>(), legs in vec(kept(), 1..5)) {
            let received = UnixTime::from_ms(ms);
            let row = encode(received, &legs);
            prop_assert_eq!(decode(&row), Ok((received, legs)));
            for end in 0..row.len() {
                prop_assert!(decode(&row[..end]).is_err());
            }
        }

        #[test]
        fn garbage_is_refused_or_means_one_thing(row in vec(any::<u8>(), 0..120)) {
            if let Ok((received, legs)) = decode(&row) {
                prop_assert!(encode(received, &legs).len() <= row.len());
            }
        }
    }
}
