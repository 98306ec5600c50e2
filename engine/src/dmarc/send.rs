//! Our reports: once a day for each domain that wants them, sent as mail of our own.
//!
//! Runs as a task of one shard. Every [`PAUSE`] it looks which days are over; the report about a
//! day goes out within [`SPREAD_S`] after its end, each domain's at a time of its own, so that not
//! all hosts of the world report to one at midnight. What was stored in the queue is forgotten; a
//! crash in between sends it again under the same name (RFC 9990 §3.5.4). Failure: while the DNS or
//! the log gives no answer a report waits, [`KEEP_DAYS`] days at most. Operators see it by
//! `fsmtp-engine dmarc reports`.

use core::cell::RefCell;
use core::pin::pin;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use fsmtp_proto::dmarc::destinations;
use fsmtp_proto::dmarc::record::Uri;
use fsmtp_proto::dmarc::walk::registered;
use fsmtp_proto::smtp::address::Mailbox;
use fsmtp_rt::{Class, Datagrams, Dial, Runtime, UnixTime};
use fsmtp_store::StoreError;
use fsmtp_store::counts::Day;
use fsmtp_store::envelope::{BodyFlags, Notify};
use fsmtp_store::mailbox::Mailboxes;

use super::collect::{Collector, Waiting, day};
use super::report::{Policy, Record, Report};
use super::write::xml;
use crate::compose::{Attachment, Composed, Draft, Person};
use crate::config::Reports;
use crate::control::ReportEntry;
use crate::latest::Latest;
use crate::log::Event;
use crate::post::{Letter, post};
use crate::resolver::Share;
use crate::shard::Shard;
use crate::start::first;

/// Between two looks; arbitrary.
const PAUSE: Duration = Duration::from_secs(600);
/// Seconds after the end of a day within which its reports go out; arbitrary.
const SPREAD_S: u64 = 4 * 3600;
/// Days after which what could not be reported is forgotten; arbitrary.
const KEEP_DAYS: Day = 7;
/// How long the lookups for one report may take together.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look may take; what is left waits for the next one.
const ROUND: Duration = Duration::from_secs(600);
/// Reports about one day to the domains of one organisation. Arbitrary; whoever has a domain has
/// any number of names below it, each of which may ask for reports.
const ORGANISATION_MAX: usize = 20;
/// Reports about one day; arbitrary.
const DAY_MAX: usize = 10_000;
const DAY_S: u64 = 86_400;

/// How many reports were sent since the start, by day and organisation, and how far the last round
/// came.
#[derive(Debug, Default)]
struct Sent {
    days: BTreeMap<Day, (usize, BTreeMap<String, usize>)>,
    last: Option<(Day, String)>,
}

impl Sent {
    fn organisation(domain: &str) -> &str {
        registered(domain).unwrap_or(domain)
    }

    /// Whether there may be one more.
    fn has_room(&self, waiting: &Waiting) -> bool {
        let Some((all, by_organisation)) = self.days.get(&waiting.day) else { return true };
        let own = by_organisation.get(Self::organisation(&waiting.domain)).copied();
        *all < DAY_MAX && own.unwrap_or_default() < ORGANISATION_MAX
    }

    /// One was sent.
    fn count(&mut self, waiting: &Waiting) {
        let (all, by_organisation) = self.days.entry(waiting.day).or_default();
        *all += 1;
        let organisation = Self::organisation(&waiting.domain).to_owned();
        *by_organisation.entry(organisation).or_default() += 1;
    }

    /// Forgets days about which nothing is sent any more.
    fn forget(&mut self, today: Day) {
        self.days.retain(|day, _| today <= day.saturating_add(KEEP_DAYS + 1));
    }

    /// The same, those first that the last round did not get to.
    fn in_turn(&self, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        if let Some((day, domain)) = &self.last {
            let is_done = |one: &Waiting| (one.day, &one.domain) <= (*day, domain);
            let done = waiting.iter().filter(|one| is_done(one)).count();
            waiting.sort_by(|a, b| (a.day, &a.domain).cmp(&(b.day, &b.domain)));
            waiting.rotate_left(done);
        }
        waiting
    }
}

