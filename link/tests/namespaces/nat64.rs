//! Translated forms of the service addresses, and translators on the node.

use std::net::{IpAddr, Ipv6Addr};

use podmeta_link::guard;
use podmeta_metadata::node_finding::NodeFindingKind;

use crate::daemon::with_silent_runtime;
use crate::kit::{nft, request, run, wait_until};
use crate::node::{REAL, Topology};

/// The service addresses with the well-known prefix.
const WELL_KNOWN: [&str; 2] = ["64:ff9b::169.254.169.254", "64:ff9b::100.100.100.200"];

/// Service addresses with other prefixes: one of each length of RFC 6052, and the two of translators inside a network.
const OTHER_PREFIXES: [&str; 9] = [
    "2001:db8:a9fe:a9fe::",
    "2001:db8:1a9:fea9:fe::",
    "2001:db8:122:a9fe:a9:fe00::",
    "2001:db8:122:3a9:fe:a9fe::",
    "2001:db8:122:344:a9:fea9:fe00:0",
    "2001:db8:122:344::169.254.169.254",
    "2001:db8:122:344::100.100.100.200",
    "64:ff9b:1::169.254.169.254",
    "::ffff:0:169.254.169.254",
];

/// An address beside a service address.
const OTHER: &str = "64:ff9b::169.254.169.253";

fn parse(address: &str) -> IpAddr {
    address.parse::<Ipv6Addr>().unwrap().into()
}

/// Returns a node with a pod. The service behind its uplink stands for a translator: it has the translated forms.
fn topology() -> Topology {
    let topology = Topology::new(1);
    for address in WELL_KNOWN.iter().chain(&OTHER_PREFIXES).chain([&OTHER]) {
        run(&topology.cloud, &format!("ip addr add {address}/128 dev lo"));
    }
    topology
}

#[tokio::test]
async fn translated_forms_are_dropped_for_pods_and_pass_for_the_node() {
    let topology = topology();
    let (node, pod) = (&topology.node, &topology.pods[0]);
    for address in WELL_KNOWN.iter().chain(&OTHER_PREFIXES) {
        assert_eq!(request(pod, parse(address)).unwrap(), REAL, "{address}: without guards");
    }
    guard::ensure(node).await.unwrap();
    for address in WELL_KNOWN.iter().chain(&OTHER_PREFIXES) {
        assert!(request(pod, parse(address)).is_err(), "{address}");
        assert_eq!(request(node, parse(address)).unwrap(), REAL, "{address}: the node");
    }
    assert_eq!(request(pod, parse(OTHER)).unwrap(), REAL, "no service address");
}

#[tokio::test]
async fn routing_rules_alone_drop_the_well_known_forms() {
    let topology = topology();
    guard::ensure(&topology.node).await.unwrap();
    run(&topology.node, "nft flush ruleset");
    for address in WELL_KNOWN {
        assert!(request(&topology.pods[0], parse(address)).is_err(), "{address}");
        assert_eq!(request(&topology.node, parse(address)).unwrap(), REAL, "{address}: the node");
    }
    assert_eq!(request(&topology.pods[0], parse(OTHER)).unwrap(), REAL, "no service address");
}

/// A translator in the kernel, such as Jool, takes packets before the kernel routes them, so they are never forwarded to the
/// translated form. A rule that changes the destination stands for it.
#[tokio::test]
async fn translator_in_the_kernel_gets_no_packet_to_a_translated_form() {
    let topology = topology();
    let (node, pod) = (&topology.node, &topology.pods[0]);
    let translate = |address: &str| format!("ip6 daddr {address} dnat to fd01:1::2;");
    let rules = WELL_KNOWN.iter().chain(&OTHER_PREFIXES).map(|address| translate(&parse(address).to_string()));
    let rules = rules.collect::<String>();
    nft(node, &format!("table ip6 nat64 {{ chain take {{ type nat hook prerouting priority -100; {rules} }}; }}"));
    for address in WELL_KNOWN.iter().chain(&OTHER_PREFIXES) {
        // The service has the form only as the address to which the rule changes it.
        run(&topology.cloud, &format!("ip addr del {address}/128 dev lo"));
        assert_eq!(request(pod, parse(address)).unwrap(), REAL, "{address}: without guards");
    }
    guard::ensure(node).await.unwrap();
    for address in WELL_KNOWN.iter().chain(&OTHER_PREFIXES) {
        assert!(request(pod, parse(address)).is_err(), "{address}");
    }
}

#[tokio::test]
async fn route_to_a_translator_on_the_node_is_a_finding_while_it_exists() {
    let (daemon, _runtime) = with_silent_runtime().await;
    let finding = || daemon.findings.snapshot().get(&NodeFindingKind::Nat64).cloned();
    let node = &daemon.node;
    run(node, "ip link add nat64 type veth peer name translator");
    run(node, "ip link set nat64 up");
    run(node, "ip -6 route add 2001:db8:64::/96 dev nat64");
    assert_eq!(finding(), None, "a prefix of the network's own is not known");
    run(node, "ip -6 route add 64:ff9b::/96 dev nat64 table 7");
    wait_until("the route is a finding", || finding().is_some()).await;
    assert!(finding().unwrap().contains("(route 64:ff9b::/96 by nat64)"), "{:?}", finding());
    run(node, "ip -6 route del 64:ff9b::/96 dev nat64 table 7");
    wait_until("the finding of a removed route ends", || finding().is_none()).await;
}
