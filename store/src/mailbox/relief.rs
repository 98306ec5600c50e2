//! Nodes that stand in for each other: what the relay of a shard asks of a back end in a cluster.
//!
//! Called by the relay. Back ends without a cluster leave everything as it is here: there are no
//! copies, and each message is its node's to send.

use super::types::{Queued, Transit, Verdict};
use crate::{QueueId, StoreError};

/// Nodes that stand in for each other, for back ends in a cluster: mail that is to travel on has a
/// copy there, and when its node is gone for longer than a while another one sends it.
///
/// A message that has a copy is sent only while this node is surely the one whose turn it is
/// ([`Self::may_send`]). Without a cluster it always is.
#[allow(async_fn_in_trait)] // WHY: as in fsmtp-rt, shards share nothing
pub trait Relief {
    /// Whether copies are to be made.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Whether this node may try to send a message now.
    fn may_send(&self, _id: QueueId) -> bool {
        true
    }

    /// From now on others may find a copy of this message: before its first piece is put there.
    /// False when there is one, surely.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while it is not this node's turn to send mail that has a copy, or not
    /// known; nothing is begun then.
    fn begin_copy(&self, _id: QueueId) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Puts a piece of a copy into the cluster; not its first one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the cluster; it may be there nevertheless.
    async fn copy_piece(
        &self,
        id: QueueId,
        _number: u32,
        _data: Vec<u8>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Invalid(format!("no cluster takes message {id}")))
    }

    /// Puts a copy into the cluster, after its further pieces: from then on others find it.
    ///
    /// # Errors
    /// As [`Self::copy_piece`].
    async fn copy(&self, transit: Transit) -> Result<(), StoreError> {
        Err(StoreError::Invalid(format!("no cluster takes message {}", transit.id)))
    }

    /// The envelope of a message that another node has taken, as it was stored.
    ///
    /// # Errors
    /// Those of the cluster.
    async fn copied_envelope(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::NotFound(format!("message {id}")))
    }

    /// A shard of this node has read its own queue.
    fn recovered(&self) {}

    /// Messages of other nodes that this one is to send from now on, at most `count_max`: each goes
    /// to the shard that asks first.
    fn adopted(&self, _count_max: usize) -> Vec<Queued> {
        Vec::new()
    }

    /// Whether a message of another node is still this one's to send.
    fn is_adopted(&self, _id: QueueId) -> bool {
        false
    }

    /// A shard has let go of a message of another node that is not this one's to send any more.
    fn let_go(&self, _id: QueueId) {}

    /// What became of messages of this node while another one stood in for it; until
    /// [`Self::accepted`] they are not sent.
    fn verdicts(&self) -> Vec<(QueueId, Verdict)> {
        Vec::new()
    }

    /// A shard has done as a verdict says.
    fn accepted(&self, _id: QueueId) {}
}
