//! POP3, server side: RFC 1939 with the extensions that [`reply::CAPABILITIES`] names, TLS
//! (RFC 2595) and AUTH (RFC 5034).
//!
//! Called by the engine's POP3 driver by the turn contract (crate documentation). The parts:
//!
//! * [`session`]: the dialogue. It holds no message: sizes and ids are asked of a [`Listing`] that
//!   the driver owns, bodies are sent by the driver.
//! * [`stuff`](crate::wire::stuff): the dot-stuffing encoder that every body goes through on its
//!   way out.
//! * [`top`]: the filter that ends a body after its headers and n lines.
//! * [`deletions`]: which messages DELE has marked.
//! * `sign_in`, `start_tls`: AUTH and STLS.
//! * `command`, `line`: what the client may say. `reply`: every text that we may say.
//!
//! ```text
//!           Ask::Login, Ask::Auth        QUIT, Ask::Update
//!  AUTHORIZATION ───────────► TRANSACTION ───────────────► Closed
//!        │ QUIT                 │  ▲                          ▲
//!        └──────────────────────┼──┼── idle, hang-up ─────────┤
//!                               ▼  │ Ask::Retrieve, LIST, UIDL (streamed)
//! ```
//!
//! Limits: a line holds [`LINE_BYTES_MAX`] octets; [`MALFORMED_LINES_MAX`] malformed lines or
//! [`REFUSED_LOGINS_MAX`] refused logins end the session; replies are bounded by the outbox. A
//! session fails in one way only: it says `-ERR` and either goes on or closes.
//!
//! Deletions are handed out by `Ask::Update`, which only QUIT in the TRANSACTION state asks. Every
//! other end of a session drops them (RFC 1939 §6).

mod command;
pub mod deletions;
mod line;
pub mod reply;
pub mod session;
mod sign_in;
mod start_tls;
pub mod top;

pub use crate::wire::stuff::Stuffer;
pub use deletions::Deletions;
pub use line::LINE_BYTES_MAX;
pub use reply::{Refusal, refuse_connection};
pub use session::{
    Answer, Ask, Listing, MALFORMED_LINES_MAX, Nothing, REFUSED_LOGINS_MAX, Secret, Session,
    Settings, Then, Turn,
};
pub use top::Top;
