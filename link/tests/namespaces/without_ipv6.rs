//! Pods, agent namespaces and nodes without IPv6.

use podmeta_link::agent_ns;
use podmeta_link::counters::Repairs;
use podmeta_link::guard;
use podmeta_link::identity::bind_to_arrival_interface;
use podmeta_link::netns::Netns;
use podmeta_link::pod_link::{self, LinkOutcome};
use podmeta_link::range::LinkRange;
use podmeta_link::service;
use podmeta_link::sockets::AgentSockets;
use socket2::SockRef;

use crate::identity::connect;
use crate::kit::{Agent, alias, interface_of, pod, request, run};

fn disable_ipv6(netns: &Netns) {
    run(netns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
}

#[tokio::test]
async fn pod_without_ipv6_has_a_complete_link_with_ipv4() {
    let agent = Agent::new().await;
    agent.serve();
    let pod = pod();
    disable_ipv6(&pod);
    for outcome in [LinkOutcome::Made, LinkOutcome::Kept] {
        assert_eq!(pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap(), outcome);
    }
    for address in service::addresses() {
        match request(&pod, address) {
            Ok(interface) => assert!(address.is_ipv4() && interface == interface_of(&agent, 0), "{address}"),
            Err(error) => assert!(address.is_ipv6(), "{address}: {error}"),
        }
    }
}

#[tokio::test]
async fn agent_namespace_without_ipv6_serves_ipv4_with_identity() {
    let agent = Agent::new().await;
    disable_ipv6(&agent.netns);
    agent_ns::ensure(&agent.path).await.unwrap();
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        for outcome in [LinkOutcome::Made, LinkOutcome::Kept] {
            assert_eq!(pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap(), outcome);
        }
    }
    let AgentSockets { listener, .. } = AgentSockets::open(&agent.netns).unwrap();
    SockRef::from(&listener).listen(16).unwrap();
    for (n, pod) in pods.iter().enumerate() {
        for address in service::ipv4() {
            let (_client, accepted) = connect(pod, address.into(), &listener);
            assert_eq!(bind_to_arrival_interface(&accepted).unwrap().to_string(), interface_of(&agent, n), "{address}");
        }
    }
}

#[tokio::test]
async fn node_without_ipv6_has_guards_for_ipv4_until_it_gets_ipv6() {
    let node = pod();
    disable_ipv6(&node);
    let ipv6 = 1 + 2 * (service::ipv6().len() + service::ipv4().len());
    let ipv4 = 1 + 2 * service::ipv4().len();
    assert_eq!(guard::ensure(&node).await.unwrap(), Repairs { rules: ipv4, tables: 1 });
    assert_eq!(guard::ensure(&node).await.unwrap(), Repairs::default());
    run(&node, "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    assert_eq!(guard::ensure(&node).await.unwrap(), Repairs { rules: ipv6, tables: 0 });
    assert!(run(&node, "ip -6 rule").contains("prohibit"));
}
