//! Which name servers this host asks: /etc/resolv.conf, as far as it concerns us.
//!
//! Read once, when the configuration is. Search lists and options in it are for people who type
//! names, and are not looked at.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::io::Read;

use fsmtp_proto::dns::resolver::SERVERS_MAX;

/// Where the system says which name servers it asks.
pub const SYSTEM_FILE: &str = "/etc/resolv.conf";

/// The port of name servers.
const PORT: u16 = 53;
/// The most of the file that is read; arbitrary, people write some hundred bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The name servers of the system, or this host where it names none.
#[must_use]
pub fn system_servers() -> Vec<SocketAddr> {
    let mut text = Vec::new();
    // What cannot be read names nobody.
    let _ = std::fs::File::open(SYSTEM_FILE)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    listed(&String::from_utf8_lossy(&text))
}

/// The servers that the text of such a file names, the first few of them.
fn listed(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let ("nameserver", address) = (words.next()?, words.next()?) else { return None };
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    };
    let servers: Vec<_> = text.lines().filter_map(address).take(SERVERS_MAX).collect();
    if servers.is_empty() { this_host() } else { servers }
}

pub(super) fn this_host() -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, PORT).into()]
}

/// A name server as people write it: an address, with a port or without.
#[must_use]
pub fn server_address(text: &str) -> Option<SocketAddr> {
    let bare = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    let address = text.parse().ok().or_else(bare)?;
    (address.port() != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_servers_and_other_things() {
        let list = |text| listed(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        for none in ["", "search example.org\n", "nameserver\nnameserver dns.example\n"] {
            assert_eq!(list(none), ["127.0.0.1:53"]);
        }
        let text = "# nameserver 192.0.2.1\n nameserver\t192.0.2.2 \r\nnameserver ::1\noptions x\n\
                    nameserver fe80::1%eth0\nnameservers 192.0.2.3\n";
        assert_eq!(list(text), ["192.0.2.2:53", "[::1]:53"]);
        assert_eq!(list(&"nameserver 192.0.2.9\n".repeat(20)).len(), SERVERS_MAX);
        assert!(!system_servers().is_empty());
    }

    #[test]
    fn servers_are_written_with_a_port_or_without() {
        let read = |text| server_address(text).map(|address| address.to_string());
        assert_eq!(read("127.0.0.53").as_deref(), Some("127.0.0.53:53"));
        assert_eq!(read("127.0.0.1:5353").as_deref(), Some("127.0.0.1:5353"));
        assert_eq!(read("::1").as_deref(), Some("[::1]:53"));
        assert_eq!(read("[::1]:5353").as_deref(), Some("[::1]:5353"));
        for wrong in ["", "dns.example", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