/// What an operator wants to be done now.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Reports are sent; else it is only said what would be.
    pub(crate) really: bool,
    /// Where the answer goes.
    pub(crate) reply: Sender<Vec<ReportEntry>>,
}

/// The way to the task; one question at a time.
pub(crate) type Door = Latest<Ask>;

/// What the task works with.
pub(crate) struct Office {
    pub(crate) collector: Collector,
    pub(crate) settings: Reports,
    pub(crate) door: Door,
}

/// Sends reports for as long as the shard lives.
pub(crate) fn start<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, office: Office) {
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        let mut sent = Sent::default();
        loop {
            let asked = RefCell::new(None);
            let ask = async {
                let ask = office.door.take().await;
                asked.replace(Some(ask));
            };
            let late = inner.rt.sleep_until(inner.rt.now() + PAUSE);
            first(pin!(ask), pin!(late)).await;
            let asked: Option<Ask> = asked.into_inner();
            sent.forget(day(inner.rt.unix()));
            let done = round(&inner, &office, asked.as_ref(), &mut sent).await;
            if let Some(Ask { reply, .. }) = asked {
                // Who has asked may have lost patience.
                let _ = reply.send(done);
            }
        }
    });
}

/// Sends what is due; all that there is when somebody asks for it.
async fn round<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    office: &Office,
    asked: Option<&Ask>,
    sent: &mut Sent,
) -> Vec<ReportEntry> {
    let mut done = Vec::new();
    let waiting = match office.collector.waiting().await {
        Ok(waiting) => waiting,
        Err(error) => {
            shard.log.event(shard.rt.unix(), Event::DmarcFailed, &[("why", &error)]);
            return done;
        }
    };
    let (now, end) = (shard.rt.unix(), shard.rt.now() + ROUND);
    let really = asked.is_none_or(|ask| ask.really);
    for one in sent.in_turn(waiting) {
        if asked.is_none() && !is_due(&one, &shard.node, now) {
            continue;
        }
        if really && (shard.rt.now() >= end || shard.outbound.queue.borrow().is_full()) {
            break;
        }
        let has_room = !really || sent.has_room(&one);
        let entry = report(shard, office, &one, (really, has_room)).await;
        if entry.sent {
            sent.count(&one);
        }
        sent.last = Some((one.day, one.domain));
        if really {
            say(shard, &entry);
        }
        done.push(entry);
    }
    done
}

/// Whether the time of a report has come.
fn is_due(waiting: &Waiting, node: &str, now: UnixTime) -> bool {
    let mut spread = Crc::new();
    spread.update(node.as_bytes());
    spread.update(waiting.domain.as_bytes());
    let end = (u64::from(waiting.day) + 1) * DAY_S;
    now.seconds() >= end + u64::from(spread.sum()) % SPREAD_S
}

fn say<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, entry: &ReportEntry) {
    let (to, why) = (entry.to.join(", "), entry.why.join("; "));
    let event = if entry.sent { Event::DmarcReported } else { Event::DmarcFailed };
    let fields: [(&str, &dyn core::fmt::Display); 5] = [
        ("day", &entry.day),
        ("domain", &entry.domain),
        ("messages", &entry.messages),
        ("to", &to),
        ("why", &why),
    ];
    shard.log.event(shard.rt.unix(), event, &fields);
}

/// What became of one.
enum Fate {
    /// It is in the queue, or nobody wants it.
    Done,
    /// Later.
    Waits,
}

