//! A message that a command brings to its hosts itself, at once and once: no shard, no queue.
//!
//! `mailtest` makes an [`Errand`] and runs it on a runtime of its own. The way, the session and TLS
//! are those of the relay, by the same code; so are their limits. Only the loop that a relay guards
//! against is none here: mail to this very node is taken there. What went wrong stands in the
//! [`Fate`] of each recipient.

use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::smtp::client::{Protocol, Settings, Timeouts};
use fsmtp_proto::smtp::ext::su::Keys;
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::envelope::{BodyFlags, EnvelopeRecipient, Notify};
use fsmtp_store::{Envelope, MailboxId};

use super::hosts::{Road, connect};
use super::letter::Letter;
use super::link::{Fault, Said, Verdict};
use super::pieces::Pieces;
use super::site::named;
use super::sts::Sts;
use super::watch::{Step, Watcher, tell};
use super::{Plan, routes::Routes};
use crate::config;
use crate::resolver::Resolver;
use crate::tls::{Connector, Roots};

/// Bytes that are sent at a time; arbitrary, what a segment of the log is read in is alike.
const PIECE_BYTES: usize = 64 * 1024;

/// A message, and how it is to travel.
#[derive(Debug)]
pub(crate) struct Errand {
    /// The reverse path, without brackets.
    pub(crate) from: String,
    /// Header and body, lines ending in CRLF.
    pub(crate) message: Vec<u8>,
    /// What MAIL says of them.
    pub(crate) body: BodyFlags,
    /// How this node introduces itself.
    pub(crate) node: String,
    /// As the relay sends.
    pub(crate) plan: Plan,
    /// Instead of the routes of the plan.
    pub(crate) routes: Arc<Routes>,
    /// What proves to nodes of the same owner that this is one.
    pub(crate) trust: Keys,
    /// Authorities of certificates.
    pub(crate) roots: Option<Roots>,
    /// How names are looked up.
    pub(crate) resolver: config::Resolver,
    /// How long each reply, and a connection, may take.
    pub(crate) patience: Duration,
}

/// What has become of a message for one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fate {
    /// The host has taken it.
    pub(crate) taken: bool,
    /// Another attempt makes no difference.
    pub(crate) for_good: bool,
    /// What the host said, code first, or why it was not asked.
    pub(crate) words: String,
}

impl Fate {
    fn failed(for_good: bool, words: impl Into<String>) -> Self {
        Self { taken: false, for_good, words: words.into() }
    }

    fn refused(said: &Said) -> Self {
        Self::failed(said.is_permanent(), said.to_string())
    }
}

impl Errand {
    /// Brings the message to the recipients of one domain, in lower case; a fate for each of them.
    pub(crate) async fn run<R: Dial + Datagrams>(
        &self,
        rt: &R,
        domain: &str,
        to: &[String],
        watcher: Watcher,
    ) -> Vec<Fate> {
        let settings = Rc::new(Settings {
            protocol: Protocol::Smtp,
            name: self.node.as_str().into(),
            pipelining: true,
            timeouts: Timeouts {
                command: self.patience,
                envelope: self.patience,
                data: self.patience,
                block: self.patience,
                message: self.patience,
            },
        });
        let plan =
            Plan { routes: Arc::clone(&self.routes), own_ports: Vec::new(), ..self.plan.clone() };
        let all = |fate: Fate| vec![fate; to.len()];
        let sts = Sts::default();
        let connector = match Connector::new(self.roots.as_ref()) {
            Ok(connector) => connector,
            Err(why) => return all(Fate::failed(false, why.to_string())),
        };
        let road = Road {
            rt,
            // A name that no MX record has: it may lead here.
            node: "",
            plan: &plan,
            settings: &settings,
            resolver: Some(Resolver::new(rt.clone(), &self.resolver)),
            connector: Some(connector),
            trust: self.trust.clone(),
            strict: false,
            sts: &sts,
            // It is no mail of the engine's: nothing is counted.
            note: Box::new(|_, _| ()),
            watcher,
        };
        let mut link = match connect(&road, domain).await {
            Ok(link) => link,
            Err(failed) => return all(Fate::failed(failed.permanent, failed.words)),
        };
        if link.tls().is_none() {
            tell(&road.watcher, Step::InClear);
        }
        let letter = self.letter(to);
        let fates = match link.carries(&letter) {
            Err(lack) => all(Fate::failed(true, lack.to_string())),
            Ok(()) => match link.send(&letter, &mut Whole(&self.message)).await {
                Ok(verdict) => fates(&verdict),
                Err(fault) => return all(Fate::failed(false, named(link.peer(), &fault))),
            },
        };
        link.quit().await;
        fates
    }

    fn letter(&self, to: &[String]) -> Letter {
        let recipient = |address: &String| EnvelopeRecipient {
            mailbox: MailboxId::QUEUE,
            address: address.clone().into_bytes(),
            notify: Notify::default(),
            orcpt: None,
        };
        let envelope = Envelope {
            reverse_path: self.from.clone().into_bytes(),
            body: self.body,
            recipients: to.iter().map(recipient).collect(),
            ..Envelope::default()
        };
        let places: Vec<u16> = (0..).take(to.len()).collect();
        Letter::new(&envelope, &places, self.message.len() as u64)
    }
}

/// What a verdict means for each recipient.
fn fates(verdict: &Verdict) -> Vec<Fate> {
    let fate = |refused: &Option<Said>| match (refused, &verdict.whole, &verdict.taken) {
        // RFC 5321 §4.5.3.1.10: 552 to RCPT means 452, too many recipients.
        (Some(said), ..) if said.code == 552 => Fate::failed(false, said.to_string()),
        (Some(said), ..) | (None, Some(said), _) => Fate::refused(said),
        (None, None, Some(said)) => Fate { taken: true, for_good: true, words: said.to_string() },
        (None, None, None) => Fate::failed(false, "no reply to the message"),
    };
    verdict.refused.iter().map(fate).collect()
}

/// A message in memory.
struct Whole<'m>(&'m [u8]);

impl Pieces for Whole<'_> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let (piece, rest) = self.0.split_at(self.0.len().min(PIECE_BYTES));
        self.0 = rest;
        Ok((!piece.is_empty()).then(|| piece.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recipient_has_a_fate_of_his_own() {
        let said = |code, words: &str| Some(Said { code, words: words.to_owned() });
        let verdict = |refused, whole, taken| {
            let mut verdict = Verdict::default();
            (verdict.refused, verdict.whole, verdict.taken) = (refused, whole, taken);
            verdict
        };
        let some = vec![None, said(550, "no"), said(450, "later"), said(552, "too many")];
        let found = fates(&verdict(some.clone(), None, said(250, "ok")));
        let expected = [
            Fate { taken: true, for_good: true, words: "250 ok".to_owned() },
            Fate::failed(true, "550 no"),
            Fate::failed(false, "450 later"),
            Fate::failed(false, "552 too many"),
        ];
        assert_eq!(found, expected);
        let found = fates(&verdict(some, said(554, "spam"), None));
        assert_eq!(found[0], Fate::failed(true, "554 spam"));
        assert_eq!(found[2], expected[2]);
        let found = fates(&verdict(vec![None], None, None));
        assert_eq!(found, [Fate::failed(false, "no reply to the message")]);
    }
}
