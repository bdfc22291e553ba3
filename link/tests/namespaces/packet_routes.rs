//! Routes in a pod that packets of other pods cause. They must not prevent the pod's link.

use std::net::{IpAddr, UdpSocket};

use podmeta_link::netns::Netns;
use podmeta_link::pod_link::{self, LinkOutcome};
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::icmp::{advertise_route, report_too_big};
use crate::kit::{Agent, alias, interface_of, request, run, wait_until};
use crate::node::Topology;

/// Addresses of pod 1 of a [`Topology`].
const NEIGHBOUR: [&str; 2] = ["10.0.2.3", "fd01:2::3"];

/// Makes the link of a pod, and checks that it is complete and serves these addresses.
async fn assert_gets_link(agent: &Agent, pod: &Netns, addresses: Vec<IpAddr>) {
    for outcome in [LinkOutcome::Made, LinkOutcome::Kept] {
        let made = pod_link::ensure(&agent.netns, pod, &alias(0), LinkRange::default()).await;
        assert_eq!(made.unwrap(), outcome);
    }
    for address in addresses {
        assert_eq!(request(pod, address).unwrap(), interface_of(agent, 0), "{address}");
    }
}

#[tokio::test]
async fn icmp_error_of_another_pod_does_not_prevent_a_link() {
    let topology = Topology::new(2);
    let [attacker, neighbour] = [&topology.pods[0], &topology.pods[1]];
    for address in service::addresses() {
        let (family, any) = if address.is_ipv4() { ("-4", "0.0.0.0:0") } else { ("-6", "[::]:0") };
        let to = NEIGHBOUR[usize::from(address.is_ipv6())].parse().unwrap();
        wait_until("the neighbour has an exception", || {
            report_too_big(attacker, to, address);
            // The kernel lists an exception of IPv4 once a route lookup has used it.
            neighbour.run(|| UdpSocket::bind(any)?.connect((address, 80))).unwrap();
            !run(neighbour, &format!("ip {family} route show cache {address}")).is_empty()
        })
        .await;
    }
    let agent = Agent::new().await;
    agent.serve();
    assert_gets_link(&agent, neighbour, service::addresses()).await;
}

/// Needs a pod that accepts routes to single addresses from router advertisements. The default of the kernel is to ignore them.
#[tokio::test]
async fn route_of_a_router_advertisement_does_not_prevent_a_link() {
    let topology = Topology::new(2);
    let [attacker, neighbour] = [&topology.pods[0], &topology.pods[1]];
    let accept = "net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128";
    run(neighbour, &format!("sysctl -qw {accept}"));
    for address in service::ipv6() {
        wait_until("the neighbour has the route", || {
            advertise_route(attacker, "eth0", address);
            run(neighbour, &format!("ip -6 route show {address}")).contains("proto ra")
        })
        .await;
    }
    let agent = Agent::new().await;
    agent.serve();
    assert_gets_link(&agent, neighbour, service::addresses()).await;
}

#[tokio::test]
async fn routes_of_router_advertisements_are_not_counted() {
    let pod = crate::kit::pod();
    run(&pod, "ip link add eth0 up type veth");
    let batch = tempfile::NamedTempFile::new().unwrap();
    let routes = (0..10_001).map(|n| format!("route add fd77::{n:x} dev eth0 proto ra\n"));
    std::fs::write(batch.path(), routes.collect::<String>()).unwrap();
    run(&pod, &format!("ip -6 -batch {}", batch.path().display()));
    let agent = Agent::new().await;
    agent.serve();
    assert_gets_link(&agent, &pod, service::addresses()).await;
}
