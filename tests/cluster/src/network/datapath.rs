//! Datapaths: the ways in which packets of pods reach their node. `cluster up --cni` selects that of a cluster. Pure.
//!
//! A datapath is a variant of [`Datapath`]. All settings that depend on it are methods here.

use std::fmt;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::bypass::BypassConfig;
use super::cni::{CNI_VERSION, HOST_DEVICE_PREFIX, PLUGIN_TYPE};
use crate::layout::NodeId;

/// The bridge of a node's pods.
const BRIDGE: &str = "cni0";

/// The datapath of a cluster's pods. The first variant is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// All pods of a node are ports of one bridge.
    #[default]
    Bridge,
    /// Each pod has a point-to-point link to its node, which routes all packets.
    Ptp,
    /// Each pod has single addresses, and the node's end of its link has none, as with Calico.
    Routed,
    /// As `Routed`. Packets that leave the cluster bypass the node's network stack, as with Cilium and eBPF host routing.
    Bypass,
}

impl Datapath {
    /// Returns the CNI configuration of a node.
    #[must_use]
    pub fn cni_config(self, node: NodeId) -> Value {
        let (ipv4, ipv6) = node.pod_ranges();
        let ipam = json!({
            "type": "host-local",
            "dataDir": "/run/cni/networks",
            "ranges": [[{"subnet": ipv4}], [{"subnet": ipv6}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        let plugin = match self {
            Self::Bridge => json!({
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": ipam,
            }),
            Self::Ptp => json!({"type": "ptp", "ipMasq": false, "ipam": ipam}),
            Self::Routed => json!({"type": PLUGIN_TYPE, "ipam": ipam}),
            Self::Bypass => json!({"type": PLUGIN_TYPE, "bypass": BypassConfig::of(node), "ipam": ipam}),
        };
        json!({"cniVersion": CNI_VERSION, "name": self.to_string(), "plugins": [plugin]})
    }

    /// Returns the settings by which kube-proxy identifies traffic of the node's own pods.
    #[must_use]
    pub fn local_traffic(self) -> Value {
        match self {
            Self::Bridge => json!({"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": BRIDGE}}),
            Self::Ptp | Self::Routed | Self::Bypass => json!({
                "detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": HOST_DEVICE_PREFIX},
            }),
        }
    }

    /// True if packets of pods that leave the cluster pass neither routing rules nor nftables of the node.
    #[must_use]
    pub fn bypasses_host_stack(self) -> bool {
        self == Self::Bypass
    }
}

impl fmt::Display for Datapath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Routed => "routed",
            Self::Bypass => "bypass",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_datapath_parses_to_the_same_datapath() {
        for datapath in Datapath::value_variants() {
            assert_eq!(Datapath::from_str(&datapath.to_string(), false).as_ref(), Ok(datapath));
        }
    }

    #[test]
    fn default_datapath_is_the_first() {
        assert_eq!(Datapath::value_variants().first(), Some(&Datapath::default()));
    }
}
