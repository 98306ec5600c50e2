//! A network of addresses, as operators write it: `192.0.2.0/24`, `2001:db8::/32`, `192.0.2.1`.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// Some addresses that have their first bits in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoNetwork;

impl fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address or a network is expected here, like 192.0.2.0/24 or 2001:db8::1")
    }
}

impl core::error::Error for NoNetwork {}

impl Network {
    /// Whether an address is one of them; an IPv4 address may be written as IPv6 (RFC 4291
    /// §2.5.5.2).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= self.bits.into()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= self.bits.into()
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| NoNetwork)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.map_or(Ok(bits_max), str::parse).map_err(|_| NoNetwork)?;
        if bits > bits_max {
            return Err(NoNetwork);
        }
        // RFC 4291 §2.5.5.2: clients' addresses are compared as IPv4, and so must this be.
        match (address.to_canonical(), address, bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), IpAddr::V6(_), Some(bits)) => {
                Ok(Self { address: canonical, bits })
            }
            _ => Ok(Self { address, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_has_its_first_bits() {
        for (network, address, expected) in [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "::ffff:192.0.2.1", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.0", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
            ("::ffff:192.0.2.0/120", "192.0.2.255", true),
            ("::ffff:192.0.2.0/120", "::ffff:192.0.3.0", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?}");
        }
        for none in ["", "a", "192.0.2.0/33", "::/129", "192.0.2.0/", "192.0.2/24", "::1/-1"] {
            assert_eq!(none.parse::<Network>(), Err(NoNetwork), "{none}");
        }
    }
}
