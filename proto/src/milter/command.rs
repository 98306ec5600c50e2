//! What is told to a filter, and how it is written.
//!
//! A packet is its length in four bytes, a letter, and data. Texts end at a NUL, so NULs within
//! them are left out; what is longer than a packet may be is cut.

use core::net::IpAddr;

use super::options::{Actions, Steps, VERSION};

/// The most bytes of the body in one packet.
pub const CHUNK_BYTES_MAX: usize = 65_535;
/// The most bytes of one text; a name and a value fit into a packet.
const TEXT_BYTES_MAX: usize = 64_000;
/// The most bytes of a name.
const NAME_BYTES_MAX: usize = 1000;
/// The most parameters of MAIL and RCPT, and macros before a command; arbitrary, no command line
/// holds as many.
const TEXTS_COUNT_MAX: usize = 64;

/// What is told to a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// A client has connected: the name of its host, or its address in brackets; from where.
    Connect(&'a str, IpAddr, u16),
    /// It has introduced itself.
    Helo(&'a str),
    /// Who the message is from, in angle brackets, and the parameters of MAIL.
    Mail(&'a str, &'a [&'a str]),
    /// The same for a recipient.
    Recipient(&'a str, &'a [&'a str]),
    /// The message would come now.
    Data,
    /// A header field: its name, and what stands behind the colon, folded as it is.
    Field(&'a [u8], &'a [u8]),
    /// The header section is over.
    FieldsEnd,
    /// Bytes of the body, at most [`CHUNK_BYTES_MAX`].
    Body(&'a [u8]),
    /// The message is over.
    End,
    /// A command that the server does not know.
    Unknown(&'a str),
}

/// What a reply is to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// [`Command::Connect`].
    Connect,
    /// [`Command::Helo`].
    Helo,
    /// [`Command::Mail`].
    Mail,
    /// [`Command::Recipient`].
    Recipient,
    /// [`Command::Data`].
    Data,
    /// [`Command::Field`].
    Field,
    /// [`Command::FieldsEnd`].
    FieldsEnd,
    /// [`Command::Body`].
    Body,
    /// [`Command::End`].
    End,
    /// [`Command::Unknown`].
    Unknown,
}

impl Stage {
    /// The letter of the command, and which steps leave it out or leave it without a reply.
    const fn row(self) -> (u8, Steps, Steps) {
        let (letter, left_out, no_reply) = match self {
            Self::Connect => (b'C', 0x01, 0x1000),
            Self::Helo => (b'H', 0x02, 0x2000),
            Self::Mail => (b'M', 0x04, 0x4000),
            Self::Recipient => (b'R', 0x08, 0x8000),
            Self::Data => (b'T', 0x200, 0x1_0000),
            Self::Field => (b'L', 0x20, 0x80),
            Self::FieldsEnd => (b'N', 0x40, 0x4_0000),
            Self::Body => (b'B', 0x10, 0x8_0000),
            // Nobody can do without it; no step says so, and no filter can name this one.
            Self::End => (b'E', 0x8000_0000, 0x8000_0000),
            Self::Unknown => (b'U', 0x100, 0x2_0000),
        };
        (letter, Steps::of(left_out), Steps::of(no_reply))
    }

    pub(super) const fn letter(self) -> u8 {
        self.row().0
    }

    pub(super) const fn is_left_out(self, steps: Steps) -> bool {
        steps.contains(self.row().1)
    }

    pub(super) const fn is_answered(self, steps: Steps) -> bool {
        !steps.contains(self.row().2)
    }

    /// Whether it is about the connection, not about one message.
    #[must_use]
    pub const fn is_of_connection(self) -> bool {
        matches!(self, Self::Connect | Self::Helo)
    }
}

impl Command<'_> {
    /// What its reply is to.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Connect(..) => Stage::Connect,
            Self::Helo(_) => Stage::Helo,
            Self::Mail(..) => Stage::Mail,
            Self::Recipient(..) => Stage::Recipient,
            Self::Data => Stage::Data,
            Self::Field(..) => Stage::Field,
            Self::FieldsEnd => Stage::FieldsEnd,
            Self::Body(_) => Stage::Body,
            Self::End => Stage::End,
            Self::Unknown(_) => Stage::Unknown,
        }
    }

    /// Appends the packet. `leading_space`: values of fields go with the one space in front.
    pub(super) fn put(&self, leading_space: bool, out: &mut Vec<u8>) {
        packet(self.stage().letter(), out, |out| match *self {
            Self::Connect(host, ip, port) => {
                text(host.as_bytes(), TEXT_BYTES_MAX, out);
                out.push(if ip.is_ipv4() { b'4' } else { b'6' });
                out.extend_from_slice(&port.to_be_bytes());
                text(ip.to_string().as_bytes(), TEXT_BYTES_MAX, out);
            }
            Self::Helo(line) | Self::Unknown(line) => text(line.as_bytes(), TEXT_BYTES_MAX, out),
            Self::Mail(path, more) | Self::Recipient(path, more) => {
                for part in [path].iter().chain(more.iter().take(TEXTS_COUNT_MAX)) {
                    text(part.as_bytes(), NAME_BYTES_MAX, out);
                }
            }
            Self::Field(name, value) => {
                let plain = if leading_space { None } else { value.strip_prefix(b" ") };
                text(name, NAME_BYTES_MAX, out);
                unfolded(plain.unwrap_or(value), out);
            }
            Self::Body(bytes) => {
                debug_assert!(bytes.len() <= CHUNK_BYTES_MAX, "the caller cuts");
                out.extend_from_slice(bytes.get(..CHUNK_BYTES_MAX).unwrap_or(bytes));
            }
            Self::Data | Self::FieldsEnd | Self::End => {}
        });
    }
}

/// What the server offers.
pub(super) fn offer(actions: Actions, out: &mut Vec<u8>) {
    packet(b'O', out, |out| {
        for number in [VERSION, actions.bits(), Steps::OFFERED.bits()] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    });
}

/// Names and values that hold from `stage` on.
pub(super) fn macros(stage: Stage, named: &[(&str, &str)], out: &mut Vec<u8>) {
    if named.is_empty() {
        return;
    }
    packet(b'D', out, |out| {
        out.push(stage.letter());
        for (name, value) in named.iter().take(TEXTS_COUNT_MAX) {
            text(name.as_bytes(), NAME_BYTES_MAX, out);
            text(value.as_bytes(), NAME_BYTES_MAX, out);
        }
    });
}

/// A packet that is a letter only.
pub(super) fn letter(letter: u8, out: &mut Vec<u8>) {
    packet(letter, out, |_| ());
}

fn packet(letter: u8, out: &mut Vec<u8>, data: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, letter]);
    data(out);
    let bytes = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(length) = out.get_mut(at..at + 4) {
        length.copy_from_slice(&bytes.to_be_bytes());
    }
}

fn text(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
    out.extend(bytes.iter().copied().filter(|byte| *byte != 0));
    out.push(0);
}

/// A value with its lines ended as filters know it from others: by LF alone.
fn unfolded(value: &[u8], out: &mut Vec<u8>) {
    let value = value.get(..TEXT_BYTES_MAX).unwrap_or(value);
    let next = value.iter().skip(1).copied().chain([0]);
    let kept = value.iter().copied().zip(next).filter(|pair| *pair != (b'\r', b'\n'));
    out.extend(kept.map(|(byte, _)| byte).filter(|byte| *byte != 0));
    out.push(0);
}
