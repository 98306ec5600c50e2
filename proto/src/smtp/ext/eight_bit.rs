//! 8BITMIME (RFC 6152 §3): the BODY parameter of MAIL; BINARYMIME (RFC 3030) is a value of it.

use super::{Extension, SenderParameter};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Sender};

/// What the client says about the bytes of the message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BodyType {
    /// US-ASCII in lines; also when nothing was said.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`: any bytes but NUL, in lines.
    EightBit,
    /// `BODY=BINARYMIME`: any bytes; CR and LF need not come together. Only with BDAT.
    Binary,
}

pub(super) const EIGHT_BIT: Extension = Extension {
    sender: &[SenderParameter { keyword: "BODY", apply }],
    ..Extension::announced_by(|_, text| text.push_str("8BITMIME"))
};

fn apply(sender: &mut Sender<'_>, value: Option<&str>, _: &Limits) -> Result<(), Reply> {
    let value = value.ok_or(Reply::ParameterSyntax)?;
    sender.body = [
        ("7BIT", BodyType::SevenBit),
        ("8BITMIME", BodyType::EightBit),
        ("BINARYMIME", BodyType::Binary),
    ]
    .iter()
    .find_map(|(name, body)| value.eq_ignore_ascii_case(name).then_some(*body))
    // RFC 5321 §4.2.2: 504 for a parameter that we have and a value that we have not.
    .ok_or(Reply::ValueUnsupported)?;
    Ok(())
}
