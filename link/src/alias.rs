//! The alias of a link's agent end. It names the pod, so that the node agent finds the identity of an interface in the
//! kernel.
//!
//! Form: `podmeta/1 uid=UID sandbox=ID mac=MAC ip=ADDRESS[,ADDRESS]`. `mac` and `ip` are absent if the pod's primary
//! interface has none.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::MacAddress;
use serde::{Deserialize, Serialize};

/// Maximum length of an alias in bytes, without the final zero. Source: `IFALIASZ` in linux/if_link.h.
const MAX_ALIAS_BYTES: usize = 255;

/// Alias of the agent's end of the node's link. It names no pod.
pub const NODE_ALIAS: &str = "podmeta/1 node";

/// First word of an alias: the version of its form.
const VERSION: &str = "podmeta/1";

/// The sandbox ID of a container runtime: 1 to 64 letters, digits, `-`, `_` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SandboxId {
    type Error = AliasError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if (1..=64).contains(&text.len()) && text.chars().all(is_allowed) {
            Ok(Self(text))
        } else {
            Err(AliasError::Sandbox(text))
        }
    }
}

impl TryFrom<&str> for SandboxId {
    type Error = AliasError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::try_from(text.to_owned())
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

/// The pod of a link, with the addresses of its primary interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The pod's UID, as the container runtime knows it.
    pub pod: PodUid,
    /// The sandbox of the pod.
    pub sandbox: SandboxId,
    /// The MAC address of the pod's primary interface.
    pub mac: Option<MacAddress>,
    /// The IPv4 address of the pod's primary interface.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address of the pod's primary interface.
    pub ipv6: Option<Ipv6Addr>,
}

/// Reason why a text is not a valid alias.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// The alias was written by another program, or by another version of podmeta.
    #[error("the alias does not start with {VERSION}")]
    Version,
    /// A part is not `NAME=VALUE`, is unknown, or occurs twice.
    #[error("the part {0:?} of the alias is not valid")]
    Part(String),
    /// The alias has no pod UID or no sandbox.
    #[error("the alias has no {0}")]
    Missing(&'static str),
    /// The sandbox ID is not valid.
    #[error("the sandbox ID {0:?} must be 1 to 64 letters, digits, -, _ or .")]
    Sandbox(String),
}

impl Alias {
    /// Returns the addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} uid={} sandbox={}", self.pod, self.sandbox.as_str())?;
        if let Some(mac) = self.mac {
            write!(f, " mac={mac}")?;
        }
        for (n, address) in self.addresses().enumerate() {
            write!(f, "{}{address}", if n == 0 { " ip=" } else { "," })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Alias {
    type Err = AliasError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(' ');
        if parts.next() != Some(VERSION) {
            return Err(AliasError::Version);
        }
        let (mut pod, mut sandbox, mut mac, mut ipv4, mut ipv6) = (None, None, None, None, None);
        for part in parts {
            let invalid = || AliasError::Part(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(invalid)?;
            match name {
                "uid" => set(&mut pod, PodUid::try_from(value).ok()),
                "sandbox" => set(&mut sandbox, SandboxId::try_from(value).ok()),
                "mac" => set(&mut mac, parse_mac(value)),
                "ip" => value.split(',').try_for_each(|address| match address.parse().ok()? {
                    IpAddr::V4(address) => set(&mut ipv4, Some(address)),
                    IpAddr::V6(address) => set(&mut ipv6, Some(address)),
                }),
                _ => None,
            }
            .ok_or_else(invalid)?;
        }
        let pod = pod.ok_or(AliasError::Missing("pod UID"))?;
        let sandbox = sandbox.ok_or(AliasError::Missing("sandbox"))?;
        Ok(Self { pod, sandbox, mac, ipv4, ipv6 })
    }
}

/// Sets a slot once. Returns `None` if the value is absent or the slot is set.
fn set<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    if slot.is_some() {
        return None;
    }
    *slot = Some(value?);
    Some(())
}

/// Parses a MAC address: six bytes in hexadecimal, with colons.
#[must_use]
pub fn parse_mac(text: &str) -> Option<MacAddress> {
    let bytes = text.split(':').map(|byte| match byte.len() {
        2 => u8::from_str_radix(byte, 16).ok(),
        _ => None,
    });
    bytes.collect::<Option<Vec<_>>>()?.try_into().ok().map(MacAddress)
}

/// The longest alias fits: version 9, UID 5 + 64, sandbox 9 + 64, MAC 5 + 17, addresses 4 + 15 + 1 + 39, and 4 spaces.
const _: () = assert!(9 + 69 + 73 + 22 + 59 + 4 <= MAX_ALIAS_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Alias {
        Alias {
            pod: PodUid::try_from("0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001").unwrap(),
            sandbox: SandboxId::try_from("f".repeat(64).as_str()).unwrap(),
            mac: Some(MacAddress([0x02, 0x42, 0xac, 0x11, 0, 2])),
            ipv4: Some(Ipv4Addr::new(10, 244, 100, 100)),
            ipv6: Some("fd00:244::aaaa:bbbb:cccc:dddd".parse().unwrap()),
        }
    }

    #[test]
    fn alias_parses_back_from_its_text() {
        let bare = Alias { mac: None, ipv4: None, ipv6: None, ..full() };
        let ipv6_only = Alias { ipv4: None, ..full() };
        for alias in [full(), bare, ipv6_only] {
            assert_eq!(alias.to_string().parse(), Ok(alias));
        }
    }

    #[test]
    fn longest_alias_fits_into_the_kernel_limit() {
        let alias = Alias {
            pod: PodUid::try_from("a".repeat(64)).unwrap(),
            ipv4: Some(Ipv4Addr::new(255, 255, 255, 255)),
            ipv6: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            ..full()
        };
        assert!(alias.to_string().len() <= MAX_ALIAS_BYTES, "{}", alias.to_string().len());
    }

    #[test]
    fn alias_of_another_program_is_rejected() {
        for text in ["", "eth0", "podmeta/2 uid=a sandbox=b", "podmeta/1", "podmeta/1 uid=a", NODE_ALIAS] {
            assert!(text.parse::<Alias>().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_invalid_or_repeated_part_is_rejected() {
        for part in ["uid=b", "color=red", "mac=02:42", "mac=2:42:ac:11:0:2", "ip=", "ip=10.0.0.1,10.0.0.2", "x", ""] {
            let text = format!("podmeta/1 uid=a sandbox=b {part}");
            assert_eq!(text.parse::<Alias>(), Err(AliasError::Part(part.to_owned())));
        }
    }
}
