//! What a sender is told about his recipients: reports, made by `report`, sent by `post`.
//!
//! About recipients elsewhere it is called before the queue forgets them, so nobody loses a message
//! without a word; about those here by the desk, before the client hears that the message is
//! stored. When the process dies in between, the sender may hear twice. Nobody is told who sent
//! with the null path or did not want to know (RFC 3461 §4.1).
//!
//! Failure: while the log takes nothing, a report about recipients elsewhere waits, and one about
//! those here is left out.

use core::fmt::Display;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_proto::wire::token::encode_xtext;
use fsmtp_rt::Runtime;
use fsmtp_store::envelope::{BodyFlags, EnvelopeRecipient, Notify};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::{Envelope, QueueId, StoreError};

use super::patiently;
use super::pieces::{Pieces as _, Stored};
use crate::compose::Composed;
use crate::guard::SharedState;
use crate::log::Event;
use crate::post::{Letter, post};
use crate::report::{
    Kind as About, Original, RECIPIENTS_COUNT_MAX, Recipient, Report, Status, WHOLE_BYTES_MAX, due,
};
use crate::shard::{Shard, count};

/// Between two tries to store a report.
const RETRY: Duration = Duration::from_secs(5);

/// How it went with one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fate {
    /// Its place in the envelope.
    pub(super) place: u16,
    pub(super) kind: Kind,
    /// The host that said it; empty when none did.
    pub(super) peer: String,
    /// The reply code, 0 without one.
    pub(super) code: u16,
    pub(super) words: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// In a mailbox here.
    Delivered,
    /// Taken by a host that sends reports itself.
    Taken,
    /// Taken by one that does not.
    Relayed,
    Failed,
    /// Given up because it took too long.
    Expired,
    Delayed,
}

impl Fate {
    pub(super) fn new(place: u16, kind: Kind, peer: &str, code: u16, words: &str) -> Self {
        Self { place, kind, peer: peer.to_owned(), code, words: words.to_owned() }
    }

    pub(super) const fn is_failure(&self) -> bool {
        matches!(self.kind, Kind::Failed | Kind::Expired)
    }

    /// What a report would be about.
    const fn about(&self) -> Option<About> {
        match self.kind {
            Kind::Taken => None,
            Kind::Delivered => Some(About::Delivered),
            Kind::Relayed => Some(About::Relayed),
            Kind::Failed | Kind::Expired => Some(About::Failed),
            Kind::Delayed => Some(About::Delayed),
        }
    }

    /// RFC 3463: what the other side said, or what the kind and the reply code say.
    fn status(&self) -> Status {
        let class = match self.kind {
            Kind::Delivered | Kind::Taken | Kind::Relayed => 2,
            Kind::Failed | Kind::Expired => 5,
            Kind::Delayed => 4,
        };
        if self.kind == Kind::Expired {
            return Status(class, 4, 7);
        }
        let mut parts = self.words.split(' ').next().unwrap_or("").split('.');
        let mut part = || parts.next()?.parse::<u16>().ok().filter(|part| *part < 1000);
        match (part(), part(), part()) {
            (Some(said), Some(subject), Some(detail)) if said == u16::from(class) => {
                Status(class, subject, detail)
            }
            _ if self.code == 0 && class == 4 => Status(class, 4, 1),
            _ => Status(class, 0, 0),
        }
    }
}

/// Tells the sender of a message what he wants to know.
pub(super) async fn tell<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    id: QueueId,
    envelope: &Envelope,
    fates: &[Fate],
) {
    let reverse_path = String::from_utf8_lossy(&envelope.reverse_path);
    let Ok(mailbox) = Mailbox::parse(&reverse_path) else { return };
    let sender = Path::Mailbox(mailbox);
    for about in [About::Failed, About::Delayed, About::Relayed] {
        let wanted = |fate: &&Fate| {
            let to = envelope.recipients.get(usize::from(fate.place));
            fate.about() == Some(about) && to.is_some_and(|to| due(&sender, to.notify, about))
        };
        let fates: Vec<&Fate> = fates.iter().filter(wanted).collect();
        for some in fates.chunks(RECIPIENTS_COUNT_MAX) {
            report(shard, (id, envelope), sender, about, some).await;
        }
    }
}

/// Tells the sender of a message that it lies in the mailboxes of all recipients in `envelope`, who
/// are such as he wants to hear of; `front` is how it begins. What fails is not tried again, for a
/// client waits.
pub(crate) async fn delivered<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    (id, envelope): (QueueId, &Envelope),
    front: &[u8],
) {
    let reverse_path = String::from_utf8_lossy(&envelope.reverse_path);
    let Ok(mailbox) = Mailbox::parse(&reverse_path) else { return };
    let sender = Path::Mailbox(mailbox);
    // RFC 3461 §5.2.3
    let fate = |place: u16| Fate::new(place, Kind::Delivered, "", 0, "");
    let fates: Vec<Fate> = (0..).take(envelope.recipients.len()).map(fate).collect();
    let fates: Vec<&Fate> = fates.iter().collect();
    for some in fates.chunks(RECIPIENTS_COUNT_MAX) {
        let message = (id, envelope);
        let original = Original::Header(front);
        let done = match compose(shard, envelope, sender, About::Delivered, some, original) {
            // Strangers may ask for reports: they fill no queue.
            Ok(_) if shard.outbound.queue.borrow().is_full() => Err("the queue is full".to_owned()),
            Ok(composed) => {
                let _shared = SharedState;
                let stored = store(shard, message, sender, About::Delivered, &composed).await;
                stored.map_err(|error| error.to_string())
            }
            Err(why) => Err(why),
        };
        if let Err(why) = done {
            failed(shard, id, &why);
        }
    }
}

