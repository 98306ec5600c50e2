//! One session's way through the filters, message after message.

use core::fmt::{self, Display};
use std::borrow::Cow;
use std::rc::Rc;

use fsmtp_proto::dkim::header::{HEADER_BYTES_MAX, Section, fields};
use fsmtp_rt::{Dial, Runtime};

use super::changes::{Changes, FieldChange, Held};
use super::milter::{Milter, Noted, Trouble};
use super::rspamd::{self, Question};
use super::verdict::{Answer, Refused, Verdict};
use super::{Filter, Filters, Outcome, PAUSE, Plan, Protocol, Scene, WhenAway};
use crate::budget::{Budget, Charge, Full};
use crate::log::Event;
use crate::shard::count;

/// The longest header section that is held back; arbitrary, and what a record of the store has room
/// for beside the largest envelope. A longer one is stored at once, and only added to.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// How a filter of a passage is asked.
enum How<R: Runtime> {
    Milter(Box<Milter<R>>),
    Rspamd { too_long: bool },
}

struct Asked<R: Runtime> {
    filter: Rc<Filter>,
    how: How<R>,
    /// It has said enough of this message, or is away.
    done: bool,
}

impl<R: Dial> Asked<R> {
    fn new(filter: &Rc<Filter>, budget: &Budget) -> Self {
        let how = match filter.plan.protocol {
            Protocol::Milter => How::Milter(Box::new(Milter::new(budget.charge()))),
            Protocol::Rspamd => How::Rspamd { too_long: false },
        };
        Self { filter: Rc::clone(filter), how, done: false }
    }
}

/// One session's way through the filters.
pub(crate) struct Passage<R: Runtime> {
    asked: Vec<Asked<R>>,
    /// Its mail is that of a user.
    user: bool,
    /// The header section is held back, as long as it is not too long for that.
    holds: bool,
    /// Decided: nothing more is asked.
    ended: Option<Verdict>,
    /// Why it is junk.
    junk: Option<Box<str>>,
    changes: Changes,
    /// The header section of the message under way.
    section: Section,
    section_charge: Charge,
    /// Its body, as long as somebody needs it whole.
    body: Vec<u8>,
    body_charge: Charge,
}

impl<R: Runtime> fmt::Debug for Passage<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passage({} filters)", self.asked.len())
    }
}

impl<R: Dial> Passage<R> {
    /// Through those that look at such mail.
    pub(super) fn new(filters: &Filters, user: bool) -> Self {
        let all = filters.all.iter().filter(|filter| filter.plan.users || !user);
        let asked = |filter: &Rc<Filter>| Asked::new(filter, &filters.budget);
        Self {
            asked: all.map(asked).collect(),
            user,
            holds: !user,
            ended: None,
            junk: None,
            changes: Changes::default(),
            section: Section::new(),
            section_charge: filters.budget.charge(),
            body: Vec::new(),
            body_charge: filters.budget.charge(),
        }
    }

    /// Whether it is for mail of users.
    pub(crate) const fn is_of_user(&self) -> bool {
        self.user
    }

    /// The transaction is over, or has come to nothing.
    pub(crate) fn reset(&mut self) {
        for asked in &mut self.asked {
            asked.done = false;
            match &mut asked.how {
                How::Milter(milter) => milter.reset(),
                How::Rspamd { too_long } => *too_long = false,
            }
        }
        self.holds = !self.user;
        self.ended = None;
        self.junk = None;
        self.changes = Changes::default();
        self.section = Section::new();
        self.section_charge.clear();
        self.drop_body();
    }

    fn drop_body(&mut self) {
        self.body = Vec::new();
        self.body_charge.clear();
    }

