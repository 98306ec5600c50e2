//! The XML of a report out of what it comes in: as it is, under gzip, in a ZIP archive, or in the
//! mail that brought it.
//!
//! Called for what others sent. Of an archive the first file is taken. Limits:
//! [`PACKED_BYTES_MAX`] as it comes, [`BYTES_MAX`] unpacked, and what is beyond is not unpacked: a
//! bomb costs no more than a report of that size (RFC 9990 §8.1). What cannot be unpacked is
//! [`BadPacking`].

use core::fmt;
use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder};
use mail_parser::{MessageParser, MimeHeaders as _};

/// The largest file that is read; arbitrary.
pub const PACKED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest report; arbitrary, some tens of thousands of records.
pub const BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why nothing comes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadPacking {
    /// It is larger than [`PACKED_BYTES_MAX`], or becomes larger than [`BYTES_MAX`].
    TooLong,
    /// It is damaged.
    Damaged(String),
    /// It is packed in a way that is not known.
    Method(u16),
    /// It is nothing that reports come in.
    Unknown,
}

impl fmt::Display for BadPacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it is larger than {BYTES_MAX} bytes"),
            Self::Damaged(why) => write!(f, "it is damaged: {why}"),
            Self::Method(method) => write!(f, "it is packed by a method ({method}) not known here"),
            Self::Unknown => f.write_str("it is neither XML, gzip, ZIP, nor a mail with one"),
        }
    }
}

impl core::error::Error for BadPacking {}

/// Unpacks a report.
///
/// # Errors
/// Why nothing comes out.
pub fn unpack(bytes: &[u8]) -> Result<Cow<'_, [u8]>, BadPacking> {
    if bytes.len() > PACKED_BYTES_MAX {
        return Err(BadPacking::TooLong);
    }
    if let Some(unpacked) = unwrapped(bytes) {
        return unpacked;
    }
    let mail = MessageParser::default().parse(bytes).ok_or(BadPacking::Unknown)?;
    // A mail in a mail is not looked into.
    let parts = mail.parts.iter().filter(|part| !part.is_message() && !part.is_multipart());
    let mut found = parts.filter_map(|part| {
        let text = part.content_type().is_some_and(|kind| kind.ctype() == "text");
        let is_attached = !text || part.attachment_name().is_some();
        is_attached.then(|| unwrapped(part.contents())).flatten()
    });
    let unpacked = found.next().ok_or(BadPacking::Unknown)??;
    Ok(Cow::Owned(unpacked.into_owned()))
}

/// What is in something whose first bytes are known.
fn unwrapped(bytes: &[u8]) -> Option<Result<Cow<'_, [u8]>, BadPacking>> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Some(inflate(GzDecoder::new(bytes)).map(Cow::Owned));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Some(first_of_zip(bytes));
    }
    let is_xml = text.starts_with(b"<");
    let fits = || if bytes.len() > BYTES_MAX { Err(BadPacking::TooLong) } else { Ok(bytes.into()) };
    is_xml.then(fits)
}

fn inflate(from: impl Read) -> Result<Vec<u8>, BadPacking> {
    let mut bytes = Vec::new();
    let read = from.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|why| BadPacking::Damaged(why.to_string()))?;
    if bytes.len() > BYTES_MAX { Err(BadPacking::TooLong) } else { Ok(bytes) }
}

/// The number at a place, as ZIP has them: APPNOTE 4.4.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk::<N>()?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The first file of an archive, by the archive's directory: the sizes in front of a file may be
/// empty, when it was written in one go. Sizes beyond 4 GiB are none of a report.
fn first_of_zip(bytes: &[u8]) -> Result<Cow<'_, [u8]>, BadPacking> {
    const END_BYTES: usize = 22;
    const COMMENT_BYTES_MAX: usize = 0xffff;
    let damaged = |why: &str| BadPacking::Damaged(why.to_owned());
    let begin = bytes.len().saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let tail = bytes.get(begin..).unwrap_or_default();
    let end = tail.windows(4).rposition(|four| four == b"PK\x05\x06");
    let end = begin + end.ok_or_else(|| damaged("it has no directory"))?;
    let place = |at: Option<u64>| at.and_then(|at| usize::try_from(at).ok());
    let entry = place(number::<4>(bytes, end + 16));
    let entry = entry.and_then(|at| bytes.get(at..)).filter(|at| at.starts_with(b"PK\x01\x02"));
    let entry = entry.ok_or_else(|| damaged("its directory is empty"))?;
    let short = || damaged("it is too short");
    let flags = number::<2>(entry, 8).ok_or_else(short)?;
    if flags & 1 != 0 {
        return Err(damaged("it is encrypted"));
    }
    let method = number::<2>(entry, 10).ok_or_else(short)?;
    let sum = number::<4>(entry, 16).ok_or_else(short)?;
    let packed = place(number::<4>(entry, 20)).ok_or_else(short)?;
    let local = place(number::<4>(entry, 42)).ok_or_else(short)?;
    let local = bytes.get(local..).filter(|at| at.starts_with(b"PK\x03\x04"));
    let local = local.ok_or_else(|| damaged("its file is not where the directory says"))?;
    let lengths = [26, 28].map(|at| place(number::<2>(local, at)).unwrap_or_default());
    let from = 30 + lengths.iter().sum::<usize>();
    let data = local.get(from..).and_then(|data| data.get(..packed)).ok_or_else(short)?;
    let content = match method {
        0 if data.len() > BYTES_MAX => return Err(BadPacking::TooLong),
        0 => Cow::Borrowed(data),
        8 => Cow::Owned(inflate(DeflateDecoder::new(data))?),
        other => return Err(BadPacking::Method(u16::try_from(other).unwrap_or(u16::MAX))),
    };
    let mut check = flate2::Crc::new();
    check.update(&content);
    if u64::from(check.sum()) != sum {
        return Err(damaged("its check sum is another"));
    }
    Ok(content)
}
