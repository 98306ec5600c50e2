//! Where load goes: to this machine, or to a host that its owner names.
//!
//! Part of the options of every command that loads a server. A target elsewhere needs a second
//! word, so that a slip of the keyboard attacks nobody. Failure: a sentence for the user.

use std::net::{SocketAddr, ToSocketAddrs as _};

/// A server to load.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Target {
    /// The server, as 127.0.0.1:2025 or HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    target: String,
    /// The target is this host, which is not this machine, and it is yours.
    #[arg(long, value_name = "HOST")]
    i_own_this_host: Option<String>,
}

impl Target {
    /// Where it is.
    ///
    /// # Errors
    /// A sentence: it has no address, or nobody said whose it is.
    pub(crate) fn address(&self) -> Result<SocketAddr, String> {
        self.owned(&self.target)
    }

    /// Where another port is that is loaded as well.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub(crate) fn owned(&self, text: &str) -> Result<SocketAddr, String> {
        owned(text, self.i_own_this_host.as_deref())
    }
}

/// The address of a server on this machine, or on the host that is `own`.
///
/// # Errors
/// A sentence: it has no address, or nobody said whose it is.
pub(crate) fn owned(text: &str, own: Option<&str>) -> Result<SocketAddr, String> {
    let (host, _) = text.rsplit_once(':').ok_or("write the target as HOST:PORT")?;
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text}: {e}"))?;
    let address = found.next().ok_or_else(|| format!("{text} has no address"))?;
    if !address.ip().is_loopback() && own != Some(host) {
        return Err(format!(
            "{host} is not this machine. Load on somebody else's host is an attack; if it is \
             yours, say so: --i-own-this-host {host}"
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_left_alone_unless_they_are_yours() {
        assert!(owned("127.0.0.1:25", None).is_ok() && owned("[::1]:25", None).is_ok());
        assert!(owned("192.0.2.1:25", None).unwrap_err().contains("--i-own-this-host 192.0.2.1"));
        assert!(owned("192.0.2.1:25", Some("192.0.2.2")).is_err());
        assert!(owned("192.0.2.1:25", Some("192.0.2.1")).is_ok());
        assert!(owned("nonsense", None).is_err());
    }
}
