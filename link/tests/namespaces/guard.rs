//! Guards, each one alone: a pod behind a node, and the node's own metadata service behind its uplink.

use podmeta_link::counters::Repairs;
use podmeta_link::guard;
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::kit::{Agent, alias, interface_of, nft, pod, request, run, table};
use crate::node::{REAL, Topology};

/// Removes all routing rules of the guard.
fn remove_rules(node: &Netns) {
    for priority in [90, 90, 91, 91, 92] {
        run(node, &format!("ip rule del pref {priority}"));
    }
    for priority in [90, 90, 90, 91, 91, 91, 92] {
        run(node, &format!("ip -6 rule del pref {priority}"));
    }
}

#[tokio::test]
async fn without_guards_the_pod_reaches_the_real_service() {
    let topology = Topology::new(1);
    for address in service::addresses() {
        assert_eq!(request(&topology.pods[0], address).unwrap(), REAL, "{address}");
    }
}

#[tokio::test]
async fn guards_stop_the_pod_and_let_the_node_pass() {
    let topology = Topology::new(1);
    let repairs = guard::ensure(&topology.node).await.unwrap();
    assert_eq!(repairs, Repairs { rules: 12, tables: 1 });
    topology.assert_only_the_node_reaches_the_real_service("both guards");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs::default());
}

#[tokio::test]
async fn routing_rules_hold_after_a_flush_of_nftables() {
    let topology = Topology::new(1);
    guard::ensure(&topology.node).await.unwrap();
    run(&topology.node, "nft flush ruleset");
    topology.assert_only_the_node_reaches_the_real_service("rules only");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 0, tables: 1 });
}

#[tokio::test]
async fn nftables_holds_after_a_flush_of_the_rules() {
    let topology = Topology::new(1);
    guard::ensure(&topology.node).await.unwrap();
    remove_rules(&topology.node);
    topology.assert_only_the_node_reaches_the_real_service("table only");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 12, tables: 0 });
    topology.assert_only_the_node_reaches_the_real_service("both guards again");
}

/// Without both guards, a link keeps a pod from the real service. A pod without a link reaches it until a guard is added.
#[tokio::test]
async fn link_holds_after_a_flush_of_both_guards() {
    let topology = Topology::new(2);
    let agent = Agent::new().await;
    agent.serve();
    pod_link::ensure(&agent.netns, &topology.pods[0], &alias(0), LinkRange::default()).await.unwrap();
    guard::ensure(&topology.node).await.unwrap();
    run(&topology.node, "nft flush ruleset");
    remove_rules(&topology.node);
    for address in service::addresses() {
        assert_eq!(request(&topology.pods[0], address).unwrap(), interface_of(&agent, 0), "{address}");
        assert_eq!(request(&topology.pods[1], address).unwrap(), REAL, "{address}: nothing holds a pod without a link");
    }
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 12, tables: 1 });
    for address in service::addresses() {
        assert_eq!(request(&topology.pods[0], address).unwrap(), interface_of(&agent, 0), "{address}");
        assert!(request(&topology.pods[1], address).is_err(), "{address}");
    }
}

#[tokio::test]
async fn changed_rule_of_the_table_is_repaired() {
    let topology = Topology::new(1);
    guard::ensure(&topology.node).await.unwrap();
    run(&topology.node, "nft flush chain inet podmeta forwarded");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 0, tables: 1 });
}

#[tokio::test]
async fn changed_properties_of_the_table_are_repaired() {
    let node = pod();
    guard::ensure(&node).await.unwrap();
    let original = table(&node, "podmeta");
    for change in [
        "add table inet podmeta { flags dormant; }",
        "add chain inet podmeta forwarded { policy drop; }",
        "delete chain inet podmeta arriving",
    ] {
        nft(&node, change);
        assert_ne!(table(&node, "podmeta"), original, "{change}");
        assert_eq!(guard::ensure(&node).await.unwrap(), Repairs { rules: 0, tables: 1 }, "{change}");
        assert_eq!(table(&node, "podmeta"), original, "{change}");
        assert_eq!(guard::ensure(&node).await.unwrap(), Repairs::default(), "{change}");
    }
}

#[tokio::test]
async fn removal_leaves_no_rule_and_no_table() {
    let topology = Topology::new(1);
    let state = |netns| (run(netns, "ip rule"), run(netns, "ip -6 rule"), run(netns, "nft list ruleset"));
    let before = state(&topology.node);
    guard::ensure(&topology.node).await.unwrap();
    guard::remove(&topology.node).await.unwrap();
    assert_eq!(state(&topology.node), before);
    guard::remove(&topology.node).await.unwrap();
}
