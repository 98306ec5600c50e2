//! The handlers of the verb table: each takes one command in a session that waits for one.
//!
//! A handler writes its reply, or asks the desk and leaves the reply to `Session::answer`. It gets
//! a line free of NUL, CR and LF, of at most 2,046 bytes.

use core::fmt::Write as _;
use core::net::IpAddr;

use super::super::address::{self, AddressError, Domain, Path};
use super::super::ext::{self, BodyType};
use super::super::reply::{Reply, Secure};
use super::super::text::Text;
use super::phase::{Chunk, Chunks, Envelope, Phase, Question};
use super::settings::HOST_BYTES_MAX;
use super::{Ask, Hello, Recipient, Sender, Session, Then};
use crate::wire::outbox::Outbox;
use crate::wire::token;

/// A word that is no command.
pub(crate) fn unknown<'b>(session: &mut Session, _: &'b [u8], out: &mut Outbox) -> Then<'b> {
    session.say(Reply::UnknownCommand, out)
}

/// RFC 5321 §4.1.1.1.
pub(crate) fn ehlo<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    match client_name(argument) {
        Ok(name) => {
            session.hello = Hello::Ehlo(Text::new(name));
            out.push(b"250-");
            session.write_hello(out);
            out.push(b"\r\n");
            out.push(session.settings.keywords(session.tls()).as_bytes());
            // RFC 5321 §4.1.4: a later EHLO clears the transaction as RSET does.
            session.drop_transaction()
        }
        Err(reply) => session.say(reply, out),
    }
}

/// RFC 5321 §4.1.1.1, without extensions.
pub(crate) fn helo<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    match client_name(argument) {
        Ok(name) => {
            session.hello = Hello::Helo(Text::new(name));
            out.push(b"250 ");
            session.write_hello(out);
            out.push(b" - fsmtp\r\n");
            session.drop_transaction()
        }
        Err(reply) => session.say(reply, out),
    }
}

/// The client's own name: a domain or an address literal.
fn client_name(argument: &[u8]) -> Result<&str, Reply> {
    let name = argument.trim_ascii_start();
    if name.is_empty() {
        return Err(Reply::HelloEmpty);
    }
    // RFC 6531 §3.7.1: in A-label form here, so ASCII.
    let name = core::str::from_utf8(name).ok().filter(|name| name.is_ascii());
    let name = name.ok_or(Reply::HelloSyntax)?;
    if is_host_name(name) || Domain::parse(name).is_ok() {
        Ok(name)
    } else {
        Err(Reply::HelloSyntax)
    }
}

/// Whether `name` is a domain name of ASCII letters, or would be one without its underscores: many
/// hosts have them in their names and nothing here depends on it.
pub(super) fn is_host_name(name: &str) -> bool {
    let plain = |name: &str| matches!(Domain::parse(name), Ok(Domain::Name(_)));
    name.is_ascii() && (plain(name) || (name.contains('_') && plain(&name.replace('_', "x"))))
}

/// Who is at the other end, as replies say it.
impl Session {
    /// The name of the client's host, if it may stand in a reply.
    pub(super) fn shown_host(&self) -> Option<&str> {
        self.peer.host.as_deref().filter(|host| {
            host.len() <= HOST_BYTES_MAX && host.bytes().all(|b| b.is_ascii_graphic())
        })
    }

    /// `<node>, at your service <host> [<ip>]`, as the seeds have it.
    fn write_hello(&self, out: &mut Outbox) {
        out.push(self.settings.hello().as_bytes());
        if let Some(host) = self.shown_host() {
            out.push(host.as_bytes());
            out.push(b" ");
        }
        out.push(b"[");
        match self.peer.ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mut buffer = [0; token::IPV4_BYTES_MAX];
                out.push(token::push_ipv4(ip, &mut buffer));
            }
            IpAddr::V6(ip) => {
                let written = write!(out, "{ip}");
                debug_assert!(written.is_ok(), "turn has seen to the room");
            }
        }
        out.push(b"]");
    }
}

