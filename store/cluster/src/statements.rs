//! The statements about mail, by their names, as they are prepared.
//!
//! Used by `mail`. All but the conditional ones may be done again at any time: what they write
//! follows from what they are given.

use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::prepared::PreparedStatement;

/// Rows of a mailbox that are read at a time.
const PAGE_ROWS: i32 = 5000;

macro_rules! statements {
    ($($name:ident = $text:literal;)*) => {
        /// All of them.
        pub(crate) struct Statements {
            $(pub(crate) $name: PreparedStatement,)*
        }

        impl Statements {
            /// Prepares them for a keyspace.
            pub(crate) async fn prepare(
                session: &Session,
                keyspace: &str,
            ) -> Result<Self, PrepareError> {
                Ok(Self { $($name: prepare(session, keyspace, $text).await?,)* })
            }
        }
    };
}

statements! {
    put_piece = "INSERT INTO KEYSPACE.bodies (id, chunk, data) VALUES (?, ?, ?)";
    put_message = "INSERT INTO KEYSPACE.messages (mailbox, week, id, octets, wrap, shared) \
                   VALUES (?, ?, ?, ?, ?, ?)";
    put_week = "INSERT INTO KEYSPACE.weeks (mailbox, week) VALUES (?, ?)";
    put_late = "INSERT INTO KEYSPACE.late (mailbox, id) VALUES (?, ?)";
    put_window = "INSERT INTO KEYSPACE.windows (mailbox, window, record) VALUES (?, ?, ?)";
    put_holder = "INSERT INTO KEYSPACE.holders (id, mailbox) VALUES (?, ?)";
    put_mark = "INSERT INTO KEYSPACE.states (mailbox, mark) VALUES (?, ?)";
    weeks = "SELECT week FROM KEYSPACE.weeks WHERE mailbox = ?";
    mark = "SELECT mark FROM KEYSPACE.states WHERE mailbox = ?";
    late = "SELECT id FROM KEYSPACE.late WHERE mailbox = ?";
    messages = "SELECT id, octets, uid FROM KEYSPACE.messages \
                WHERE mailbox = ? AND week = ? AND id >= ?";
    message = "SELECT octets, uid, wrap, shared FROM KEYSPACE.messages \
               WHERE mailbox = ? AND week = ? AND id = ?";
    window = "SELECT record FROM KEYSPACE.windows WHERE mailbox = ? AND window = ?";
    piece = "SELECT data FROM KEYSPACE.bodies WHERE id = ? AND chunk = ?";
    holder = "SELECT mailbox FROM KEYSPACE.holders WHERE id = ? LIMIT 1";
    drop_message = "DELETE FROM KEYSPACE.messages WHERE mailbox = ? AND week = ? AND id = ?";
    drop_late = "DELETE FROM KEYSPACE.late WHERE mailbox = ? AND id = ?";
    drop_week = "DELETE FROM KEYSPACE.weeks WHERE mailbox = ? AND week = ?";
    drop_holder = "DELETE FROM KEYSPACE.holders WHERE id = ? AND mailbox = ?";
    drop_body = "DELETE FROM KEYSPACE.bodies WHERE id = ?";
    drop_windows = "DELETE FROM KEYSPACE.windows WHERE mailbox = ?";
    drop_state = "DELETE FROM KEYSPACE.states WHERE mailbox = ?";
    take_lease = "INSERT INTO KEYSPACE.leases (name, holder, epoch) VALUES (?, ?, ?) \
                  IF NOT EXISTS USING TTL 60";
    renew_lease = "UPDATE KEYSPACE.leases USING TTL 60 SET holder = ?, epoch = ? \
                   WHERE name = ? IF holder = ? AND epoch = ?";
    drop_lease = "DELETE FROM KEYSPACE.leases WHERE name = ? IF holder = ? AND epoch = ?";
}

async fn prepare(
    session: &Session,
    keyspace: &str,
    text: &str,
) -> Result<PreparedStatement, PrepareError> {
    let mut statement = session.prepare(text.replace("KEYSPACE", keyspace)).await?;
    statement.set_page_size(PAGE_ROWS);
    statement.set_is_idempotent(!text.contains(" IF "));
    Ok(statement)
}
