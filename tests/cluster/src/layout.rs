//! Names and addresses of a cluster. They depend only on the cluster's name and on node numbers.
//!
//! All addresses except those of the host link are inside network namespaces, so all clusters use the same ones.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Error, ensure};

/// Addresses of the machine `control-plane`: the API server, etcd and the nodes' gateway.
pub const FABRIC_ADDRESSES: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 200, 0, 1), Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1));
/// MAC address of the machine `control-plane` on the fabric.
pub const FABRIC_MAC: &str = "02:00:00:c8:00:01";
/// Name of a node's interface on the fabric.
pub const UPLINK: &str = "eth0";
/// Address ranges of the fabric, of IPv4 and IPv6.
pub const NODE_RANGES: (&str, &str) = ("10.200.0.0/24", "fd00:200::/64");
/// Address ranges of the pods of all nodes, of IPv4 and IPv6.
pub const POD_RANGES: (&str, &str) = ("10.244.0.0/16", "fd00:244::/48");
/// Address ranges of Services.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/112";
/// Address of the Service `kubernetes`: the first of [`SERVICE_RANGES`].
pub const API_SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Address of the cluster's DNS Service.
pub const DNS_SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// DNS domain of the cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Issuer of ServiceAccount tokens.
pub const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Addresses of the cloud providers' metadata services: EC2 and ECS by IPv4, EC2 by IPv6.
pub const METADATA_ADDRESSES: [&str; 3] = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"];
/// Port on the machine `control-plane` where the IMDS stub serves its request counts.
pub const IMDS_STUB_COUNTS_PORT: u16 = 8980;
/// Maximum number of nodes: each has a letter as its name.
pub const MAX_NODES: u8 = 26;

/// The name of a cluster: 1 to 11 of `a-z`, `0-9` and `-`. The limit is that of network device names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edges = !name.starts_with('-') && !name.ends_with('-');
        ensure!(
            (1..=11).contains(&name.len()) && name.bytes().all(allowed) && edges,
            "{name:?} is not a valid cluster name: use 1 to 11 of a-z, 0-9 and -, without - at the start or end"
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
    /// Returns the directory of the cluster's configuration, keys, logs and etcd data.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib/podmeta-cluster").join(&self.0)
    }

    /// Returns the name of the host's network device of the link to the cluster.
    #[must_use]
    pub fn host_device(&self) -> String {
        format!("pm-{self}")
    }
}

/// The name of a machine. A machine is a set of namespaces with its own init process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineName {
    /// Runs etcd, the API server, the controllers, the scheduler, and the bridge that connects nodes.
    ControlPlane,
    /// Runs a kubelet, kube-proxy and containerd.
    Node(NodeId),
}

impl fmt::Display for MachineName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => formatter.write_str("control-plane"),
            Self::Node(node) => node.fmt(formatter),
        }
    }
}

impl FromStr for MachineName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "control-plane" => Ok(Self::ControlPlane),
            _ => name.parse().map(Self::Node),
        }
    }
}

/// The number of a node, from 0. It is displayed as a letter: 0 is node `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u8);

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", char::from(b'a' + self.0))
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(Self(letter - b'a')),
            _ => anyhow::bail!("{name:?} is not a valid node: use one letter, such as a"),
        }
    }
}

impl NodeId {
    /// Returns the first `count` nodes, at most [`MAX_NODES`].
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (0..count.min(MAX_NODES)).map(Self)
    }

    /// Returns the name of the Node object.
    #[must_use]
    pub fn name(self, cluster: &ClusterName) -> String {
        format!("{cluster}-{self}")
    }

    /// Returns the node's addresses.
    #[must_use]
    pub fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        let number = 11 + self.0;
        (Ipv4Addr::new(10, 200, 0, number), Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, number.into()))
    }

    /// Returns the MAC address of the node's uplink.
    #[must_use]
    pub fn mac(self) -> String {
        format!("02:00:00:c8:00:{:02x}", 11 + self.0)
    }

    /// Returns the address ranges of the node's pods. The IPv4 range has 510 addresses, enough for 300 pods.
    #[must_use]
    pub fn pod_ranges(self) -> (String, String) {
        (format!("10.244.{}.0/23", 2 * self.0), format!("fd00:244:0:{:x}::/64", self.0))
    }

    /// Returns the value of the node's zone label.
    #[must_use]
    pub fn zone(self) -> String {
        format!("eu-central-1{}", char::from(b'a' + self.0 % 3))
    }
}

/// The link between the host and a cluster: one /30 of 198.18.0.0/16, which is reserved for benchmarks (RFC 2544).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLink(pub u8);

impl HostLink {
    /// Returns the host's address.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0, 1)
    }

    /// Returns the cluster's address, where the API server listens.
    #[must_use]
    pub fn cluster(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0, 2)
    }
}

/// Returns an address as the host of a URL: IPv6 addresses in brackets.
#[must_use]
pub fn url_host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_name_too_long_for_a_network_device_is_rejected() {
        assert_eq!("podmeta".parse::<ClusterName>().unwrap().host_device(), "pm-podmeta");
        assert!("a-name-of-11".parse::<ClusterName>().is_err(), "12 characters");
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", ".."] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn displayed_machine_name_parses_to_the_same_machine() {
        for machine in NodeId::first(MAX_NODES).map(MachineName::Node).chain([MachineName::ControlPlane]) {
            assert_eq!(machine.to_string().parse::<MachineName>().unwrap(), machine);
        }
        assert!("aa".parse::<MachineName>().is_err());
    }

    #[test]
    fn addresses_of_nodes_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for node in NodeId::first(MAX_NODES) {
            assert!(seen.insert(node.addresses().0.to_string()) && seen.insert(node.mac()));
            assert!(seen.insert(node.pod_ranges().0) && seen.insert(node.pod_ranges().1));
        }
    }
}
