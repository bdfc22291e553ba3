//! Guards, each one alone: a pod behind a node, and the node's own metadata service behind its uplink.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr};

use podmeta_link::guard::{self, Repairs};
use podmeta_link::netns::Netns;
use podmeta_link::service::{self, SERVICE_PORT};

use crate::kit::{listener, nft, pod, request, run, table};

/// Response of the node's own metadata service.
const REAL: &str = "REAL-IMDS";

/// A pod whose traffic the node forwards to the real service.
struct Topology {
    node: Netns,
    pod: Netns,
    _cloud: Netns,
}

impl Topology {
    fn new() -> Self {
        let (node, pod, cloud) = (pod(), pod(), pod());
        connect(&node, "up0", 1, &cloud, "eth0");
        connect(&node, "pod0", 2, &pod, "eth0");
        run(&node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        run(&node, "ip route add default via 10.0.1.2");
        run(&node, "ip -6 route add default via fd01:1::2");
        run(&pod, "ip route add default via 10.0.2.1");
        run(&pod, "ip -6 route add default via fd01:2::1");
        run(&cloud, "ip route add default via 10.0.1.1");
        run(&cloud, "ip -6 route add default via fd01:1::1");
        for address in service::addresses() {
            let length = if address.is_ipv4() { 32 } else { 128 };
            run(&cloud, &format!("ip addr add {address}/{length} dev lo"));
        }
        let real = cloud.run(|| listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap();
        std::thread::spawn(move || {
            for stream in real.incoming() {
                let Ok(mut stream) = stream else { return };
                drop(stream.write_all(REAL.as_bytes()));
            }
        });
        Self { node, pod, _cloud: cloud }
    }

    fn assert_pod_is_closed_and_node_is_open(&self, case: &str) {
        for address in service::addresses() {
            assert!(request(&self.pod, address).is_err(), "{case}: the pod reaches {address}");
            assert_eq!(request(&self.node, address).unwrap(), REAL, "{case}: the node does not reach {address}");
        }
    }
}

/// Connects two namespaces. The first one has the addresses 10.0.N.1 and fd01:N::1, the other one those with 2.
fn connect(near: &Netns, near_name: &str, n: u8, far: &Netns, far_name: &str) {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let fd = far.as_fd().as_raw_fd();
    let netns = format!("/proc/{}/fd/{fd}", std::process::id());
    run(near, &format!("ip link add {near_name} type veth peer name {far_name} netns {netns}"));
    for (netns, name, host) in [(near, near_name, 1), (far, far_name, 2)] {
        run(netns, &format!("ip addr add 10.0.{n}.{host}/24 dev {name}"));
        run(netns, &format!("ip addr add fd01:{n}::{host}/64 dev {name} nodad"));
        run(netns, &format!("ip link set {name} up"));
    }
}

#[tokio::test]
async fn without_guards_the_pod_reaches_the_real_service() {
    let topology = Topology::new();
    for address in service::addresses() {
        assert_eq!(request(&topology.pod, address).unwrap(), REAL, "{address}");
    }
}

#[tokio::test]
async fn guards_stop_the_pod_and_let_the_node_pass() {
    let topology = Topology::new();
    let repairs = guard::ensure(&topology.node).await.unwrap();
    assert_eq!(repairs, Repairs { rules: 8, tables: 1 });
    topology.assert_pod_is_closed_and_node_is_open("both guards");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs::default());
}

#[tokio::test]
async fn routing_rules_hold_after_a_flush_of_nftables() {
    let topology = Topology::new();
    guard::ensure(&topology.node).await.unwrap();
    run(&topology.node, "nft flush ruleset");
    topology.assert_pod_is_closed_and_node_is_open("rules only");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 0, tables: 1 });
}

#[tokio::test]
async fn nftables_holds_after_a_flush_of_the_rules() {
    let topology = Topology::new();
    guard::ensure(&topology.node).await.unwrap();
    for priority in [90, 90, 91, 91, 92] {
        run(&topology.node, &format!("ip rule del pref {priority}"));
    }
    for priority in [90, 91, 92] {
        run(&topology.node, &format!("ip -6 rule del pref {priority}"));
    }
    topology.assert_pod_is_closed_and_node_is_open("table only");
    assert_eq!(guard::ensure(&topology.node).await.unwrap(), Repairs { rules: 8, tables: 0 });
    topology.assert_pod_is_closed_and_node_is_open("both guards again");
}

#[tokio::test]
async fn changed_rule_of_the_table_is_repaired() {
    let topology = Topology::new();
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
    let topology = Topology::new();
    let state = |netns| (run(netns, "ip rule"), run(netns, "ip -6 rule"), run(netns, "nft list ruleset"));
    let before = state(&topology.node);
    guard::ensure(&topology.node).await.unwrap();
    guard::remove(&topology.node).await.unwrap();
    assert_eq!(state(&topology.node), before);
    guard::remove(&topology.node).await.unwrap();
}
