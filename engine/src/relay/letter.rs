//! A queued message as the client session sends it: who it is from and for.
//!
//! Made from the envelope in the log, for the recipients of one leg. What stands there was checked
//! when it came in; what cannot be read any more all the same is sent as the null path, which every
//! server refuses for a recipient.

use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_proto::smtp::client;
use fsmtp_proto::smtp::ext::{BodyType, Notify, OriginalRecipient, Return};
use fsmtp_proto::smtp::server::{Recipient, Sender};
use fsmtp_proto::wire::token::{Xtext, encode_xtext};
use fsmtp_store::Envelope;
use fsmtp_store::envelope::{EnvelopeRecipient, Ret};

/// One recipient.
#[derive(Debug)]
struct To {
    /// Its place in the envelope.
    place: u16,
    address: String,
    notify: Option<Notify>,
    /// Type and address, the latter in xtext.
    original: Option<(String, String)>,
}

/// The envelope of one transaction.
#[derive(Debug)]
pub(super) struct Letter {
    from: String,
    body: BodyType,
    utf8: bool,
    ret: Option<Return>,
    /// In xtext.
    envelope_id: Option<String>,
    size: u64,
    require_tls: bool,
    to: Vec<To>,
}

/// A letter as it goes over one connection.
#[derive(Debug)]
pub(super) struct Over<'l> {
    pub(super) letter: &'l Letter,
    /// Whether the host has proved what REQUIRETLS asks for.
    pub(super) proved: bool,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Letter {
    /// For the recipients at these places of `envelope`.
    pub(super) fn new(envelope: &Envelope, places: &[u16], size: u64) -> Self {
        let recipient =
            |&place: &u16| envelope.recipients.get(usize::from(place)).map(|to| To::new(place, to));
        Self {
            from: text(&envelope.reverse_path),
            body: match envelope.body {
                body if body.binary => BodyType::Binary,
                body if body.eight_bit => BodyType::EightBit,
                _ => BodyType::SevenBit,
            },
            utf8: envelope.body.utf8,
            ret: envelope.ret.map(|ret| match ret {
                Ret::Full => Return::Full,
                Ret::Headers => Return::Headers,
            }),
            envelope_id: envelope.envid.as_ref().map(|id| encode_xtext(id)),
            size,
            require_tls: envelope.require_tls,
            to: places.iter().filter_map(recipient).collect(),
        }
    }

    /// Whether its sender wants TLS with a proved host all the way (RFC 8689).
    pub(super) const fn requires_tls(&self) -> bool {
        self.require_tls
    }

    /// RFC 8689 §4.2.1, §5: what has no reverse path is a report, which had better arrive than be
    /// lost.
    pub(super) fn may_go_without(&self) -> bool {
        !self.require_tls || self.from.is_empty()
    }

    pub(super) fn recipients_count(&self) -> u32 {
        u32::try_from(self.to.len()).unwrap_or(u32::MAX)
    }

    /// The place in the envelope of recipient number `index`.
    pub(super) fn place(&self, index: u32) -> Option<u16> {
        self.to.get(index as usize).map(|to| to.place)
    }

    /// Its address.
    pub(super) fn address(&self, index: u32) -> &str {
        self.to.get(index as usize).map_or("", |to| &to.address)
    }
}

impl To {
    fn new(place: u16, to: &EnvelopeRecipient) -> Self {
        let notify = Notify {
            success: to.notify.success,
            failure: to.notify.failure,
            delay: to.notify.delay,
        };
        let asked = to.notify.never || notify.success || notify.failure || notify.delay;
        let original = to.orcpt.as_deref().and_then(|orcpt| {
            let at = orcpt.iter().position(|byte| *byte == b';')?;
            let (kind, address) = orcpt.split_at_checked(at)?;
            Some((text(kind), encode_xtext(address.get(1..)?)))
        });
        Self { place, address: text(&to.address), notify: asked.then_some(notify), original }
    }
}

/// A path as it was accepted.
fn path(address: &str) -> Path<'_> {
    Mailbox::parse(address).map_or(Path::Null, Path::Mailbox)
}

impl client::Envelope for Letter {
    fn sender(&self) -> Sender<'_> {
        let id = self.envelope_id.as_ref();
        Sender {
            size: Some(self.size),
            body: self.body,
            utf8: self.utf8,
            ret: self.ret,
            envelope_id: id.and_then(|id| Xtext::parse(id.as_bytes(), false)),
            require_tls: self.require_tls,
            ..Sender::new(path(&self.from))
        }
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        let Some(to) = self.to.get(index as usize) else { return Recipient::new(Path::Null) };
        let original = to.original.as_ref().and_then(|(kind, address)| {
            let address = Xtext::parse(address.as_bytes(), false)?;
            Some(OriginalRecipient { kind, address })
        });
        Recipient { notify: to.notify, original, ..Recipient::new(path(&to.address)) }
    }
}

impl client::Envelope for Over<'_> {
    fn sender(&self) -> Sender<'_> {
        let sender = self.letter.sender();
        // RFC 8689 §2: it is said only where all that it asks for is so.
        Sender { require_tls: sender.require_tls && self.proved, ..sender }
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        self.letter.recipient(index)
    }
}
