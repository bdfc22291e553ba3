//! The address range of links. Each pod end has one IPv4 address of it, and one IPv6 address that contains the IPv4
//! address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

use crate::service;

/// Prefix of the IPv6 addresses of links, a unique local prefix. The last 32 bits are the IPv4 address.
const IPV6_PREFIX: Ipv6Addr = Ipv6Addr::new(0xfda9, 0xfe, 0xa9fe, 0, 0, 0, 0, 0);

/// Length of the prefix in bytes.
pub(crate) const IPV6_PREFIX_BYTES: u32 = 12;

/// The IPv4 range of links of a node: a prefix of 16 to 24 bits without service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRange(Ipv4Net);

/// Reason why a range cannot be used for links.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It is not a prefix.
    #[error("must be an IPv4 prefix such as {}", LinkRange::default())]
    Syntax,
    /// Its prefix is not 16 to 24 bits long.
    #[error("must have a prefix length of 16 to 24, not {0}")]
    PrefixLength(u8),
    /// It contains a service address.
    #[error("must not contain the service address {0}")]
    ContainsService(IpAddr),
}

impl Default for LinkRange {
    fn default() -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 240, 0), 20))
    }
}

impl std::fmt::Display for LinkRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for LinkRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = text.parse::<Ipv4Net>().map_err(|_| RangeError::Syntax)?.trunc();
        if !(16..=24).contains(&net.prefix_len()) {
            return Err(RangeError::PrefixLength(net.prefix_len()));
        }
        match service::ipv4().into_iter().find(|address| net.contains(address)) {
            Some(address) => Err(RangeError::ContainsService(address.into())),
            None => Ok(Self(net)),
        }
    }
}

impl LinkRange {
    /// Returns true if an address belongs to the range.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// Iterates over all usable addresses once. The first one depends on the interface index, so links that are made at
    /// the same time seldom try the same address.
    pub fn candidates(self, interface: u32) -> impl Iterator<Item = Ipv4Addr> {
        let usable = (1_u32 << (32 - self.0.prefix_len())) - 2;
        let network = u32::from(self.0.network());
        (0..usable).map(move |offset| Ipv4Addr::from(network + 1 + (interface % usable + offset) % usable))
    }
}

/// Computes the IPv6 address of a link: the prefix of all links and the link's IPv4 address.
#[must_use]
pub fn ipv6_of(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(IPV6_PREFIX) | u128::from(u32::from(address)))
}

/// Returns the prefix of the IPv6 addresses of all links.
pub(crate) fn ipv6_prefix() -> [u8; IPV6_PREFIX_BYTES as usize] {
    let [prefix @ .., _, _, _, _] = IPV6_PREFIX.octets();
    prefix
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn candidates_are_all_host_addresses_once() {
        let range = "10.9.8.0/24".parse::<LinkRange>().unwrap();
        let all = range.candidates(u32::MAX).collect::<Vec<_>>();
        assert_eq!(all.len(), 254);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 254);
        assert!(!all.contains(&Ipv4Addr::new(10, 9, 8, 0)) && !all.contains(&Ipv4Addr::new(10, 9, 8, 255)));
    }

    #[test]
    fn first_candidate_depends_on_the_interface() {
        let range = LinkRange::default();
        assert_eq!(range.candidates(7).next(), Some(Ipv4Addr::new(169, 254, 240, 8)));
        assert_eq!(range.candidates(8).next(), Some(Ipv4Addr::new(169, 254, 240, 9)));
    }

    #[test]
    fn range_with_a_service_address_is_rejected() {
        let service = RangeError::ContainsService(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)));
        assert_eq!("169.254.0.0/16".parse::<LinkRange>(), Err(service));
    }

    #[test]
    fn range_of_another_size_or_form_is_rejected() {
        assert_eq!("10.0.0.0/15".parse::<LinkRange>(), Err(RangeError::PrefixLength(15)));
        assert_eq!("10.0.0.0/25".parse::<LinkRange>(), Err(RangeError::PrefixLength(25)));
        for text in ["10.0.0.0", "fd00::/64", ""] {
            assert_eq!(text.parse::<LinkRange>(), Err(RangeError::Syntax), "{text}");
        }
    }

    #[test]
    fn ipv6_address_contains_the_ipv4_address() {
        assert_eq!(ipv6_of(Ipv4Addr::new(169, 254, 240, 8)).to_string(), "fda9:fe:a9fe::a9fe:f008");
    }
}