/// Reports a day to a domain.
async fn report<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    office: &Office,
    waiting: &Waiting,
    (really, has_room): (bool, bool),
) -> ReportEntry {
    let mut entry = ReportEntry {
        day: date(waiting.day),
        domain: waiting.domain.clone(),
        rows: waiting.rows,
        ..ReportEntry::default()
    };
    let tried = if has_room {
        try_report(shard, office, waiting, really, &mut entry).await
    } else {
        entry.why.push("its organisation, or the day, has had enough reports".to_owned());
        Ok(Fate::Done)
    };
    let fate = match tried {
        Ok(fate) => fate,
        Err(error) => {
            entry.why.push(error.to_string());
            Fate::Waits
        }
    };
    let is_old = day(shard.rt.unix()) > waiting.day.saturating_add(KEEP_DAYS);
    if really && (is_old || matches!(fate, Fate::Done)) {
        let forgotten = office.collector.forget(waiting.day, &waiting.domain).await;
        entry.why.extend(forgotten.err().map(|error| error.to_string()));
    }
    entry
}

async fn try_report<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    office: &Office,
    waiting: &Waiting,
    really: bool,
    entry: &mut ReportEntry,
) -> Result<Fate, StoreError> {
    let resolver = shard.resolver.borrow().clone().ok_or(StoreError::Busy)?;
    let deadline = shard.rt.now() + PATIENCE;
    let found =
        resolver.learn(deadline, Share::Check, |known| destinations(&waiting.domain, known)).await;
    entry.why = found.steps;
    if found.uris.is_empty() {
        return Ok(if found.temporary { Fate::Waits } else { Fate::Done });
    }
    let gathered = office.collector.gather(waiting.day, &waiting.domain).await?;
    for (policy, records) in gathered {
        let messages = records.iter().fold(0_u64, |sum, one| sum.saturating_add(one.count));
        entry.messages = entry.messages.saturating_add(messages);
        let settings = office.settings.clone();
        let (node, day) = (shard.node.clone(), waiting.day);
        let packed = shard.offload(move || packed(&settings, &node, day, policy, records)).await;
        let packed = packed.map_err(|_| StoreError::Busy)?;
        let message = match compose(shard, &office.settings, &packed, &found.uris) {
            Ok(message) => message,
            Err(why) => {
                entry.why.push(why);
                continue;
            }
        };
        let octets = message.bytes.len() as u64;
        entry.octets = entry.octets.saturating_add(octets);
        let to: Vec<String> = fitting(&found.uris, octets, &mut entry.why);
        if really {
            entry.sent |= store(shard, &office.settings.from, &to, message).await?;
        }
        entry.to.extend(to);
    }
    entry.to.sort();
    entry.to.dedup();
    Ok(Fate::Done)
}

/// Those that take a report of this size: RFC 7489 §6.4.
fn fitting(uris: &[Uri], octets: u64, why: &mut Vec<String>) -> Vec<String> {
    let (fits, less): (Vec<&Uri>, Vec<&Uri>) =
        uris.iter().partition(|uri| uri.bytes_max.is_none_or(|max| octets <= max));
    let too_large = |uri: &Uri| format!("{} takes less than its {octets} bytes", uri.text);
    why.extend(less.into_iter().map(too_large));
    fits.into_iter().filter_map(Uri::mailbox).collect()
}

fn date(day: Day) -> String {
    let date = UnixTime::from_ms(u64::from(day) * DAY_S * 1000).rfc3339().to_string();
    date.split('T').next().unwrap_or_default().to_owned()
}

/// A report that is ready to be attached.
struct Packed {
    domain: String,
    id: String,
    /// RFC 9990 §3.5.2
    name: String,
    bytes: Vec<u8>,
}

/// Makes a report; takes its time.
fn packed(
    settings: &Reports,
    node: &str,
    day: Day,
    policy: Policy,
    records: Vec<Record>,
) -> Packed {
    let begin = u64::from(day) * DAY_S;
    let domain = policy.domain.clone();
    let mut report = Report {
        organisation: settings.organisation.clone(),
        email: settings.from.clone(),
        begin,
        end: begin + DAY_S - 1,
        generator: concat!("fsmtp-engine ", env!("CARGO_PKG_VERSION")).to_owned(),
        policy,
        records,
        ..Report::default()
    };
    // RFC 9990 §3.5.1: the same report has the same name, and another one another.
    let mut sum = Crc::new();
    sum.update(xml(&report).as_bytes());
    report.id = format!("{begin}{:08x}", sum.sum());
    let name = format!("{node}!{domain}!{begin}!{}!{}.xml.gz", report.end, report.id);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let written = encoder.write_all(xml(&report).as_bytes()).and_then(|()| encoder.finish());
    Packed { domain, id: report.id, name, bytes: written.unwrap_or_default() }
}