fn failed<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, id: QueueId, why: &dyn Display) {
    let fields: [(&str, &dyn Display); 2] = [("id", &id), ("why", why)];
    shard.log.event(shard.rt.unix(), Event::ReportFailed, &fields);
}

/// Makes one report and stores it.
async fn report<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    message: (QueueId, &Envelope),
    sender: Path<'_>,
    about: About,
    fates: &[&Fate],
) {
    let bytes = original(shard, message.0).await;
    let original = match &bytes {
        Ok(whole) => Original::Whole(whole),
        Err(front) => Original::Header(front),
    };
    let composed = match compose(shard, message.1, sender, about, fates, original) {
        Ok(composed) => composed,
        Err(why) => return failed(shard, message.0, &why),
    };
    while let Err(error) = store(shard, message, sender, about, &composed).await {
        failed(shard, message.0, &error);
        if matches!(error, StoreError::Invalid(_)) {
            return;
        }
        shard.rt.sleep_until(shard.rt.now() + RETRY).await;
    }
}

/// Stores a report, and says so in the log.
async fn store<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    message: (QueueId, &Envelope),
    sender: Path<'_>,
    about: About,
    composed: &Composed,
) -> Result<(), StoreError> {
    let letter = Letter {
        // RFC 3461 §6.1
        from: "",
        to: &[sender.text()],
        body: BodyFlags { eight_bit: composed.eight_bit, utf8: composed.utf8, binary: false },
        notify: Notify { never: true, ..Notify::default() },
        // RFC 8689 §5: it holds the header of what it is about.
        require_tls: message.1.require_tls,
        bytes: &composed.bytes,
    };
    let stored = post(shard, &letter).await?;
    let report = stored.map_or_else(|| "none".to_owned(), |stored| stored.id.to_string());
    count(&shard.counters.reports);
    let fields: [(&str, &dyn Display); 4] = [
        ("id", &message.0),
        ("to", &sender.text()),
        ("kind", &about.action()),
        ("report", &report),
    ];
    shard.log.event(shard.rt.unix(), Event::ReportSent, &fields);
    Ok(())
}

/// What a report says of one recipient, as text that it can borrow.
struct Texts {
    address: String,
    orcpt: Option<String>,
    said: Option<String>,
    reason: Option<String>,
}

impl Texts {
    fn new(fate: &Fate, envelope: &Envelope) -> Self {
        let to = envelope.recipients.get(usize::from(fate.place));
        let address = to.map_or_else(String::new, |to| text(&to.address));
        let reply = (fate.code > 0).then(|| format!("{} {}", fate.code, fate.words));
        let own = (fate.code == 0 && !fate.words.is_empty()).then(|| fate.words.clone());
        let reason = match fate.kind {
            Kind::Expired => {
                let late = "It could not be delivered in the time that it may wait.";
                let last = own.map(|own| format!(" The last attempt: {own}")).unwrap_or_default();
                Some(format!("{late}{last}"))
            }
            _ => own,
        };
        Self { address, orcpt: to.and_then(orcpt), said: reply, reason }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// ORCPT as it was given; the envelope has it decoded.
fn orcpt(to: &EnvelopeRecipient) -> Option<String> {
    let orcpt = to.orcpt.as_deref()?;
    let at = orcpt.iter().position(|byte| *byte == b';')?;
    let (kind, address) = orcpt.split_at_checked(at)?;
    Some(format!("{};{}", text(kind), encode_xtext(address.get(1..)?)))
}

fn compose<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    envelope: &Envelope,
    sender: Path<'_>,
    about: About,
    fates: &[&Fate],
    original: Original<'_>,
) -> Result<Composed, String> {
    let now = shard.rt.unix();
    let texts: Vec<Texts> = fates.iter().map(|fate| Texts::new(fate, envelope)).collect();
    let until = shard.outbound.queue.borrow().expires(envelope.received);
    let recipients: Vec<Recipient<'_>> = fates
        .iter()
        .zip(&texts)
        .map(|(fate, texts)| Recipient {
            address: &texts.address,
            orcpt: texts.orcpt.as_ref().map(String::as_bytes),
            status: fate.status(),
            remote: Some(fate.peer.as_str()).filter(|peer| !peer.is_empty()),
            said: texts.said.as_ref().map(String::as_bytes),
            reason: texts.reason.as_deref(),
            last_attempt: Some(now),
            retry_until: (about == About::Delayed).then_some(until),
            log: &[],
        })
        .collect();
    let mut random = [0; 16];
    shard.rt.random(&mut random);
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    shard.rt.random(&mut random);
    let envelope_id = envelope.envid.as_deref().map(encode_xtext);
    let report = Report {
        kind: about,
        node: &shard.node,
        postmaster: &format!("postmaster@{}", shard.domain),
        sender,
        arrival: envelope.received,
        envelope_id: envelope_id.as_ref().map(String::as_bytes),
        // RFC 8689 §5: as if RET=HDRS was said, whatever was.
        ret: envelope.ret.filter(|_| !envelope.require_tls),
        utf8: envelope.body.utf8,
        recipients: &recipients,
        original,
        date: now,
        message_id: &format!("{name}@{}", shard.node),
    };
    report.compose(&random).map_err(|error| error.to_string())
}

/// The message, or as much of its front as a report can use.
async fn original<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    id: QueueId,
) -> Result<Vec<u8>, Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = patiently(shard, || Stored::open(shard, id)).await;
    let Ok((mut stored, _)) = opened else { return Err(bytes) };
    while bytes.len() <= WHOLE_BYTES_MAX {
        match stored.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes),
            Err(_) => break,
        }
    }
    Err(bytes)
}
