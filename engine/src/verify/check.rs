//! The check of one message, from its first recipient to its last byte.

use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::dkim::verify::{Judged, Verifier};
use fsmtp_proto::dmarc::{self, BadFrom, Evidence};
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::time::UnixTime;
use fsmtp_proto::{arc, dnsbl, iprev, spf};
use fsmtp_rt::{Class, Datagrams, Dial, Runtime};
use futures_channel::oneshot;

use super::{Client, Settings, Verdicts, is_vouched, score};
use crate::budget::{Charge, Full};
use crate::resolver::{Resolver, Share};
use crate::start::first;

/// What is not charged of a header section: most have less, and must not wait for those that hold
/// large ones on purpose. Connections are bounded, and so is what they take together.
const FREE_BYTES: usize = 16 * 1024;

/// How long all but DMARC may take: the rest is for that, which must not go without an answer
/// because a signature or a host's name does.
fn lookups(settings: &Settings) -> Duration {
    settings.timeout / 4 * 3
}

/// What the DNS tells of a client.
#[derive(Debug)]
struct About {
    helo: spf::Outcome,
    spf: Option<spf::Outcome>,
    iprev: Option<iprev::Outcome>,
    lists: dnsbl::Outcome,
}

/// The check of one message.
#[derive(Debug)]
pub struct Check {
    settings: Arc<Settings>,
    client: Client,
    about: oneshot::Receiver<About>,
    verifier: Option<Box<Verifier>>,
    is_asked: bool,
    /// For its header section.
    room: Charge,
}

impl Check {
    /// Begins to look up what the client's address and name tell. That ends with the check.
    pub fn begin<R: Dial + Datagrams>(
        rt: &R,
        resolver: &Resolver<R>,
        settings: &Arc<Settings>,
        receiver: &str,
        client: Client,
        room: Charge,
    ) -> Self {
        let (mut done, about) = oneshot::channel();
        let (resolver, settings) = (resolver.clone(), Arc::clone(settings));
        let (who, receiver) = (client.clone(), Rc::<str>::from(receiver));
        let (terms, now) = (Arc::clone(&settings), rt.unix());
        let deadline = rt.now() + lookups(&settings);
        rt.spawn(Class::Session, async move {
            let mut found = None;
            let look_up = async {
                let check = |known: &Known| about_client(&who, &receiver, now, &terms, known);
                found = Some(resolver.learn(deadline, Share::Check, check).await);
            };
            // Nobody wants to know any more.
            first(pin!(look_up), pin!(done.cancellation())).await;
            if let Some(found) = found {
                let _ = done.send(found);
            }
        });
        Self { settings, client, about, verifier: None, is_asked: false, room }
    }

    /// The message begins.
    pub fn message(&mut self) {
        self.room.clear();
        self.verifier = Some(Box::default());
        self.is_asked = false;
    }

    /// Takes the next bytes of the message, as they came.
    ///
    /// # Errors
    /// When the header sections of all messages of the shard take too much memory.
    pub fn feed<R: Dial + Datagrams>(
        &mut self,
        bytes: &[u8],
        resolver: &Resolver<R>,
    ) -> Result<(), Full> {
        let Some(verifier) = &mut self.verifier else { return Ok(()) };
        let charged = |verifier: &Verifier| verifier.header_bytes().saturating_sub(FREE_BYTES);
        let before = charged(verifier);
        verifier.feed(bytes);
        match charged(verifier).checked_sub(before) {
            Some(more) => self.room.add(more)?,
            // One that is over the limits is not held.
            None => self.room.clear(),
        }
        if !self.is_asked && verifier.is_in_body() {
            self.is_asked = true;
            resolver.prefetch(verifier.questions(), Share::Check);
            let fields = verifier.fields().unwrap_or_default();
            let authors = dmarc::authors(&fields);
            // As if nobody knew yet whether they are good: their domains have to be compared.
            let (dkim, spf) = (verifier.expected(), unknown(&self.client));
            let evidence = evidence(&authors, Some(&spf), &dkim, 0);
            if let Next::Ask(questions) = dmarc::check(&evidence, &Known::default()) {
                resolver.prefetch(questions, Share::Policy);
            }
        }
        Ok(())
    }

