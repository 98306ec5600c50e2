//! The DNS of one case: a table that ours reads directly, mail-auth over loopback, and the oracles
//! in Python as JSON. Every name below [`WILD`] has an address.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fsmtp_proto::dns::known::{Answer, Known, Next};
use fsmtp_proto::dns::testing::{Asked, Reply, number};
use fsmtp_proto::dns::{Data, Failure, Found, Kind, Question, Reason};
use serde_json::{Value, json};

/// Below it everything exists.
pub(crate) const WILD: &str = ".yes.test";
/// Aliases that are followed; no case has more.
const ALIASES_MAX: usize = 8;
/// What a UDP answer may have; above it the server says that it is truncated.
const UDP_BYTES_MAX: usize = 512;

#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    records: BTreeMap<String, Vec<Data>>,
    failing: BTreeSet<String>,
}

impl Zone {
    pub(crate) fn add(&mut self, name: &str, data: Data) {
        self.records.entry(name.to_ascii_lowercase()).or_default().push(data);
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.add(name, Data::Txt(text.as_bytes().into()));
    }

    /// Nobody answers for this name.
    pub(crate) fn fail(&mut self, name: &str) {
        self.failing.insert(name.to_ascii_lowercase());
    }

    pub(crate) fn fails(&self) -> bool {
        !self.failing.is_empty()
    }

    pub(crate) fn fails_at(&self, name: &str) -> bool {
        self.failing.contains(&name.to_ascii_lowercase())
    }

    /// The texts at a name.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let records = self.records.get(&name.to_ascii_lowercase());
        records.into_iter().flatten().filter_map(|data| match data {
            Data::Txt(text) => Some(&**text),
            _ => None,
        })
    }

    /// Whether a name has AAAA and no A.
    pub(crate) fn only_v6(&self, name: &str) -> bool {
        let Some(records) = self.at(&name.to_ascii_lowercase()) else { return false };
        let has = |kind| records.iter().any(|data| data.kind() == kind);
        let aliased = alias(&records).is_some_and(|target| self.only_v6(&target));
        has(Kind::Aaaa) && !has(Kind::A) || aliased
    }

    /// All texts.
    pub(crate) fn all_texts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.records.iter();
        all.flat_map(|(name, records)| records.iter().map(move |data| (name.as_str(), data)))
            .filter_map(|(name, data)| match data {
                Data::Txt(text) => Some((name, &**text)),
                _ => None,
            })
    }

    fn at(&self, name: &str) -> Option<Vec<Data>> {
        let wild = name.ends_with(WILD).then(|| vec![Data::A(Ipv4Addr::new(127, 0, 0, 2))]);
        self.records.get(name).cloned().or(wild)
    }

    fn answer(&self, question: &Question) -> Answer {
        let mut name = question.name().to_ascii_lowercase();
        for _ in 0..ALIASES_MAX {
            if self.failing.contains(&name) {
                return Err(Failure::Temporary(Reason::ServerFailed));
            }
            let records = self.at(&name).ok_or(Failure::NoSuchName)?;
            if let Some(target) = alias(&records) {
                name = target;
                continue;
            }
            let of_kind = records.into_iter().filter(|data| data.kind() == question.kind());
            let records: Vec<Data> = of_kind.collect();
            if records.is_empty() {
                return Err(Failure::NoData);
            }
            let name = name.into();
            return Ok(Rc::new(Found { name, records, secure: false, ttl: Duration::ZERO }));
        }
        Err(Failure::TooManyAliases)
    }

    /// Asks a check of ours until it is done; gives back what it has asked for, too.
    pub(crate) fn judge<T>(&self, check: impl Fn(&Known) -> Next<T>) -> (T, Vec<String>) {
        let (mut known, mut asked) = (Known::default(), Vec::new());
        loop {
            match check(&known) {
                Next::Done(done) => return (done, asked),
                Next::Ask(questions) => {
                    for question in questions {
                        let answer = self.answer(&question);
                        asked.push(question.name().to_owned());
                        known.put(question, answer);
                    }
                }
            }
        }
    }

    /// The answer to a query, for a name server.
    fn reply(&self, query: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let asked = Asked::read(query)?;
        let mut reply = Reply::to(query)?;
        let mut name = asked.name.to_ascii_lowercase();
        for _ in 0..ALIASES_MAX {
            if self.failing.contains(&name) {
                return Some(Reply::to(query)?.code(2).bytes());
            }
            let Some(records) = self.at(&name) else {
                return Some(reply.code(3).soa("test", 60, 60).bytes());
            };
            if let Some(target) = alias(&records) {
                reply = reply.answer(&name, 60, &Data::Cname(target.clone().into()));
                name = target;
                continue;
            }
            let of_kind = records.iter().filter(|data| number(data.kind()) == asked.kind);
            let mut any = false;
            for data in of_kind {
                any = true;
                reply = reply.answer(&name, 60, data);
            }
            let reply = if any { reply } else { reply.soa("test", 60, 60) };
            let bytes = reply.bytes();
            if datagram && bytes.len() > UDP_BYTES_MAX {
                return Some(Reply::to(query)?.truncated().bytes());
            }
            return Some(bytes);
        }
        None
    }

    pub(crate) fn json(&self) -> Value {
        let latin = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
        let one = |data: &Data| match data {
            Data::A(address) => json!(["A", address.to_string()]),
            Data::Aaaa(address) => json!(["AAAA", address.to_string()]),
            Data::Mx(mx) => json!(["MX", [json!(mx.preference), json!(&*mx.exchange)]]),
            Data::Txt(text) => json!(["TXT", latin(text)]),
            Data::Ptr(name) => json!(["PTR", &**name]),
            Data::Cname(name) => json!(["CNAME", &**name]),
            Data::Tlsa(_) => json!(null),
        };
        let records: serde_json::Map<String, Value> = self
            .records
            .iter()
            .map(|(name, all)| (name.clone(), all.iter().map(one).collect::<Value>()))
            .collect();
        json!({ "records": records, "failing": self.failing, "wild": WILD })
    }
}

fn alias(records: &[Data]) -> Option<String> {
    records.iter().find_map(|data| match data {
        Data::Cname(target) => Some(target.to_ascii_lowercase()),
        _ => None,
    })
}

/// A name server on loopback that answers from whatever zone it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served(Arc<Mutex<Zone>>);

impl Served {
    pub(crate) fn set(&self, zone: &Zone) {
        *self.0.lock().expect("no thread panics with it") = zone.clone();
    }

    fn reply(&self, query: &[u8], datagram: bool) -> Option<Vec<u8>> {
        self.0.lock().expect("no thread panics with it").reply(query, datagram)
    }

    /// Begins to answer, over UDP and TCP, in two threads that end with the process.
    pub(crate) fn start(&self) -> std::io::Result<SocketAddr> {
        let (address, socket, listener) = both()?;
        let served = self.clone();
        thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if let Some(reply) = served.reply(&query[..length], true) {
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        let served = self.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    let Ok(()) = stream.read_exact(&mut query) else { break };
                    let Some(reply) = served.reply(&query, false) else { break };
                    let length = (reply.len() as u16).to_be_bytes();
                    if stream.write_all(&[&length, &reply[..]].concat()).is_err() {
                        break;
                    }
                }
            }
        });
        Ok(address)
    }
}

/// A port that is free for both.
fn both() -> std::io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    let mut tries_left = 100;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        match UdpSocket::bind(address) {
            Ok(socket) => return Ok((address, socket, listener)),
            Err(error) if tries_left == 0 => return Err(error),
            Err(_) => tries_left -= 1,
        }
    }
}
