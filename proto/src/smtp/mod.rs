//! SMTP and ESMTP. The server's states; those of the client stand in [`client`]:
//!
//! ```text
//!             EHLO, HELO           MAIL (asks Sender)          DATA (asks Begin)
//!   greeting ───────────► no mail ───────────────────► envelope ─────────────► data ───┐
//!                          ▲   ▲                       │  │  ▲                         │ CRLF.CRLF
//!                          │   └── RSET, EHLO (Reset) ─┘  │  └─ RCPT (asks             │ or LAST
//!                          │                              │     Recipient)             │ (asks
//!                          │                              └─────────────────► chunk ───┤  Commit)
//!                          │                         BDAT (the first asks Begin)       │
//!                          └────────── Stored: 250, else Reset and its code ◄──────────┘
//! ```
//!
//! * [`server`]: the session, its questions and answers.
//! * [`client`]: the other side: replies, what a server offers, a transaction.
//! * [`address`]: paths, mailboxes, domains.
//! * [`body`]: end of data, dots, bare newlines.
//! * [`header`]: a message's header streams by: hops, fields that only nodes write.
//! * [`reply`]: all codes and texts.
//! * [`ext`]: one file for each ESMTP extension, and the table of them.

pub mod address;
pub mod body;
pub mod client;
pub mod ext;
mod front;
pub mod header;
pub mod reply;
pub mod server;
mod text;
mod verb;
