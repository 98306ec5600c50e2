//! One query and its answer: the only file that knows the codec, hickory-proto.
//!
//! [`Query::new`] builds the message, [`Query::read`] reads what came back and is strict about
//! whose it is: the id, the question and, because the case of its letters was drawn by chance, each
//! letter of it must be what was sent (RFC 5452 §9.1). So somebody who cannot see the query has to
//! guess the id, the source port and a bit for each letter.
//!
//! Limits: a message has at most 65,535 octets, the form of the length in front of it over TCP; at
//! most [`RECORDS_MAX`] records are kept. Any bytes may come; none of them panics.

use core::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query as Asked};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError, Restrict};

use super::name::{self, Question};
use super::record::{Data, Kind, Mx, Tlsa};

/// What we say we take in one datagram: it crosses nearly every path in one piece (RFC 6891 §6.2.5
/// asks for a size that does).
pub const UDP_BYTES: u16 = 1232;
/// The longest message.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// How many records of one answer are kept, aliases among them; arbitrary, far beyond what mail
/// needs. What comes behind them is read and dropped.
pub const RECORDS_MAX: usize = 1000;
/// Random bytes for one query: its id, and a bit for each octet of the longest name.
pub const RANDOM_BYTES: usize = 34;

/// The bytes in front of a message over TCP that say how long it is.
const LENGTH_BYTES: usize = 2;
/// The longest time to live; a larger number is none (RFC 2181 §8).
const TTL_MAX: u32 = 0x7fff_ffff;

/// How a message travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// In one datagram, which anybody could have sent.
    Udp,
    /// Over a connection: whoever answers holds the address that we asked.
    Tcp,
}

/// A message that asks.
#[derive(Clone, Debug)]
pub struct Query {
    question: Question,
    id: u16,
    name: Name,
    bytes: Vec<u8>,
}

/// Why bytes are not the answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Misread {
    /// They belong to no query, or to another one.
    Foreign,
    /// All fits but the case of the letters: a server that does not keep it, or somebody who
    /// guesses.
    Case,
    /// They are the answer, and cannot be read.
    Garbage,
}

/// What a name server said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// There is more than fitted; what is here is empty (TC).
    pub truncated: bool,
    /// The response code: 0 no error, 2 SERVFAIL, 3 no such name, 5 REFUSED.
    pub code: u16,
    /// The server has checked the signatures of everything in here (AD).
    pub authentic: bool,
    /// The aliases, and the records of the kind that was asked for, at most [`RECORDS_MAX`].
    pub records: Vec<Record>,
    /// Who is responsible for there being no records, and for how long.
    pub soa: Option<Soa>,
    /// The server names others that might know.
    pub refers: bool,
}

/// A record of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose it is.
    pub owner: Box<str>,
    /// How long it may be kept.
    pub ttl: Duration,
    /// What it says.
    pub data: Data,
}

/// The start of a zone of authority, as far as it says how long nothing stays nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Soa {
    /// The zone.
    pub owner: Box<str>,
    /// How long it may be kept that something is not there.
    pub ttl: Duration,
}

impl Query {
    /// Asks `question`. The id and the case of the name's letters are drawn from `random`, which
    /// must be hard to guess and used once. `dnssec_ok` asks for signatures, too.
    #[must_use]
    pub fn new(question: &Question, random: &[u8; RANDOM_BYTES], dnssec_ok: bool) -> Self {
        let [first, second, bits @ ..] = random;
        let id = u16::from_be_bytes([*first, *second]);
        let bit = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
        let flip = |(at, byte): (usize, u8)| if bit(at) { byte.to_ascii_uppercase() } else { byte };
        let text: Vec<u8> = question.name().bytes().enumerate().map(flip).collect();
        // A question's name keeps to every limit, so neither of these can fail.
        let name = Name::from_labels(text.split(|byte| *byte == b'.')).unwrap_or_default();
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        // RFC 6840 §5.7: who sets AD understands it, and is told
        message.metadata.authentic_data = true;
        message.add_query(Asked::query(name.clone(), record_type(question.kind())));
        // RFC 6891 §6.2.3 the size that we take, RFC 6891 §6.1.4 DO
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
        let bytes = message.to_vec().unwrap_or_default();
        Self { question: question.clone(), id, name, bytes }
    }

    /// What it asks.
    #[must_use]
    pub const fn question(&self) -> &Question {
        &self.question
    }

    /// The message, without what TCP puts in front of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads a message that came back by `over`.
    ///
    /// # Errors
    /// When it is not ours, or no answer.
    pub fn read(&self, bytes: &[u8], over: Transport) -> Result<Answer, Misread> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| Misread::Foreign)?;
        self.is_ours(&header, &mut decoder, over)?;
        let mut answer = Answer {
            truncated: header.truncation,
            code: header.response_code.low().into(),
            authentic: header.authentic_data,
            ..Answer::default()
        };
        if !answer.truncated {
            let kind = self.question.kind();
            sections(&header, &mut decoder, kind, &mut answer).map_err(|_| Misread::Garbage)?;
        }
        Ok(answer)
    }

    /// Whether header and question are those of our answer.
    fn is_ours(
        &self,
        header: &Header,
        decoder: &mut BinDecoder<'_>,
        over: Transport,
    ) -> Result<(), Misread> {
        // RFC 5452 §9.1: what does not match is no answer of ours, and is not looked at further
        let response = header.message_type == MessageType::Response;
        if header.id != self.id || !response || header.op_code != OpCode::Query {
            return Err(Misread::Foreign);
        }
        // Looked at before anything is read, because the codec makes room for as many as there are.
        if header.counts.queries != 1 {
            return Err(Misread::Foreign);
        }
        let asked = Asked::read(decoder).map_err(|_| Misread::Foreign)?;
        let kind = record_type(self.question.kind());
        if asked.query_type() != kind || asked.query_class() != DNSClass::IN {
            return Err(Misread::Foreign);
        }
        match over {
            _ if asked.name() != &self.name => Err(Misread::Foreign),
            // RFC 5452 §9.2: the case of the letters is what a forger has to guess, too. Over a
            // connection nobody has to be kept out by it.
            Transport::Udp if !asked.name().eq_case(&self.name) => Err(Misread::Case),
            _ => Ok(()),
        }
    }
}

