//! What filters say: one packet at the front of a window.
//!
//! A packet is whole in the window before it is looked at, so it has at most [`REPLY_BYTES_MAX`]
//! bytes. Each kind has one form; whatever differs from it is a [`Failure`].

use super::Failure;

/// The longest packet of a filter, with its length. What does not fit the receive window of a
/// connection cannot be read; fields of a header that long are none that somebody wants.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;

/// The longest text that a filter may have a client told; arbitrary, some lines.
pub const SAID_BYTES_MAX: usize = 4096;

/// What a filter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply<'b> {
    /// Version, actions and steps.
    Agrees(u32, u32, u32),
    Continue,
    Accept,
    Reject,
    Tempfail,
    Discard,
    /// A code and a text: `550 5.7.1 no`.
    Says(Said<'b>),
    /// No more bytes of this body.
    Skip,
    /// It takes longer.
    Progress,
    /// The connection of the client is to be closed.
    Shutdown,
    Change(Change<'b>),
}

/// What a filter wants a client told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said<'b> {
    /// From 400 to 599.
    pub code: u16,
    /// All of it, the code in front; several lines begin with it each. Bytes of any kind but NUL.
    pub text: &'b [u8],
}

/// A header field of a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'b> {
    /// Bytes of any kind but NUL, at least one.
    pub name: &'b [u8],
    /// The same, or nothing; lines end as the filter likes.
    pub value: &'b [u8],
}

/// What a filter wants changed of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'b> {
    /// A field behind all others.
    Add(Field<'b>),
    /// A field in front of that with this index, from 0.
    Insert(u32, Field<'b>),
    /// The field of this name with this index, from 1, gets this value; without one it goes.
    Set(u32, Field<'b>),
    /// Another recipient: a path, with or without brackets.
    AddRecipient(&'b [u8]),
    /// A recipient less.
    DeleteRecipient(&'b [u8]),
    /// Another sender.
    Sender(&'b [u8]),
    /// It is set aside, for this reason.
    Quarantine(&'b [u8]),
}

/// What stands at the front of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parsed<'b> {
    /// Not all of a packet yet.
    Partial,
    /// This, in so many bytes.
    Whole(Reply<'b>, usize),
    Bad(Failure),
}

/// Looks for a packet at the front of `window`.
pub(super) fn parse(window: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = window.split_first_chunk::<4>() else { return Parsed::Partial };
    let length = u32::from_be_bytes(*length);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes > REPLY_BYTES_MAX - 4 {
        return Parsed::Bad(Failure::TooLong(length));
    }
    if bytes == 0 {
        return Parsed::Bad(Failure::Empty);
    }
    let Some((letter, data)) = rest.get(..bytes).and_then(<[u8]>::split_first) else {
        return Parsed::Partial;
    };
    match decode(*letter, data) {
        Ok(reply) => Parsed::Whole(reply, bytes + 4),
        Err(failure) => Parsed::Bad(failure),
    }
}

fn decode(letter: u8, data: &[u8]) -> Result<Reply<'_>, Failure> {
    let reply = match letter {
        b'O' => agreement(data),
        b'c' => nothing(data, Reply::Continue),
        b'a' => nothing(data, Reply::Accept),
        b'r' => nothing(data, Reply::Reject),
        b't' => nothing(data, Reply::Tempfail),
        b'd' => nothing(data, Reply::Discard),
        b's' => nothing(data, Reply::Skip),
        b'p' => nothing(data, Reply::Progress),
        // Both end the connection of the client.
        b'4' | b'f' => nothing(data, Reply::Shutdown),
        b'y' => said(data).map(Reply::Says),
        b'h' => field(data).map(|field| Reply::Change(Change::Add(field))),
        b'i' => indexed(data).map(|(index, field)| Reply::Change(Change::Insert(index, field))),
        b'm' => indexed(data).map(|(index, field)| Reply::Change(Change::Set(index, field))),
        b'+' => only(data).map(|path| Reply::Change(Change::AddRecipient(path))),
        // With parameters of RCPT, none of which mean anything here.
        b'2' => first_of_two(data).map(|path| Reply::Change(Change::AddRecipient(path))),
        b'-' => only(data).map(|path| Reply::Change(Change::DeleteRecipient(path))),
        b'e' => first_of_two(data).map(|path| Reply::Change(Change::Sender(path))),
        b'q' => only(data).map(|why| Reply::Change(Change::Quarantine(why))),
        // A new body, or a list of macros out of turn: neither is ever agreed on.
        b'b' | b'l' => return Err(Failure::NotAgreed(letter)),
        _ => return Err(Failure::Unknown(letter)),
    };
    reply.ok_or(Failure::Malformed(letter))
}

fn nothing<'b>(data: &[u8], reply: Reply<'b>) -> Option<Reply<'b>> {
    data.is_empty().then_some(reply)
}

/// A text up to its NUL, and what stands behind it.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, rest) = data.split_at_checked(memchr::memchr(0, data)?)?;
    Some((text, rest.get(1..)?))
}

fn only(data: &[u8]) -> Option<&[u8]> {
    text(data).filter(|(_, rest)| rest.is_empty()).map(|(text, _)| text)
}

fn first_of_two(data: &[u8]) -> Option<&[u8]> {
    let (first, rest) = text(data)?;
    (rest.is_empty() || only(rest).is_some()).then_some(first)
}

fn field(data: &[u8]) -> Option<Field<'_>> {
    let (name, rest) = text(data).filter(|(name, _)| !name.is_empty())?;
    Some(Field { name, value: only(rest)? })
}

fn number(data: &[u8]) -> Option<(u32, &[u8])> {
    data.split_first_chunk::<4>().map(|(number, rest)| (u32::from_be_bytes(*number), rest))
}

fn indexed(data: &[u8]) -> Option<(u32, Field<'_>)> {
    let (index, rest) = number(data)?;
    Some((index, field(rest)?))
}

/// Behind the three numbers filters may name macros for each stage. All that are known are sent in
/// any case, so these are only looked at for their form.
fn agreement(data: &[u8]) -> Option<Reply<'_>> {
    let (version, rest) = number(data)?;
    let (actions, rest) = number(rest)?;
    let (steps, mut rest) = number(rest)?;
    while !rest.is_empty() {
        let (_, behind) = number(rest)?;
        (_, rest) = text(behind)?;
    }
    Some(Reply::Agrees(version, actions, steps))
}

fn said(data: &[u8]) -> Option<Said<'_>> {
    let text = only(data).filter(|text| text.len() <= SAID_BYTES_MAX)?;
    let (code, rest) = text.split_first_chunk::<3>()?;
    let [class @ b'4'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = *code else { return None };
    matches!(rest.first(), None | Some(b' ' | b'-')).then(|| {
        let digit = |byte: u8| u16::from(byte - b'0');
        Said { code: digit(class) * 100 + digit(tens) * 10 + digit(ones), text }
    })
}
