//! Findings about a node: requirements that it does not meet, and the effect on its pods. The link daemon and the node agent
//! report them, and the operator publishes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The findings about one node. Each message is one line with the cause. Most also have the effect and a remedy.
pub type NodeFindings = BTreeMap<NodeFindingKind, String>;

/// The kinds of findings. Their names are labels of metrics and fields of the agents' API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum NodeFindingKind {
    /// The kernel is too old.
    Kernel,
    /// cgroup v2 is not mounted.
    Cgroup,
    /// The kernel does not accept nftables requests.
    Nftables,
    /// The kernel lacks settings (sysctls) that the agent namespace needs.
    Settings,
    /// A CNI configuration sorts before podmeta's.
    CniOrder,
    /// There is no CNI configuration that podmeta can use.
    CniConfig,
    /// The guards cannot be added.
    Guards,
    /// The program of the uplink guard cannot be attached.
    UplinkGuard,
    /// The uplink guard does not work as configured for pods on the host network: they can reach the node's metadata service,
    /// or exempt pods cannot.
    HostNetwork,
    /// The redirection of pods on the host network is on and not in place: they get no response, or reach
    /// the node's metadata service.
    HostPods,
    /// Pods have a network device that leads past the guards.
    PodDevices,
    /// The node translates IPv6 to IPv4 addresses.
    Nat64,
    /// The node agent gets no sockets or no status from the link daemon.
    LinkDaemon,
    /// The container runtime does not report the user IDs of pods with a user namespace.
    UserIds,
    /// A kind of a newer version.
    Other,
}

impl NodeFindingKind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Kernel,
        Self::Cgroup,
        Self::Nftables,
        Self::Settings,
        Self::CniOrder,
        Self::CniConfig,
        Self::Guards,
        Self::UplinkGuard,
        Self::HostNetwork,
        Self::HostPods,
        Self::PodDevices,
        Self::Nat64,
        Self::LinkDaemon,
        Self::UserIds,
        Self::Other,
    ];

    /// Returns the name in metrics and in the agents' API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Cgroup => "cgroup",
            Self::Nftables => "nftables",
            Self::Settings => "settings",
            Self::CniOrder => "cni-order",
            Self::CniConfig => "cni-config",
            Self::Guards => "guards",
            Self::UplinkGuard => "uplink-guard",
            Self::HostNetwork => "host-network",
            Self::HostPods => "host-pods",
            Self::PodDevices => "pod-devices",
            Self::Nat64 => "nat64",
            Self::LinkDaemon => "link-daemon",
            Self::UserIds => "user-ids",
            Self::Other => "other",
        }
    }
}

impl From<NodeFindingKind> for &'static str {
    fn from(kind: NodeFindingKind) -> Self {
        kind.as_str()
    }
}

impl From<String> for NodeFindingKind {
    fn from(name: String) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_parsed_from_its_name() {
        let findings = NodeFindingKind::ALL.map(|kind| (kind, "m".to_owned())).into_iter().collect::<NodeFindings>();
        let text = serde_json::to_string(&findings).unwrap();
        assert_eq!(serde_json::from_str::<NodeFindings>(&text).unwrap(), findings, "{text}");
    }

    #[test]
    fn kind_of_a_newer_version_is_other() {
        let findings = serde_json::from_str::<NodeFindings>(r#"{"new":"m"}"#).unwrap();
        assert_eq!(findings, NodeFindings::from([(NodeFindingKind::Other, "m".to_owned())]));
    }
}
