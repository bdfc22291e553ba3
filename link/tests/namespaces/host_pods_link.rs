//! The node's link and its routes: pods on the host network stay closed while a part is missing.

use podmeta_link::host_pods::{self, HostPodsRepairs, UnredirectedPods};
use podmeta_link::service;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::host_pods::{Node, UIDS, spellings};
use crate::kit::{request, run};
use crate::node::REAL;

#[tokio::test]
async fn pod_never_reaches_the_real_service_while_the_link_is_missing() {
    let mut node = Node::new().await;
    let pod = node.container(0);
    node.ensure(&[]).await.unwrap();
    run(&node.topology.node, "ip link del podmeta0");
    for address in ["169.254.239.2", "fda9:fe:a9fe::a9fe:ef03"] {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let route = run(&node.topology.node, &format!("ip {family} route show {address}"));
        assert!(route.contains("prohibit"), "{address} leaves by another route: {route}");
    }
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), "", "{address}");
        assert_eq!(request(&node.topology.node, address).unwrap(), REAL, "{address}");
    }
    assert_eq!(node.ensure(&[]).await.unwrap(), HostPodsRepairs { link: true, ..HostPodsRepairs::default() });
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), UIDS[0], "{address}");
    }
}

#[tokio::test]
async fn link_range_with_an_address_of_the_node_is_an_error_and_pods_stay_closed() {
    let mut node = Node::new().await;
    let pod = node.container(0);
    let (range, exempt) = ("169.254.232.0/21".parse().unwrap(), UnredirectedPods::default());
    let error = node.pods.ensure(&node.topology.node, &node.agent.netns, range, &exempt).await.unwrap_err();
    assert!(error.to_string().contains("set another link range"), "{error:#}");
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), "", "{address}");
    }
}

/// Adds the addresses of the node's link to the cloud, which would respond to redirected connections that leave the node.
fn serve_in_cloud(node: &Node) {
    for address in ["169.254.239.2/32", "169.254.239.4/32", "fda9:fe:a9fe::a9fe:ef03/128"] {
        run(&node.topology.cloud, &format!("ip addr add {address} dev lo"));
    }
}

#[tokio::test]
async fn pod_stays_closed_by_ipv6_if_the_agent_namespace_has_no_ipv6() {
    let mut node = Node::new().await;
    let pod = node.container(0);
    serve_in_cloud(&node);
    run(&node.agent.netns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    node.ensure(&[]).await.unwrap();
    for address in service::addresses() {
        let expected = if address.is_ipv4() { UIDS[0] } else { "" };
        assert_eq!(node.request_in(&pod, address), expected, "{address}");
    }
}

/// Adds or removes a capability of the calling thread.
fn set_net_admin(is_present: bool) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.set(CapabilitySet::NET_ADMIN, is_present);
    set_capabilities(None, sets).unwrap();
}

/// Without NET_ADMIN, the kernel rejects routes. It attaches programs that are loaded.
#[tokio::test]
async fn programs_are_attached_only_if_redirected_connections_cannot_leave_the_node() {
    let mut node = Node::new().await;
    node.ensure(&[]).await.unwrap();
    run(&node.topology.node, "ip link del podmeta0");
    run(&node.topology.node, "ip route del prohibit 169.254.239.2");
    std::fs::remove_dir(node.cgroups.0.join("kubepods")).unwrap();
    let pod = node.container(0);
    set_net_admin(false);
    let result = node.ensure(&[]).await;
    set_net_admin(true);
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("cannot keep redirected connections on the node"), "{error}");
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), REAL, "{address}");
    }
    node.ensure(&[]).await.unwrap();
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), UIDS[0], "{address}");
    }
}

#[tokio::test]
async fn interface_of_another_program_with_the_name_of_the_link_is_an_error_and_stays() {
    let mut node = Node::new().await;
    let pod = node.container(0);
    for kind in ["type bridge", "type veth peer name other0"] {
        run(&node.topology.node, &format!("ip link add podmeta0 {kind}"));
        let foreign = run(&node.topology.node, "ip -o link show podmeta0");
        let error = node.ensure(&[]).await.unwrap_err();
        assert!(error.to_string().contains("is not podmeta's; rename or delete it"), "{error:#}");
        assert_eq!(node.request_in(&pod, service::addresses()[0]), "", "{kind}");
        host_pods::remove(&node.pins.path, &node.topology.node).await.unwrap();
        assert_eq!(run(&node.topology.node, "ip -o link show podmeta0"), foreign);
        run(&node.topology.node, "ip link del podmeta0");
    }
    node.ensure(&[]).await.unwrap();
    assert_eq!(node.request_in(&pod, service::addresses()[0]), UIDS[0]);
}
