//! What is asked of Cassandra, word for word.
//!
//! Called by `Mail::prepare`. Each statement may be done again, and says so to the driver:
//! deliveries and removals say when, a lease is held by a name that no other visit has. A read that
//! takes long is asked of a second server as well.

use core::time::Duration;
use std::sync::Arc;

use scylla::client::execution_profile::ExecutionProfileHandle;
use scylla::client::session::Session;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::SerialConsistency;
use scylla::statement::prepared::PreparedStatement;

use crate::cassandra::{ClusterError, Terms, profile};

/// Rows that a reader gets at once.
const PAGE_ROWS: i32 = 5000;
/// After so long, a read is asked of another server as well.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// The statements, prepared. `KS` is the keyspace.
macro_rules! statements {
    ($($name:ident: $kind:ident $text:literal,)*) => {
        pub(super) struct Statements {
            $(pub(super) $name: PreparedStatement,)*
        }

        impl Preparing<'_> {
            async fn all(&self) -> Result<Statements, ClusterError> {
                Ok(Statements { $($name: self.$kind($text).await?,)* })
            }
        }
    };
}

statements! {
    put_body: write "INSERT INTO KS.bodies (id, chunk, data) VALUES (?, ?, ?) USING TIMESTAMP ?",
    put_window: write "INSERT INTO KS.windows (mailbox, window, record) VALUES (?, ?, ?) \
                       USING TIMESTAMP 1",
    put_week: write "INSERT INTO KS.weeks (mailbox, week) VALUES (?, ?)",
    put_holder: write "INSERT INTO KS.holders (id, mailbox) VALUES (?, ?) USING TIMESTAMP ?",
    put_late: write "INSERT INTO KS.late (mailbox, id) VALUES (?, ?) USING TIMESTAMP ?",
    put_message: write "INSERT INTO KS.messages (mailbox, week, id, octets, shared, wrap) \
                        VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    put_mark: write "INSERT INTO KS.states (mailbox, mark) VALUES (?, ?)",
    put_uid: write "UPDATE KS.messages SET uid = ? WHERE mailbox = ? AND week = ? AND id = ?",
    raise_uids: write "UPDATE KS.states SET uid_next = ? WHERE mailbox = ? IF uid_next = ?",
    rewrap: write "INSERT INTO KS.windows (mailbox, window, record) VALUES (?, ?, ?)",
    weeks: read "SELECT week FROM KS.weeks WHERE mailbox = ?",
    late: read "SELECT id FROM KS.late WHERE mailbox = ?",
    state: read "SELECT mark, uid_next FROM KS.states WHERE mailbox = ?",
    messages: read "SELECT id, octets, uid, shared FROM KS.messages \
                    WHERE mailbox = ? AND week = ? AND id >= ?",
    some_messages: read "SELECT id, octets, uid, shared FROM KS.messages \
                         WHERE mailbox = ? AND week = ? AND id IN ?",
    wrap: read "SELECT octets, wrap FROM KS.messages WHERE mailbox = ? AND week = ? AND id = ?",
    window: read "SELECT record FROM KS.windows WHERE mailbox = ? AND window = ?",
    chunk: read "SELECT data FROM KS.bodies WHERE id = ? AND chunk = ?",
    holders: read "SELECT mailbox FROM KS.holders WHERE id = ? LIMIT 1",
    drop_message: write "DELETE FROM KS.messages USING TIMESTAMP ? \
                         WHERE mailbox = ? AND week = ? AND id = ?",
    drop_body: write "DELETE FROM KS.bodies USING TIMESTAMP ? WHERE id = ?",
    drop_holder: write "DELETE FROM KS.holders USING TIMESTAMP ? WHERE id = ? AND mailbox = ?",
    drop_late: write "DELETE FROM KS.late USING TIMESTAMP ? WHERE mailbox = ? AND id = ?",
    drop_week: write "DELETE FROM KS.weeks WHERE mailbox = ? AND week = ?",
    forget_weeks: write "DELETE FROM KS.weeks WHERE mailbox = ?",
    forget_late: write "DELETE FROM KS.late WHERE mailbox = ?",
    forget_state: write "DELETE FROM KS.states WHERE mailbox = ?",
    forget_windows: write "DELETE FROM KS.windows WHERE mailbox = ?",
    put_removal: write "INSERT INTO KS.removals (part, mailbox, since) VALUES (0, ?, ?)",
    removals: read "SELECT mailbox, since FROM KS.removals WHERE part = 0",
    drop_removal: write "DELETE FROM KS.removals WHERE part = 0 AND mailbox = ?",
    put_copy_piece: write "INSERT INTO KS.outgoing_bodies (id, chunk, data) VALUES (?, ?, ?) \
                           USING TIMESTAMP ?",
    put_span: write "INSERT INTO KS.outgoing_spans (node, span) VALUES (?, ?)",
    put_copy: write "INSERT INTO KS.outgoing (node, span, id, octets, wrap, window) \
                     VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    spans: read "SELECT span FROM KS.outgoing_spans WHERE node = ?",
    any_span: read "SELECT span FROM KS.outgoing_spans WHERE node = ? LIMIT 1",
    drop_span: write "DELETE FROM KS.outgoing_spans WHERE node = ? AND span = ?",
    copies: read "SELECT id, octets, state, writer, done FROM KS.outgoing \
                  WHERE node = ? AND span = ?",
    copy_keys: read "SELECT octets, wrap, window FROM KS.outgoing \
                     WHERE node = ? AND span = ? AND id = ?",
    copy_piece: read "SELECT data FROM KS.outgoing_bodies WHERE id = ? AND chunk = ?",
    copied_envelope: read "SELECT data FROM KS.outgoing_bodies WHERE id = ? AND chunk < 0 \
                           ORDER BY chunk DESC",
    keep_state: write "UPDATE KS.outgoing SET state = ?, writer = ? \
                       WHERE node = ? AND span = ? AND id = ?",
    say_done: write "INSERT INTO KS.outgoing (node, span, id, done) VALUES (?, ?, ?, true)",
    drop_copy: write "DELETE FROM KS.outgoing USING TIMESTAMP ? \
                      WHERE node = ? AND span = ? AND id = ?",
    drop_copy_body: write "DELETE FROM KS.outgoing_bodies USING TIMESTAMP ? WHERE id = ?",
    who: read "SELECT name, holder FROM KS.leases WHERE name IN ?",
    take_lease: write "INSERT INTO KS.leases (name, holder, epoch) VALUES (?, ?, ?) \
                       IF NOT EXISTS USING TTL ?",
    keep_lease: write "UPDATE KS.leases USING TTL ? SET holder = ?, epoch = ? WHERE name = ? \
                       IF holder = ?",
    end_lease: write "DELETE FROM KS.leases WHERE name = ? IF holder = ?",
}

