//! Names and addresses of a cluster: everything that follows from its name and a node's number alone.
//!
//! All addresses but those of the link to the machine are inside network namespaces, so each cluster has the same.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Error, ensure};

/// Where the API server, etcd and the real metadata service are, on the machine `control-plane`.
pub const FABRIC: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 200, 0, 1), Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1));
/// The addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16,fd00:96::/112";
/// The address of the Service `kubernetes`: the first of [`SERVICES`].
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The address of the cluster's DNS.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";
/// Who signs the tokens of ServiceAccounts.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the clouds' metadata services are.
pub const METADATA: [&str; 3] = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"];
/// Where the real metadata service says who asked it, on the machine `control-plane`.
pub const ASKED_PORT: u16 = 8980;
/// As many as there are letters to name them with.
pub const MAX_NODES: u8 = 26;

/// The name of a cluster: at most 11 of `a-z`, `0-9` and `-`, because a network device is named after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edges = !name.starts_with('-') && !name.ends_with('-');
        ensure!(
            (1..=11).contains(&name.len()) && name.bytes().all(allowed) && edges,
            "a cluster's name has 1 to 11 of a-z, 0-9 and -, with no - at either end; {name:?} is not one"
        );
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl ClusterName {
    /// Where the cluster's settings, keys and logs are kept, and etcd's data.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        PathBuf::from("/var/lib/podmeta-cluster").join(&self.0)
    }

    /// The machine's end of the link to the cluster.
    #[must_use]
    pub fn device(&self) -> String {
        format!("pm-{self}")
    }
}

/// One of the machines that a cluster is made of: a set of namespaces with an init of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// etcd, the API server, the controllers, the scheduler, and the network that nodes are plugged into.
    ControlPlane,
    /// A kubelet and what it needs.
    Node(Node),
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => formatter.write_str("control-plane"),
            Self::Node(node) => node.fmt(formatter),
        }
    }
}

impl FromStr for Machine {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "control-plane" => Ok(Self::ControlPlane),
            _ => name.parse().map(Self::Node),
        }
    }
}

/// A node, by its place: 0 is node `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(u8);

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", char::from(b'a' + self.0))
    }
}

impl FromStr for Node {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(Self(letter - b'a')),
            _ => anyhow::bail!("a node is named by one letter, such as a; {name:?} is none"),
        }
    }
}

impl Node {
    /// The first `count` nodes.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (0..count.min(MAX_NODES)).map(Self)
    }

    /// The node's name in the cluster.
    #[must_use]
    pub fn name(self, cluster: &ClusterName) -> String {
        format!("{cluster}-{self}")
    }

    /// The node's own addresses.
    #[must_use]
    pub fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        let number = 11 + self.0;
        (Ipv4Addr::new(10, 200, 0, number), Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, number.into()))
    }

    /// The addresses of the node's pods: 510 of IPv4, so that 300 pods have room.
    #[must_use]
    pub fn pods(self) -> (String, String) {
        (format!("10.244.{}.0/23", 2 * self.0), format!("fd00:244:0:{:x}::/64", self.0))
    }

    /// The zone that the node says it is in.
    #[must_use]
    pub fn zone(self) -> String {
        format!("eu-central-1{}", char::from(b'a' + self.0 % 3))
    }
}

/// The link between the machine and a cluster: a /30 of the range for benchmarks (RFC 2544), one for each cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLink(pub u8);

impl HostLink {
    /// The machine's end.
    #[must_use]
    pub fn machine(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0, 1)
    }

    /// The cluster's end, where the API server is.
    #[must_use]
    pub fn cluster(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_s_name_fits_into_that_of_a_network_device() {
        assert_eq!("podmeta".parse::<ClusterName>().unwrap().device(), "pm-podmeta");
        assert!("a-name-of-11".parse::<ClusterName>().is_err(), "12 characters");
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", ".."] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn machines_are_read_as_they_are_written() {
        for machine in Node::first(MAX_NODES).map(Machine::Node).chain([Machine::ControlPlane]) {
            assert_eq!(machine.to_string().parse::<Machine>().unwrap(), machine);
        }
        assert!("aa".parse::<Machine>().is_err());
    }

    #[test]
    fn no_two_nodes_share_an_address() {
        let mut seen = std::collections::HashSet::new();
        for node in Node::first(MAX_NODES) {
            assert!(seen.insert(node.addresses().0.to_string()));
            assert!(seen.insert(node.pods().0) && seen.insert(node.pods().1));
        }
    }
}
