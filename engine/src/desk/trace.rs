//! What the node writes in front of each message: where it came from, and what it thinks of that.

use core::fmt::Write as _;

use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::Runtime;
use fsmtp_store::QueueId;
use fsmtp_store::mailbox::Mailboxes;

use super::Desk;
use super::transaction::Transaction;

impl<R: Runtime, M: Mailboxes> Desk<'_, R, M> {
    /// `Return-Path` (RFC 5321 §4.4: final delivery), what was found out about the sender, and
    /// `Received`, in a pooled buffer.
    pub(super) fn trace_header(
        &self,
        session: &Session,
        of: &Transaction,
        id: QueueId,
        checked: &[u8],
    ) -> Vec<u8> {
        let (envelope, accepted_count) = (&of.envelope, of.accepted_count);
        let mut out = Text(self.shard.rt.buffer());
        out.0.extend_from_slice(b"Return-Path: <");
        out.0.extend_from_slice(&envelope.reverse_path);
        out.0.extend_from_slice(b">\r\n");
        // RFC 8601 §4: above what it is about.
        out.0.extend_from_slice(checked);
        out.0.extend_from_slice(b"Received: from ");
        let _ = write!(
            out,
            "{} ([{}])\r\n\tby {} with {} id {id}",
            session.client_name().unwrap_or("unknown"),
            Literal(session.peer().ip),
            // RFC 5321 §4.4: the host that has received it, not the domain that it is for.
            self.shard.node,
            session.protocol(envelope.body.utf8),
        );
        // RFC 5321 §4.4: one path only; two would tell recipients of each other.
        let mut readers = envelope.recipients.iter().filter(|to| !to.mailbox.is_sent());
        if let (Some(only), None, 1) = (readers.next(), readers.next(), accepted_count) {
            out.0.extend_from_slice(b"\r\n\tfor <");
            out.0.extend_from_slice(&only.address);
            out.0.push(b'>');
        }
        let _ = write!(out, ";\r\n\t{}\r\n", envelope.received);
        if session.node().is_some() {
            // The seeds' words.
            let ip = session.peer().ip;
            let why = "using FSMTP-V2 extensions";
            let _ = write!(out, "X-Fannst-Auth: su=pass (access granted for {ip}, {why})\r\n");
        }
        out.0
    }
}

/// Formats into bytes; cannot fail.
struct Text(Vec<u8>);

impl core::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// An address as RFC 5321 §4.1.3 writes it between brackets.
struct Literal(core::net::IpAddr);

impl core::fmt::Display for Literal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            core::net::IpAddr::V4(v4) => write!(f, "{v4}"),
            core::net::IpAddr::V6(v6) => write!(f, "IPv6:{v6}"),
        }
    }
}