/// RFC 5321 §4.1.1.2.
pub(crate) fn mail<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    match parse_mail(session, argument) {
        Ok(sender) => {
            let Sender { body, utf8, .. } = sender;
            let envelope = Envelope { recipients_count: 0, body, utf8, chunks: None };
            let echo = Text::new(sender.path.text());
            session.phase = Phase::Asked(Question::Sender { echo, envelope });
            Then::Ask(Ask::Sender(sender))
        }
        Err(reply) => session.say(reply, out),
    }
}

fn parse_mail<'b>(session: &Session, argument: &'b [u8]) -> Result<Sender<'b>, Reply> {
    // RFC 5321 §4.1.4: a client that opens no session gets no transaction.
    let extended = match session.hello {
        Hello::None => return Err(Reply::HelloFirst),
        Hello::Helo(_) => false,
        Hello::Ehlo(_) => true,
    };
    let access = session.settings.access();
    if access.submission {
        // RFC 6409 §4.3, RFC 4954 §6.
        if !access.may_sign_in(session.tls()) {
            return Err(Reply::Secure(Secure::TlsFirst));
        }
        if session.user().is_none() {
            return Err(Reply::Secure(Secure::AuthFirst));
        }
    }
    if session.envelope().is_some() {
        return Err(Reply::MailAlready);
    }
    let limits = session.settings.limits();
    if limits.mails_max != 0 && session.mails_count >= limits.mails_max {
        return Err(Reply::TooManyMails);
    }
    let argument = token::strip_prefix_ignore_case(argument, b"FROM:").ok_or(Reply::MailSyntax)?;
    let text = core::str::from_utf8(argument).map_err(|_| Reply::SenderInvalid)?;
    let (path, parameters) = address::parse_path(text).map_err(|error| match error {
        AddressError::Syntax => Reply::SenderInvalid,
        AddressError::TooLong => Reply::SenderTooLong,
    })?;
    // RFC 5321 §4.1.1.3: a bare postmaster is a recipient only.
    if matches!(path, Path::Postmaster(_)) {
        return Err(Reply::SenderInvalid);
    }
    let mut sender = Sender::new(path);
    // RFC 5321 §4.1.1.11: parameters only where EHLO offered them.
    if !extended && !parameters.is_empty() {
        return Err(Reply::ParameterUnknown);
    }
    ext::sender_parameters(&mut sender, parameters, limits)?;
    // RFC 4954 §5: a parameter of the extension, so only where that is.
    if sender.submitter.is_some() && access.mechanisms.is_empty() {
        return Err(Reply::ParameterUnknown);
    }
    // RFC 8689 §2: only in a session that is under TLS itself.
    if sender.require_tls && session.tls().is_none() {
        return Err(Reply::Secure(Secure::TlsForMessage));
    }
    if path.is_internationalized() && !sender.utf8 {
        return Err(Reply::NeedsUtf8);
    }
    Ok(sender)
}

/// RFC 5321 §4.1.1.3.
pub(crate) fn recipient<'b>(
    session: &mut Session,
    argument: &'b [u8],
    out: &mut Outbox,
) -> Then<'b> {
    match parse_recipient(session, argument) {
        Ok((recipient, envelope)) => {
            let echo = Text::new(recipient.path.text());
            session.phase = Phase::Asked(Question::Recipient { echo, envelope });
            Then::Ask(Ask::Recipient(recipient))
        }
        Err(reply) => session.say(reply, out),
    }
}