    /// May this recipient, who is welcome here, get the message? Some filters refuse clients and
    /// senders; that is said here, too.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn recipient(
        &mut self,
        scene: &Scene<'_, R>,
        to: &str,
    ) -> Result<(), Refused> {
        for at in 0..self.asked.len() {
            let way = (&scene.client, &scene.mail);
            let heard = self.ask_milter(at, scene, async |m, how| m.sender(how, way).await).await;
            self.hear_any(at, scene, heard);
            let heard = self.ask_milter(at, scene, async |m, _| m.recipient(to).await).await;
            match heard {
                Some(Answer::Refuse(refused)) => {
                    self.note_refused(at, scene, &refused, Some(to));
                    // RFC 5321 §3.8: the connection ends with it.
                    if refused.code.number() == 421 {
                        self.ended = Some(Verdict::Refused(refused.clone()));
                    }
                    return Err(refused);
                }
                heard => self.hear_any(at, scene, heard),
            }
            if let Some(Verdict::Refused(refused)) = &self.ended {
                return Err(refused.clone());
            }
        }
        Ok(())
    }

    /// The message would come now.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn begin(&mut self, scene: &Scene<'_, R>) -> Result<(), Refused> {
        for at in 0..self.asked.len() {
            let heard = self.ask_milter(at, scene, async |m, _| m.data(scene.id).await).await;
            self.hear_any(at, scene, heard);
            // Nothing needs to be kept for who is left alone.
            if let How::Rspamd { .. } = self.asked[at].how {
                self.is_paused(at, scene);
            }
        }
        match &self.ended {
            Some(Verdict::Refused(refused)) => Err(refused.clone()),
            _ => Ok(()),
        }
    }

    /// Takes bytes of the message, gives back what is to be stored now.
    pub(crate) async fn feed<'b>(
        &mut self,
        scene: &Scene<'_, R>,
        bytes: &'b [u8],
    ) -> Cow<'b, [u8]> {
        if self.is_lost() {
            return Cow::default();
        }
        let was_over = self.section.is_over();
        let body = self.section.feed(bytes);
        let section_bytes = bytes.len() - body.len();
        let released = self.holds && self.section_bytes() > HELD_BYTES_MAX;
        if !was_over {
            if let Err(Full) = self.section_charge.add(section_bytes) {
                self.end_busy();
            } else if self.section.bytes().is_err() {
                self.end_bad_header();
            } else if self.section.is_over() {
                self.header(scene).await;
            }
        }
        if !body.is_empty() {
            self.body(scene, body).await;
        }
        if self.is_lost() {
            Cow::default()
        } else if released {
            self.holds = false;
            // copy: what was held, once, of a header section that is longer than most.
            let end: &[u8] = if self.section.is_over() { b"\r\n" } else { b"" };
            [self.section.bytes().unwrap_or_default(), end, body].concat().into()
        } else if self.holds {
            body.into()
        } else {
            bytes.into()
        }
    }

    fn section_bytes(&self) -> usize {
        self.section.bytes().map_or(0, <[u8]>::len)
    }

    /// Whether nobody will get it.
    const fn is_lost(&self) -> bool {
        matches!(self.ended, Some(Verdict::Refused(_) | Verdict::Discard))
    }

    fn end_busy(&mut self) {
        self.ended = Some(Verdict::Refused(Refused::plain(451, "4.3.0 Busy, try again later")));
    }

    fn end_bad_header(&mut self) {
        let why = format!("5.6.0 The header has over {HEADER_BYTES_MAX} bytes or too many fields");
        self.ended = Some(Verdict::Refused(Refused::plain(550, &why)));
    }

    /// The header section is whole.
    async fn header(&mut self, scene: &Scene<'_, R>) {
        let section = core::mem::take(&mut self.section);
        match section.bytes().and_then(fields) {
            Ok(found) => {
                for at in 0..self.asked.len() {
                    let ask =
                        async |m: &mut Milter<R>, _: (&R, &Plan)| m.header(&found, scene.id).await;
                    let heard = self.ask_milter(at, scene, ask).await;
                    self.hear_any(at, scene, heard);
                }
            }
            Err(_) => self.end_bad_header(),
        }
        self.section = section;
    }

    /// Bytes of the body, not none.
    async fn body(&mut self, scene: &Scene<'_, R>, bytes: &[u8]) {
        for at in 0..self.asked.len() {
            let ask = async |milter: &mut Milter<R>, _: (&R, &Plan)| {
                milter.body(bytes).await?.map_err(|Full| Trouble::NoRoom)
            };
            let heard = self.ask_milter(at, scene, ask).await;
            self.hear_any(at, scene, heard);
        }
        self.keep(scene, bytes);
    }

    /// Keeps bytes of the body for those who need all of it.
    fn keep(&mut self, scene: &Scene<'_, R>, bytes: &[u8]) {
        if self.ended.is_some() {
            return;
        }
        let whole_bytes = self.section_bytes() + 2 + self.body.len();
        let mut needed = false;
        for asked in &mut self.asked {
            if let How::Rspamd { too_long } = &mut asked.how {
                let most = asked.filter.plan.message_bytes_max;
                *too_long |= whole_bytes + bytes.len() > most;
                needed |= !*too_long && !asked.done;
            }
        }
        if !needed {
            self.drop_body();
        } else if let Err(Full) = self.body_charge.add(bytes.len()) {
            self.drop_body();
            for at in 0..self.asked.len() {
                let needs = matches!(self.asked[at].how, How::Rspamd { too_long: false });
                if needs && !self.asked[at].done {
                    self.heard(at, scene, Err(Trouble::NoRoom));
                }
            }
        } else {
            // copy: receive window -> what rspamd is to see whole.
            self.body.extend_from_slice(bytes);
        }
    }

    /// The message is over. `recipients` are those who were accepted.
    pub(crate) async fn finish(&mut self, scene: &Scene<'_, R>, recipients: &[String]) -> Outcome {
        if !self.section.is_over() && self.ended.is_none() {
            self.header(scene).await;
        }
        for at in 0..self.asked.len() {
            if self.ended.is_none() {
                let heard = self.end(at, scene, recipients).await;
                self.hear_any(at, scene, heard);
            }
        }
        let mut changes = core::mem::take(&mut self.changes);
        let mut verdict = match (self.ended.take(), self.junk.take()) {
            (Some(verdict), _) => verdict,
            (None, Some(why)) => Verdict::Junk(why),
            (None, None) => Verdict::Accept,
        };
        let mut head = Vec::new();
        if matches!(verdict, Verdict::Accept | Verdict::Junk(_)) {
            if let Verdict::Junk(_) = verdict {
                changes.fields.push(FieldChange::Insert(1, JUNK_FIELD.into()));
            }
            let section = Some(self.section.bytes().unwrap_or_default()).filter(|_| self.holds);
            match (Held { section, is_over: self.section.is_over() }).with(&changes.fields) {
                Ok(whole) => head = whole,
                Err(_) => {
                    self.end_bad_header();
                    verdict = self.ended.take().unwrap_or(verdict);
                }
            }
        }
        changes.fields = Vec::new();
        self.reset();
        Outcome { verdict, head, changes }
    }

    /// Has one filter say what it thinks of the whole.
    async fn end(
        &mut self,
        at: usize,
        scene: &Scene<'_, R>,
        recipients: &[String],
    ) -> Option<Answer> {
        let filter = Rc::clone(&self.asked[at].filter);
        let (mut changes, mut why) = (Changes::default(), None);
        let mut noted = Noted { changes: &mut changes, junk: &mut why };
        let heard = match &self.asked[at].how {
            How::Milter(_) => {
                let ask = async |milter: &mut Milter<R>, _: (&R, &Plan)| {
                    milter.end(scene.id, &mut noted).await
                };
                self.ask_milter(at, scene, ask).await
            }
            How::Rspamd { .. } if self.asked[at].done => None,
            How::Rspamd { too_long: true } => {
                count(&filter.counters.too_long);
                None
            }
            How::Rspamd { too_long: false } => {
                let section = self.section.bytes().unwrap_or_default();
                let between: &[u8] = if self.section.is_over() { b"\r\n" } else { b"" };
                let question = Question {
                    client: &scene.client,
                    mail: &scene.mail,
                    id: scene.id,
                    recipients,
                    message: [section, between, &self.body],
                };
                let heard = rspamd::ask((scene.rt, &filter.plan), &question, &mut noted).await;
                self.heard(at, scene, heard)
            }
        };
        if heard.is_some() {
            count(&filter.counters.asked);
            self.changes.fields.append(&mut changes.fields);
            self.changes.bound();
            self.changes.recipients.append(&mut changes.recipients);
            self.changes.sender = changes.sender.or_else(|| self.changes.sender.take());
            if let Some(why) = why {
                count(&filter.counters.junk);
                let fields: [(&str, &dyn Display); 3] =
                    [("filter", &filter.plan.name), ("id", &scene.id), ("why", &why)];
                scene.log.event(scene.rt.unix(), Event::FilterJunk, &fields);
                self.junk.get_or_insert(why);
            }
        }
        heard
    }

    /// Asks a milter, unless it is none, or done, or all is decided.
    async fn ask_milter(
        &mut self,
        at: usize,
        scene: &Scene<'_, R>,
        ask: impl AsyncFnOnce(&mut Milter<R>, (&R, &Plan)) -> Result<Answer, Trouble>,
    ) -> Option<Answer> {
        let filter = Rc::clone(&self.asked[at].filter);
        if self.ended.is_some() || self.asked[at].done {
            return None;
        }
        if !matches!(self.asked[at].how, How::Milter(_)) || self.is_paused(at, scene) {
            return None;
        }
        let How::Milter(milter) = &mut self.asked[at].how else { return None };
        let heard = ask(milter, (scene.rt, &filter.plan)).await;
        if heard.is_err() {
            milter.drop_link();
        }
        self.heard(at, scene, heard)
    }

    /// Whether a filter is left alone for a while, which is then as if it did not answer.
    fn is_paused(&mut self, at: usize, scene: &Scene<'_, R>) -> bool {
        let connected = match &self.asked[at].how {
            How::Milter(milter) => milter.is_open(),
            How::Rspamd { .. } => false,
        };
        let paused = !connected && scene.rt.now() < self.asked[at].filter.again.get();
        if paused {
            self.away(at);
        }
        paused
    }

    fn heard(
        &mut self,
        at: usize,
        scene: &Scene<'_, R>,
        heard: Result<Answer, Trouble>,
    ) -> Option<Answer> {
        match heard {
            Ok(answer) => Some(answer),
            Err(trouble) => {
                let filter = Rc::clone(&self.asked[at].filter);
                if let Trouble::Unreachable(_) = trouble {
                    filter.again.set(scene.rt.now() + PAUSE);
                }
                let plan = &filter.plan;
                let fields: [(&str, &dyn Display); 4] = [
                    ("filter", &plan.name),
                    ("id", &scene.id),
                    ("why", &trouble),
                    ("then", &plan.when_away),
                ];
                scene.log.event(scene.rt.unix(), Event::FilterAway, &fields);
                self.away(at);
                None
            }
        }
    }

    /// Does what is to be done while a filter is away.
    fn away(&mut self, at: usize) {
        let filter = Rc::clone(&self.asked[at].filter);
        count(&filter.counters.away);
        self.asked[at].done = true;
        match filter.plan.when_away {
            WhenAway::Accept => {}
            WhenAway::Defer => {
                self.ended = Some(Verdict::Refused(Refused::later("4.7.1 Try again later")));
            }
            WhenAway::Junk => {
                self.junk.get_or_insert_with(|| format!("{} is away", filter.plan.name).into());
            }
        }
    }

    fn hear_any(&mut self, at: usize, scene: &Scene<'_, R>, answer: Option<Answer>) {
        if let Some(answer) = answer {
            self.hear(at, scene, answer);
        }
    }

    /// Takes what a filter has said of the message.
    fn hear(&mut self, at: usize, scene: &Scene<'_, R>, answer: Answer) {
        match answer {
            Answer::GoOn => {}
            Answer::Enough => self.asked[at].done = true,
            Answer::Discard => {
                let filter = &self.asked[at].filter;
                count(&filter.counters.discarded);
                let fields: [(&str, &dyn Display); 3] =
                    [("filter", &filter.plan.name), ("id", &scene.id), ("from", &scene.mail.from)];
                scene.log.event(scene.rt.unix(), Event::FilterDiscarded, &fields);
                self.ended = Some(Verdict::Discard);
            }
            Answer::Refuse(refused) => {
                self.note_refused(at, scene, &refused, None);
                self.ended = Some(Verdict::Refused(refused));
            }
        }
    }

    fn note_refused(&self, at: usize, scene: &Scene<'_, R>, refused: &Refused, to: Option<&str>) {
        let filter = &self.asked[at].filter;
        count(&filter.counters.refused);
        let fields: [(&str, &dyn Display); 6] = [
            ("filter", &filter.plan.name),
            ("from", &scene.mail.from),
            ("code", &refused.code.number()),
            ("said", &refused.text),
            ("client", &scene.client.ip),
            to.as_ref().map_or(("id", &scene.id), |to| ("to", to)),
        ];
        scene.log.event(scene.rt.unix(), Event::FilterRefused, &fields);
    }

    /// Says goodbye to those who were asked.
    pub(crate) async fn quit(&mut self) {
        for asked in &mut self.asked {
            if let How::Milter(milter) = &mut asked.how {
                milter.quit().await;
            }
        }
    }
}

/// What says to mail programs that a message is junk.
const JUNK_FIELD: &[u8] = b"X-Spam: Yes\r\n";
