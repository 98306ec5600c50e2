//! The DNS from outside: messages octet by octet, and lookups against servers in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lookup;
mod message;

use fsmtp_proto::dns::message::RANDOM_BYTES;
use fsmtp_proto::dns::{Data, Kind, Mx, Question};

/// Some id, and every other letter a capital one.
const RANDOM: [u8; RANDOM_BYTES] = [0x55; RANDOM_BYTES];

fn question(name: &str, kind: Kind) -> Question {
    Question::new(name, kind).unwrap()
}

fn a(last: u8) -> Data {
    Data::A([192, 0, 2, last].into())
}

fn alias(target: &str) -> Data {
    Data::Cname(target.into())
}

fn mx(preference: u16, exchange: &str) -> Data {
    Data::Mx(Mx { preference, exchange: exchange.into() })
}