/// The message with a report: RFC 9990 §3.5.2.
fn compose<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    settings: &Reports,
    packed: &Packed,
    uris: &[Uri],
) -> Result<Composed, String> {
    let Packed { domain, id, name, bytes } = packed;
    let node = &shard.node;
    let subject = format!("Report Domain: {domain} Submitter: {node} Report-ID: <{id}>");
    let text = format!(
        "This is what {node} has seen of mail in the name of {domain}, because the domain's \
         record of DMARC asks for it.\r\n"
    );
    let to: Vec<String> = uris.iter().filter_map(Uri::mailbox).collect();
    let draft = Draft {
        from: Person { name: Some(&settings.organisation), address: &settings.from },
        to: to.iter().map(|to| Person::from(to.as_str())).collect(),
        subject: &subject,
        text: Some(&text),
        attachments: vec![Attachment { name, media_type: "application/gzip", bytes }],
        // RFC 3834 §5: no program shall answer this.
        headers: vec![("Auto-Submitted", "auto-generated")],
        date: shard.rt.unix(),
        message_id: &format!("{id}@{node}"),
        ..Draft::default()
    };
    let mut random = [0; 16];
    shard.rt.random(&mut random);
    draft.compose(&random).map_err(|error| error.to_string())
}

/// Signs a message and puts it into the queue; false when it goes nowhere.
async fn store<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    from: &str,
    to: &[String],
    message: Composed,
) -> Result<bool, StoreError> {
    let Composed { bytes, eight_bit, utf8 } = message;
    let bytes = signed(shard, from, bytes).await;
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let letter = Letter {
        from,
        to: &to,
        body: BodyFlags { eight_bit, utf8, ..BodyFlags::default() },
        // What becomes of it is no news to anybody.
        notify: Notify { never: true, ..Notify::default() },
        require_tls: false,
        bytes: &bytes,
    };
    Ok(post(shard, &letter).await?.is_some())
}

/// The message with the signatures of its author's domain, which must make it pass DMARC itself
/// (RFC 9990 §3.5.2); without any when there are no keys.
async fn signed<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    from: &str,
    bytes: Vec<u8>,
) -> Vec<u8> {
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let not_signed = |why: &dyn core::fmt::Display| {
        shard.log.event(shard.rt.unix(), Event::NotSigned, &[("from", &from), ("why", why)]);
    };
    let Some(mut signer) = shard.dkim.borrow().signer(domain) else {
        not_signed(&"the domain has no key");
        return bytes;
    };
    let now = shard.rt.unix();
    signer.feed(&bytes);
    match shard.offload(move || signer.finish(now)).await {
        Ok(Ok(fields)) => [fields, bytes].concat(),
        Ok(Err(error)) => {
            not_signed(&error);
            bytes
        }
        Err(_) => {
            not_signed(&"too much waits on the helper threads");
            bytes
        }
    }
}

