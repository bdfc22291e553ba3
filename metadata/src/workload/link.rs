//! The addresses of a pod on its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::identity;
use crate::names::{InvalidValue, PodUid};

/// The addresses of a pod's primary interface, as its node has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The IPv4 addresses, the primary one first.
    pub ipv4: Vec<Ipv4Addr>,
    /// The IPv6 addresses, the primary one first.
    pub ipv6: Vec<Ipv6Addr>,
    /// The MAC address.
    pub mac: MacAddress,
}

impl Link {
    /// Returns the link of a pod with these addresses, and a MAC address that is made from its UID.
    #[must_use]
    pub fn from_addresses(pod: &PodUid, addresses: &[IpAddr]) -> Self {
        let mut link = Self { ipv4: Vec::new(), ipv6: Vec::new(), mac: MacAddress::from_uid(pod) };
        for address in addresses {
            match address {
                IpAddr::V4(address) => link.ipv4.push(*address),
                IpAddr::V6(address) => link.ipv6.push(*address),
            }
        }
        link
    }

    /// Iterates over all addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.ipv4.iter().map(ToString::to_string).chain(self.ipv6.iter().map(ToString::to_string))
    }
}

/// A MAC address. Its text form is lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Returns the MAC address of a pod whose interface has none, or is not known. It is a hash of the UID.
    #[must_use]
    pub fn from_uid(uid: &PodUid) -> Self {
        Self(identity::mac(uid.as_str()))
    }

    fn invalid() -> InvalidValue {
        InvalidValue("must be a unicast MAC address in lower case, such as 02:00:00:aa:bb:cc".to_owned())
    }
}

impl std::str::FromStr for MacAddress {
    type Err = InvalidValue;

    /// Parses the text form of a unicast address.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let is_lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.chars().all(is_lower_hex));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(MacAddress::invalid)?;
        }
        let is_unicast = bytes[0] & 1 == 0;
        if parts.next().is_none() && is_unicast { Ok(Self(bytes)) } else { Err(Self::invalid()) }
    }
}

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_address_is_parsed_in_its_text_form_only() {
        let mac = "02:00:00:aa:bb:cc".parse::<MacAddress>().unwrap();
        assert_eq!((mac, mac.to_string().as_str()), (MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]), "02:00:00:aa:bb:cc"));
        for bad in [
            "",
            "02:00:00:aa:bb",
            "02:00:00:aa:bb:cc:dd",
            "02:00:00:AA:bb:cc",
            "02-00-00-aa-bb-cc",
            "2:0:0:aa:bb:cc",
            "02:00:00:aa:bb:+c",
            "01:00:5e:00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was accepted");
        }
    }
}