    /// The message is over: what was found out.
    pub async fn finish<R: Dial + Datagrams>(
        self,
        rt: &R,
        resolver: &Resolver<R>,
        receiver: &str,
    ) -> Verdicts {
        let Self { settings, client, about, verifier, .. } = self;
        let message = verifier.unwrap_or_default().finish();
        let (now, deadline) = (rt.unix(), rt.now() + settings.timeout);
        let of_keys = rt.now() + lookups(&settings);
        let check = |known: &Known| message.check(known, now).and(arc::check(&message, known));
        let (dkim, arc) = resolver.learn(of_keys, Share::Check, check).await;
        let about = match about.await {
            Ok(about) => about,
            // The task has ended without a word, as it does only with the shard.
            Err(oneshot::Canceled) => nothing(&client, receiver, now, &settings),
        };
        let spf = about.spf.unwrap_or_else(|| about.helo.clone());
        let authors = message.fields().map_or(Err(BadFrom::TooLong), |all| dmarc::authors(&all));
        let evidence = evidence(&authors, Some(&spf), &dkim, draw(rt));
        let judge = |known: &Known| dmarc::check(&evidence, known);
        let dmarc = resolver.learn(deadline, Share::Policy, judge).await;
        let score = score(&settings.lists, &about.lists);
        let (helo, iprev, lists) = (about.helo, about.iprev, about.lists);
        let (bad_from, is_vouched) = (authors.err(), is_vouched(&settings.sealers, &arc));
        Verdicts { client, helo, spf, iprev, lists, score, dkim, arc, dmarc, is_vouched, bad_from }
    }
}

/// SPF before its answer.
fn unknown(client: &Client) -> spf::Outcome {
    let domain = client.sender.rsplit_once('@').map_or(&*client.helo, |(_, domain)| domain);
    spf::Outcome {
        verdict: spf::Verdict::Temperror,
        domain: domain.to_owned(),
        explanation: None,
        steps: Vec::new(),
    }
}

/// What DMARC is told of a message.
fn evidence<'e>(
    authors: &'e Result<Vec<String>, BadFrom>,
    spf: Option<&'e spf::Outcome>,
    dkim: &'e [Judged],
    draw: u8,
) -> Evidence<'e> {
    Evidence { authors: authors.as_deref().map_err(|bad| *bad), spf, dkim, draw }
}

/// A number below 100; the slight favour for those below 36 does not matter here.
fn draw<R: Runtime>(rt: &R) -> u8 {
    let mut byte = [0];
    rt.random(&mut byte);
    let [byte] = byte;
    byte % 100
}

/// What the DNS tells of a client, or what must be known first.
fn about_client(
    client: &Client,
    receiver: &str,
    now: UnixTime,
    settings: &Settings,
    known: &Known,
) -> Next<About> {
    let Client { ip, helo, sender } = client;
    let identity = |sender| spf::Client { ip: *ip, helo, sender, receiver, now };
    // RFC 7208 §2.3: the name is worth a check of its own.
    let by_name = spf::check(&identity(""), known);
    let by_sender = match &**sender {
        "" => Next::Done(None),
        sender => spf::check(&identity(sender), known).map(Some),
    };
    let back = match settings.iprev {
        true => iprev::check(*ip, known).map(Some),
        false => Next::Done(None),
    };
    let zones = settings.lists.iter().map(|list| list.zone.as_str());
    let lists = dnsbl::check(*ip, zones, known);
    by_name.and(by_sender).and(back).and(lists).map(|(((helo, spf), iprev), lists)| About {
        helo,
        spf,
        iprev,
        lists,
    })
}

/// The same when nothing can be looked up.
fn nothing(client: &Client, receiver: &str, now: UnixTime, settings: &Settings) -> About {
    use fsmtp_proto::dns::{Failure, Reason};
    let mut known = Known::default();
    loop {
        match about_client(client, receiver, now, settings, &known) {
            Next::Done(about) => return about,
            Next::Ask(questions) => {
                for question in questions {
                    known.put(question, Err(Failure::Temporary(Reason::Unreachable)));
                }
            }
        }
    }
}