struct Preparing<'a> {
    session: &'a Session,
    keyspace: &'a str,
    reading: ExecutionProfileHandle,
}

impl Preparing<'_> {
    async fn write(&self, statement: &str) -> Result<PreparedStatement, ClusterError> {
        let text = statement.replace("KS.", &format!("{}.", self.keyspace));
        let prepared = self.session.prepare(text).await;
        let mut prepared = prepared.map_err(|error| ClusterError::Refused(error.to_string()))?;
        prepared.set_is_idempotent(true);
        // A lease is one in all data centres.
        prepared.set_serial_consistency(Some(SerialConsistency::Serial));
        prepared.set_page_size(PAGE_ROWS);
        Ok(prepared)
    }

    async fn read(&self, statement: &str) -> Result<PreparedStatement, ClusterError> {
        let mut prepared = self.write(statement).await?;
        prepared.set_execution_profile_handle(Some(self.reading.clone()));
        Ok(prepared)
    }
}

impl Statements {
    /// Prepares them.
    ///
    /// # Errors
    /// When Cassandra refuses one.
    pub(super) async fn prepare(session: &Session, terms: &Terms) -> Result<Self, ClusterError> {
        let again =
            SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: IMPATIENCE };
        let reading = profile(terms).speculative_execution_policy(Some(Arc::new(again))).build();
        let reading = reading.into_handle();
        Preparing { session, keyspace: &terms.keyspace, reading }.all().await
    }
}
