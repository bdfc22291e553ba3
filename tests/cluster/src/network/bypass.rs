//! The datapath `bypass`: filters of traffic control redirect packets between pods and addresses outside the cluster directly
//! from one interface to the other, as Cilium with eBPF host routing does. Routing rules and nftables of the node do not see
//! them. Packets inside the cluster pass through the node: its Services and NetworkPolicies need that. Pure.
//!
//! ```text
//! pod -> node's end of its link, ingress:   to the cluster: node    other: redirected to the uplink
//! uplink, ingress:                          from the cluster: node  to a pod: redirected to the pod
//! ```
//!
//! The filters use only u32 and mirred, because not every kernel has actions that change packets. Redirected packets keep their MAC
//! addresses. Therefore the node's end of a link has the MAC address of the gateway, and the pods have that of the uplink.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::layout::{FABRIC_MAC, NODE_RANGES, NodeId, POD_RANGES, SERVICE_RANGES, UPLINK};

/// Link-local and multicast addresses, which neighbour discovery uses.
const LOCAL_RANGES: [&str; 2] = ["fe80::/10", "ff00::/8"];

/// The class of packets that pass through the node. A match without an action needs one.
const NODE_CLASS: &str = "classid 1:1";

/// Priorities of the filters of an interface, for IPv4 and IPv6.
const CLUSTER_PRIORITIES: (u16, u16) = (1, 2);
const REDIRECT_PRIORITIES: (u16, u16) = (3, 4);

/// Priorities of the uplink's filters that redirect to the first pod, for IPv4 and IPv6. Each pod of the node has its own.
const FIRST_POD_PRIORITIES: (u16, u16) = (1_000, 2_000);

/// Bits of a pod's IPv4 address that are its number on its node.
const POD_NUMBER_MASK: u32 = 0x1ff;

/// The settings of the plugin `routed` on this datapath.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BypassConfig {
    /// Interface with the node's default route.
    pub uplink: String,
    /// MAC address of the uplink.
    pub uplink_mac: String,
    /// MAC address of the node's gateway.
    pub gateway_mac: String,
}

impl BypassConfig {
    /// Returns the settings of a node.
    #[must_use]
    pub fn of(node: NodeId) -> Self {
        Self { uplink: UPLINK.to_owned(), uplink_mac: node.mac(), gateway_mac: FABRIC_MAC.to_owned() }
    }

    /// Returns the commands that redirect the packets of a new pod.
    #[must_use]
    pub fn pod_commands(&self, host_device: &str, (ipv4, ipv6): (Ipv4Addr, Ipv6Addr)) -> String {
        let ((prio4, prio6), (pod4, pod6)) = (REDIRECT_PRIORITIES, pod_priorities(ipv4));
        let (host, uplink) = (format!("dev {host_device} ingress"), format!("dev {} ingress", self.uplink));
        let (to_uplink, to_pod) = (redirect(&self.uplink), redirect(host_device));
        let mut commands = format!("tc qdisc add dev {host_device} clsact\n");
        commands.push_str(&cluster_filters(&host, "dst"));
        // A deleted pod may have left its filters.
        commands.push_str(&self.delete_commands(ipv4));
        commands.push_str(&format!(
            "tc filter add {host} protocol ip prio {prio4} u32 match u32 0 0 {to_uplink}
             tc filter add {host} protocol ipv6 prio {prio6} u32 match u32 0 0 {to_uplink}
             tc filter add {uplink} protocol ip prio {pod4} u32 match ip dst {ipv4}/32 {to_pod}
             tc filter add {uplink} protocol ipv6 prio {pod6} u32 match ip6 dst {ipv6}/128 {to_pod}
             "
        ));
        commands
    }

    /// Returns the commands that remove the filters of a pod from the uplink. The kernel removes the others with its link.
    #[must_use]
    pub fn delete_commands(&self, ipv4: Ipv4Addr) -> String {
        let (pod4, pod6) = pod_priorities(ipv4);
        let delete = |protocol: &str, priority| delete_filter(&self.uplink, protocol, priority);
        delete("ip", pod4) + &delete("ipv6", pod6)
    }
}

