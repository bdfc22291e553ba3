//! The node's link and its routes: pods on the host network stay closed while a part is missing.

use podmeta_link::host_pods::{HostPodsRepairs, UnredirectedPods};

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
