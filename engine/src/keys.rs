//! All keys below the data folder that a running engine works with.
//!
//! Loaded at a start and on SIGHUP, and handed to each shard as a whole. Fails with the first file
//! that is not as it should be, as one line for an operator.

use std::path::Path;

use fsmtp_proto::smtp::ext::su::Keys;

use crate::dkim::DkimKeys;
use crate::trust;

/// The keys of one moment.
#[derive(Clone, Debug)]
pub(crate) struct NodeKeys {
    /// What signs mail.
    pub(crate) dkim: DkimKeys,
    /// What the nodes of one owner share.
    pub(crate) trust: Keys,
}

impl NodeKeys {
    /// Loads all of them.
    pub(crate) fn load(data: &Path) -> Result<Self, String> {
        let dkim = DkimKeys::load(data).map_err(|error| error.to_string())?;
        let trust = trust::load(data).map_err(|error| error.to_string())?;
        Ok(Self { dkim, trust })
    }
}