/// Returns the commands that let packets from the cluster pass through a node. They can be repeated.
#[must_use]
pub fn node_commands() -> String {
    let (prio4, prio6) = CLUSTER_PRIORITIES;
    format!(
        "tc qdisc show dev {UPLINK} | grep -q clsact || tc qdisc add dev {UPLINK} clsact
         {}{}{}",
        delete_filter(UPLINK, "ip", prio4),
        delete_filter(UPLINK, "ipv6", prio6),
        cluster_filters(&format!("dev {UPLINK} ingress"), "src"),
    )
}

/// Returns commands that let packets pass through the node whose source (`src`) or destination (`dst`) is in the cluster.
fn cluster_filters(hook: &str, side: &str) -> String {
    let (prio4, prio6) = CLUSTER_PRIORITIES;
    let ranges = SERVICE_RANGES.split(',').chain([POD_RANGES.0, POD_RANGES.1, NODE_RANGES.0, NODE_RANGES.1]);
    let commands = ranges.chain(LOCAL_RANGES).map(|range| {
        let (protocol, priority, family) =
            if range.contains(':') { ("ipv6", prio6, "ip6") } else { ("ip", prio4, "ip") };
        format!(
            "tc filter add {hook} protocol {protocol} prio {priority} u32 match {family} {side} {range} {NODE_CLASS}\n"
        )
    });
    commands.collect()
}

fn delete_filter(device: &str, protocol: &str, priority: u16) -> String {
    format!("tc filter delete dev {device} ingress protocol {protocol} prio {priority} 2>/dev/null || true\n")
}

fn redirect(device: &str) -> String {
    format!("action mirred egress redirect dev {device}")
}

/// Returns the priorities of a pod's filters, which no other pod of its node has.
fn pod_priorities(ipv4: Ipv4Addr) -> (u16, u16) {
    let number = u16::try_from(u32::from(ipv4) & POD_NUMBER_MASK).unwrap_or_default();
    let (first4, first6) = FIRST_POD_PRIORITIES;
    (first4 + number, first6 + number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MAX_NODES;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn pods_of_a_node_have_different_priorities() {
        for node in NodeId::first(MAX_NODES) {
            let first = address(node.pod_ranges().0.split('/').next().unwrap());
            let pods = (0..512).map(|number| pod_priorities(Ipv4Addr::from(u32::from(first) + number)));
            let priorities = pods.flat_map(|(ipv4, ipv6)| [ipv4, ipv6]).collect::<std::collections::HashSet<_>>();
            assert_eq!(priorities.len(), 1024, "{node}");
        }
    }

    #[test]
    fn ranges_of_the_cluster_contain_the_addresses_of_all_nodes_and_their_pods() {
        let prefix = |range: &str| range.rsplit_once('/').unwrap().0.trim_end_matches(['0', ':', '.']).to_owned();
        for node in NodeId::first(MAX_NODES) {
            let (pods, addresses) = (node.pod_ranges(), node.addresses());
            assert!(pods.0.starts_with(&prefix(POD_RANGES.0)) && pods.1.starts_with(&prefix(POD_RANGES.1)), "{node}");
            assert!(addresses.0.to_string().starts_with(&prefix(NODE_RANGES.0)), "{node}");
            assert!(addresses.1.to_string().starts_with(&prefix(NODE_RANGES.1)), "{node}");
        }
    }

    #[test]
    fn packets_to_the_cluster_are_matched_before_those_that_are_redirected() {
        let bypass = BypassConfig::of(NodeId::first(1).next().unwrap());
        let commands = bypass.pod_commands("veth1", (address("10.244.0.2"), "fd00:244::2".parse().unwrap()));
        let filters = commands.lines().filter(|line| line.contains("filter add dev veth1 ingress"));
        let (cluster, other): (Vec<_>, Vec<_>) = filters.partition(|line| line.contains(NODE_CLASS));
        let priority = |line: &&str| {
            line.split_whitespace().skip_while(|word| *word != "prio").nth(1).unwrap().parse::<u16>().unwrap()
        };
        assert_eq!(other.len(), 2, "{other:?}");
        assert!(other.iter().all(|line| line.contains("redirect dev eth0")), "{other:?}");
        assert!(cluster.iter().map(priority).max() < other.iter().map(priority).min(), "{commands}");
    }
}