/// What stands in front of each record's data.
struct Frame {
    owner: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    bytes: u16,
}

impl Frame {
    fn read(decoder: &mut BinDecoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            owner: Name::read(decoder)?,
            kind: decoder.read_u16()?.unverified(),
            class: decoder.read_u16()?.unverified(),
            ttl: decoder.read_u32()?.unverified(),
            bytes: decoder.read_u16()?.unverified(),
        })
    }

    fn is(&self, kind: RecordType) -> bool {
        self.class == u16::from(DNSClass::IN) && self.kind == u16::from(kind)
    }

    /// RFC 2181 §8: with the highest bit set it counts as zero.
    fn ttl(&self) -> Duration {
        Duration::from_secs(if self.ttl > TTL_MAX { 0 } else { self.ttl.into() })
    }

    /// The data behind it, which must end where the frame says.
    fn data(&self, decoder: &mut BinDecoder<'_>) -> Result<RData, DecodeError> {
        RData::read(decoder, RecordType::from(self.kind), Restrict::new(self.bytes))
    }

    fn skip(&self, decoder: &mut BinDecoder<'_>) -> Result<(), DecodeError> {
        decoder.read_slice(self.bytes.into()).map(|_| ())
    }
}

/// Reads all that stands behind the question. Data that nobody has asked for is not looked into.
fn sections(
    header: &Header,
    decoder: &mut BinDecoder<'_>,
    kind: Kind,
    answer: &mut Answer,
) -> Result<(), DecodeError> {
    for _ in 0..header.counts.answers {
        let frame = Frame::read(decoder)?;
        let wanted = frame.is(record_type(kind)) || frame.is(RecordType::CNAME);
        if !wanted || answer.records.len() == RECORDS_MAX {
            frame.skip(decoder)?;
        } else if let Some(data) = data(frame.data(decoder)?) {
            let (owner, ttl) = (text(&frame.owner), frame.ttl());
            answer.records.push(Record { owner, ttl, data });
        }
    }
    for _ in 0..header.counts.authorities {
        let frame = Frame::read(decoder)?;
        answer.refers |= frame.is(RecordType::NS);
        if !frame.is(RecordType::SOA) || answer.soa.is_some() {
            frame.skip(decoder)?;
        } else if let RData::SOA(soa) = frame.data(decoder)? {
            // RFC 2308 §5: the lesser of the minimum and the time to live of the record itself
            let ttl = frame.ttl().min(Duration::from_secs(soa.minimum.into()));
            answer.soa = Some(Soa { owner: text(&frame.owner), ttl });
        }
    }
    let mut extended = false;
    for _ in 0..header.counts.additionals {
        let frame = Frame::read(decoder)?;
        frame.skip(decoder)?;
        if frame.kind == u16::from(RecordType::OPT) {
            // RFC 6891 §6.1.1: one at most, and it belongs to the root
            if core::mem::replace(&mut extended, true) || !frame.owner.is_root() {
                return Err(DecodeError::DuplicateEdns);
            }
            // RFC 6891 §6.1.3: the upper bits of the response code
            answer.code |= u16::from(frame.ttl.to_be_bytes()[0]) << 4;
        }
    }
    Ok(())
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Mx => RecordType::MX,
        Kind::Txt => RecordType::TXT,
        Kind::Ptr => RecordType::PTR,
        Kind::Tlsa => RecordType::TLSA,
        Kind::Cname => RecordType::CNAME,
    }
}

fn text(name: &Name) -> Box<str> {
    name::from_labels(name.iter())
}

fn data(data: RData) -> Option<Data> {
    Some(match data {
        RData::A(address) => Data::A(address.0),
        RData::AAAA(address) => Data::Aaaa(address.0),
        RData::MX(mx) => Data::Mx(Mx { preference: mx.preference, exchange: text(&mx.exchange) }),
        // RFC 7208 §3.3: the strings belong together, without spaces between
        RData::TXT(strings) => Data::Txt(strings.txt_data.concat().into()),
        RData::PTR(name) => Data::Ptr(text(&name)),
        RData::CNAME(name) => Data::Cname(text(&name)),
        RData::TLSA(tlsa) => Data::Tlsa(Tlsa {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            data: tlsa.cert_data.into(),
        }),
        _ => return None,
    })
}

/// A message as it travels over TCP.
#[must_use]
pub fn to_stream(message: &[u8]) -> Vec<u8> {
    // RFC 1035 §4.2.2: two octets that say how long it is
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], message].concat()
}

/// The first message of a stream, when all of it is there. A stream that holds more than
/// [`STREAM_BYTES_MAX`] bytes holds one.
#[must_use]
pub fn from_stream(stream: &[u8]) -> Option<&[u8]> {
    let (length, rest) = stream.split_first_chunk::<LENGTH_BYTES>()?;
    rest.get(..u16::from_be_bytes(*length).into())
}

/// What the longest message takes on a stream.
pub const STREAM_BYTES_MAX: usize = LENGTH_BYTES + MESSAGE_BYTES_MAX;