/// Whether reports can be sent from an address.
#[must_use]
pub(crate) fn is_sender(address: &str) -> bool {
    use fsmtp_proto::smtp::address::Domain;
    Mailbox::parse(address).is_ok_and(|mailbox| matches!(mailbox.domain(), Domain::Name(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmarc::read::report as read;
    use crate::dmarc::unpack::unpack;

    fn settings() -> Reports {
        Reports { from: "dmarc@us.example".to_owned(), organisation: "Us".to_owned() }
    }

    #[test]
    fn a_report_is_due_at_a_time_of_its_own_after_its_day() {
        let waiting = |domain: &str| Waiting { day: 9, domain: domain.to_owned(), rows: 1 };
        let at = |seconds| UnixTime::from_ms((10 * DAY_S + seconds) * 1000);
        let due_at = |domain: &str| {
            let one = waiting(domain);
            assert!(!is_due(&one, "mx.us.example", UnixTime::from_ms(10 * DAY_S * 1000 - 1)));
            (0..=SPREAD_S).find(|&seconds| is_due(&one, "mx.us.example", at(seconds))).unwrap()
        };
        let (one, other) = (due_at("d.example"), due_at("e.example"));
        assert!(one != other && one < SPREAD_S && other < SPREAD_S);
    }

    #[test]
    fn nobody_gets_reports_without_end() {
        let mut sent = Sent::default();
        let waiting = |day, domain: String| Waiting { day, domain, rows: 1 };
        let mut take = |one: Waiting| {
            let has_room = sent.has_room(&one);
            if has_room {
                sent.count(&one);
            }
            has_room
        };
        let of_one = (0..100).filter(|n| take(waiting(9, format!("a{n}.d.example"))));
        assert_eq!(of_one.count(), ORGANISATION_MAX);
        assert!(take(waiting(10, "d.example".to_owned())));
        let of_all = (0..DAY_MAX).filter(|n| take(waiting(9, format!("d{n}.example"))));
        assert_eq!(of_all.count(), DAY_MAX - ORGANISATION_MAX);
        sent.forget(9 + KEEP_DAYS + 1);
        assert!(!sent.has_room(&waiting(9, "new.example".to_owned())));
        sent.forget(9 + KEEP_DAYS + 2);
        assert!(sent.has_room(&waiting(9, "new.example".to_owned())));
    }

    #[test]
    fn a_round_begins_where_the_last_one_ended() {
        let waiting = |domain: &str| Waiting { day: 9, domain: domain.to_owned(), rows: 1 };
        let order = |last: Option<&str>| {
            let last = last.map(|domain| (9, domain.to_owned()));
            let all = ["a", "b", "c"].map(waiting).to_vec();
            let turn = Sent { last, ..Sent::default() }.in_turn(all);
            turn.into_iter().map(|one| one.domain).collect::<String>()
        };
        let orders = [None, Some("a"), Some("bb"), Some("c")].map(order);
        assert_eq!(orders, ["abc", "bca", "cab", "abc"]);
    }

    #[test]
    fn a_report_is_packed_under_a_name_of_its_own() {
        let policy =
            |p: &str| Policy { domain: "d.example".into(), p: p.into(), ..Policy::default() };
        let records = vec![Record { source: "192.0.2.1".into(), count: 3, ..Record::default() }];
        let one = packed(&settings(), "mx.us.example", 9, policy("none"), records.clone());
        let again = packed(&settings(), "mx.us.example", 9, policy("none"), records.clone());
        let other = packed(&settings(), "mx.us.example", 9, policy("reject"), records.clone());
        assert_eq!((&one.id, &one.name), (&again.id, &again.name));
        assert!(one.id != other.id && one.id.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(one.name, format!("mx.us.example!d.example!777600!863999!{}.xml.gz", one.id));
        let report = read(&unpack(&one.bytes).unwrap()).unwrap();
        assert_eq!((report.begin, report.end, &report.id), (777_600, 863_999, &one.id));
        assert_eq!((report.records, report.email.as_str()), (records, "dmarc@us.example"));
        assert_eq!(date(9), "1970-01-10");
    }

    #[test]
    fn who_takes_less_gets_none() {
        let uri = |text: &str, bytes_max| Uri { text: text.to_owned(), bytes_max };
        let uris = [
            uri("mailto:a@d.example", None),
            uri("mailto:b@d.example", Some(100)),
            uri("mailto:c@d.example", Some(99)),
        ];
        let mut why = Vec::new();
        assert_eq!(fitting(&uris, 100, &mut why), ["a@d.example", "b@d.example"]);
        assert_eq!(why, ["mailto:c@d.example takes less than its 100 bytes"]);
    }

    #[test]
    fn reports_come_from_an_address_with_a_domain() {
        assert!(is_sender("dmarc@us.example"));
        assert!(!is_sender("dmarc") && !is_sender("") && !is_sender("a@[192.0.2.1]"));
    }
}