fn parse_recipient<'b>(
    session: &Session,
    argument: &'b [u8],
) -> Result<(Recipient<'b>, Envelope), Reply> {
    let envelope = session.open_envelope()?;
    // RFC 3030 §2: the envelope is complete when the first chunk comes.
    if envelope.chunks.is_some() {
        return Err(Reply::ChunksBegun);
    }
    let argument = token::strip_prefix_ignore_case(argument, b"TO:");
    let argument = argument.ok_or(Reply::RecipientSyntax)?;
    let text = core::str::from_utf8(argument).map_err(|_| Reply::RecipientInvalid)?;
    let (path, parameters) = address::parse_path(text).map_err(|error| match error {
        AddressError::Syntax => Reply::RecipientInvalid,
        AddressError::TooLong => Reply::RecipientTooLong,
    })?;
    if matches!(path, Path::Null) {
        return Err(Reply::RecipientInvalid);
    }
    if matches!(session.hello, Hello::Helo(_)) && !parameters.is_empty() {
        return Err(Reply::ParameterUnknown);
    }
    let mut recipient = Recipient::new(path);
    ext::recipient_parameters(&mut recipient, parameters, envelope.utf8)?;
    if path.is_internationalized() && !envelope.utf8 {
        return Err(Reply::NeedsUtf8);
    }
    // RFC 5321 §4.5.3.1.10: 452, and the message goes to those accepted so far.
    if envelope.recipients_count >= session.settings.limits().recipients_max {
        return Err(Reply::TooManyRecipients);
    }
    Ok((recipient, envelope))
}

/// RFC 5321 §4.1.1.4.
pub(crate) fn data<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    match may_begin_data(session, argument) {
        Ok(()) => {
            session.phase = Phase::Asked(Question::BeginData);
            Then::Ask(Ask::Begin)
        }
        Err(reply) => session.say(reply, out),
    }
}

fn may_begin_data(session: &Session, argument: &[u8]) -> Result<(), Reply> {
    if !argument.is_empty() {
        return Err(Reply::NoArguments);
    }
    let envelope = session.open_envelope()?;
    if envelope.recipients_count == 0 {
        return Err(Reply::RecipientFirst);
    }
    // RFC 3030 §2: DATA and BDAT cannot be used in the same transaction ...
    if envelope.chunks.is_some() {
        return Err(Reply::DataAlready);
    }
    // ... and RFC 3030 §3: binary content cannot be sent by DATA.
    if envelope.body == BodyType::Binary {
        return Err(Reply::BinaryNeedsChunks);
    }
    Ok(())
}

/// RFC 3030 §2. The chunk follows whatever the reply will be, so it is always read past.
pub(crate) fn chunk<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    let header = match ext::parse_chunk_header(argument) {
        Ok(header) => header,
        Err((reply, _)) if reply.closes() => return session.say(reply, out),
        Err((reply, bytes)) => {
            let envelope = session.envelope();
            return session.skip_chunk(bytes, reply, envelope);
        }
    };
    let envelope = match session.open_envelope() {
        Ok(envelope) if envelope.recipients_count == 0 => Err(Reply::RecipientFirst),
        other => other,
    };
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(reply) => {
            let envelope = session.envelope();
            return session.skip_chunk(header.bytes, reply, envelope);
        }
    };
    let begun = envelope.chunks.unwrap_or_default();
    let bytes_count = begun.bytes_count.saturating_add(header.bytes);
    if bytes_count > session.settings.limits().message_bytes() {
        // RFC 1870 §6.3: refused as soon as it is known; the desk need not wait for the end.
        let then = session.drop_transaction();
        session.skip_chunk(header.bytes, Reply::TooLarge, None);
        return then;
    }
    let chunk = Chunk {
        bytes_left: header.bytes,
        bytes: header.bytes,
        last: header.last,
        chunks: Chunks { bytes_count, ..begun },
        envelope,
    };
    if envelope.chunks.is_some() {
        session.phase = Phase::Chunk(chunk);
        Then::Again
    } else {
        session.phase = Phase::Asked(Question::BeginChunk(chunk));
        Then::Ask(Ask::Begin)
    }
}

/// RFC 5321 §4.1.1.5.
pub(crate) fn reset<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    if !argument.is_empty() {
        return session.say(Reply::NoArguments, out);
    }
    Reply::Reset.write(out);
    session.drop_transaction()
}

/// RFC 5321 §4.1.1.6, §7.3.
pub(crate) fn verify<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    let reply = if argument.is_empty() { Reply::ArgumentMissing } else { Reply::CannotVerify };
    session.say(reply, out)
}

/// RFC 5321 §4.1.1.10.
pub(crate) fn quit<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    if !argument.is_empty() {
        return session.say(Reply::NoArguments, out);
    }
    session.say(Reply::Closing, out)
}
