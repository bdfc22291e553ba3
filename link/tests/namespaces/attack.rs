//! A pod with the capabilities NET_ADMIN and NET_RAW that tries to get the response of a neighbour or of the node's own
//! metadata service.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use podmeta_link::guard;
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::icmp::advertise_prefix;
use crate::kit::{Agent, alias, connect_many, interface_of, nft, request, run, wait_until};
use crate::node::Topology;

/// Two pods with links on a node with guards. The first one attacks, the second one is its neighbour.
struct AttackTopology {
    topology: Topology,
    agent: Agent,
}

impl AttackTopology {
    async fn new() -> Self {
        let topology = Topology::new(2);
        guard::ensure(&topology.node).await.unwrap();
        let agent = Agent::new().await;
        agent.serve();
        let attack = Self { topology, agent };
        for n in 0..2 {
            attack.make_link(n).await;
        }
        attack
    }

    async fn make_link(&self, n: usize) {
        pod_link::ensure(&self.agent.netns, &self.topology.pods[n], &alias(n), LinkRange::default()).await.unwrap();
    }

    fn attacker(&self) -> &Netns {
        &self.topology.pods[0]
    }

    fn neighbour(&self) -> &Netns {
        &self.topology.pods[1]
    }

    /// Runs commands in the attacker's namespace. `SERVICE` stands for a service address with its prefix length,
    /// `NEIGHBOUR` and `LINK` for the neighbour's addresses on `eth0` and on its link.
    fn run(&self, commands: &[&str], address: IpAddr) {
        let (family, neighbour, length) =
            if address.is_ipv4() { ("-4", "10.0.2.3", 32) } else { ("-6", "fd01:2::3", 128) };
        let link = run(self.neighbour(), &format!("ip -o {family} addr show dev imds0 scope global"));
        let link = link.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
        for command in commands {
            let command = command.replace("ip ", &format!("ip {family} ")).replace("NEIGHBOUR", neighbour);
            let command = command.replace("LINK", link).replace("SERVICE", &format!("{address}/{length}"));
            let option = match address {
                // An address without `nodad` is not usable immediately.
                IpAddr::V6(_) if command.contains("addr replace") => " nodad",
                // It replaces podmeta's route, which has this metric.
                IpAddr::V6(_) if command.contains("route replace") => " metric 1",
                _ => "",
            };
            run(self.attacker(), &format!("{command}{option}"));
        }
    }

    /// Checks that the attacker gets no response from any service address, and the neighbour its own ones.
    fn assert_no_response(&self, case: &str) {
        std::thread::scope(|scope| {
            for address in service::addresses() {
                scope.spawn(move || {
                    let response = request(self.attacker(), address);
                    assert!(response.is_err(), "{case}, {address}: {response:?}");
                    self.assert_neighbour(case, address);
                });
            }
        });
    }

    fn assert_neighbour(&self, case: &str, address: IpAddr) {
        assert_eq!(request(self.neighbour(), address).unwrap(), interface_of(&self.agent, 1), "{case}, {address}");
    }
}

#[tokio::test]
async fn neighbours_address_as_source_gets_no_response() {
    let attack = AttackTopology::new().await;
    for source in ["NEIGHBOUR", "LINK"] {
        for address in service::addresses() {
            let route = format!("ip route replace SERVICE dev imds0 src {source}");
            attack.run(&[&format!("ip addr replace {source} dev imds0"), &route], address);
        }
        attack.assert_no_response(source);
    }
}

#[tokio::test]
async fn route_by_a_neighbour_or_by_the_node_gets_no_response() {
    let attack = AttackTopology::new().await;
    for forwarding in [0, 1] {
        let sysctl = format!("net.ipv4.ip_forward={forwarding} net.ipv6.conf.all.forwarding={forwarding}");
        run(attack.neighbour(), &format!("sysctl -qw {sysctl}"));
        for (case, route) in [
            ("by the neighbour", "ip route replace SERVICE via NEIGHBOUR dev eth0"),
            ("on the bridge", "ip route replace SERVICE dev eth0"),
            ("by the node", "ip route del SERVICE"),
        ] {
            for address in service::addresses() {
                attack.run(&[route], address);
            }
            attack.assert_no_response(&format!("{case}, the neighbour has forwarding={forwarding}"));
        }
        for address in service::addresses() {
            attack.run(&["ip route replace SERVICE dev imds0"], address);
        }
    }
}

#[tokio::test]
async fn gratuitous_arp_and_neighbour_advertisement_change_no_response_of_a_neighbour() {
    let attack = AttackTopology::new().await;
    let attacker = attack.attacker();
    for (interface, source) in [("eth0", "NEIGHBOUR"), ("imds0", "LINK")] {
        let mac = run(attacker, &format!("ip -o link show {interface}"));
        let mac = mac.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let sysctl = format!("net.ipv4.conf.{interface}.arp_notify=1 net.ipv6.conf.{interface}.ndisc_notify=1");
        run(attacker, &format!("sysctl -qw {sysctl}"));
        for address in service::addresses() {
            attack.run(&[&format!("ip addr replace {source} dev {interface}")], address);
            let sent = sent_packets(attacker, interface);
            // The kernel announces the addresses of an interface when its MAC address changes.
            run(attacker, &format!("ip link set {interface} address 02:00:00:00:00:99"));
            run(attacker, &format!("ip link set {interface} address {mac}"));
            assert!(sent_packets(attacker, interface) >= sent + 2, "{interface} announced nothing");
            attack.assert_neighbour(source, address);
            // The attacker has lost the permanent neighbour of its link, so it can be without a response.
            let response = request(attacker, address).unwrap_or_else(|_| interface_of(&attack.agent, 0));
            assert_eq!(response, interface_of(&attack.agent, 0), "{source}, {address}");
            attack.run(&[&format!("ip addr del {source} dev {interface}")], address);
        }
    }
}

/// Returns the number of packets that an interface has sent. Source of the columns: /proc/net/dev.
fn sent_packets(netns: &Netns, interface: &str) -> u64 {
    let interfaces = run(netns, "cat /proc/net/dev");
    let line = interfaces.lines().find(|line| line.trim_start().starts_with(&format!("{interface}:"))).unwrap();
    line.split(':').nth(1).unwrap().split_whitespace().nth(9).unwrap().parse().unwrap()
}

#[tokio::test]
async fn router_advertisement_changes_nothing_in_the_agent_namespace() {
    let attack = AttackTopology::new().await;
    // The kernel reports a new link as down for some time.
    let routes = || run(&attack.agent.netns, "ip -6 route").replace(" linkdown", "");
    let state = || (routes(), run(&attack.agent.netns, "ip -6 -o addr"));
    let before = state();
    let attacker = attack.attacker();
    run(attacker, "ip addr add fe80::1/64 dev imds0 nodad");
    let dropped = attack.agent.dropped_unknown_sources();
    for _ in 0..3 {
        advertise_prefix(attacker, "imds0", Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0), 64);
    }
    wait_until("the advertisements arrived", || attack.agent.dropped_unknown_sources() >= dropped + 3).await;
    assert_eq!(state(), before);
    for address in service::addresses() {
        attack.assert_neighbour("router advertisement", address);
    }
}

/// The kernel adds a route by `eth0` for each advertised prefix, also for that of a service address alone.
#[tokio::test]
async fn router_advertisement_of_service_addresses_changes_no_response_of_a_neighbour() {
    let attack = AttackTopology::new().await;
    run(attack.neighbour(), "sysctl -qw net.ipv6.conf.eth0.accept_ra=1");
    for address in service::ipv6() {
        let advertised = || run(attack.neighbour(), &format!("ip -6 route show {address} dev eth0"));
        wait_until("the neighbour has the advertised route", || {
            advertise_prefix(attack.attacker(), "eth0", address, 128);
            !advertised().is_empty()
        })
        .await;
        attack.assert_neighbour("router advertisement", address.into());
        run(attack.neighbour(), "ip link del imds0");
        attack.make_link(1).await;
        assert!(!advertised().is_empty());
        attack.assert_neighbour("link made after the router advertisement", address.into());
    }
}

#[tokio::test]
async fn pod_without_its_link_reaches_nothing_until_the_link_is_made_again() {
    let attack = AttackTopology::new().await;
    for command in ["ip link del imds0", "ip link set imds0 down", "ip addr flush dev imds0"] {
        run(attack.attacker(), command);
        attack.assert_no_response(command);
        attack.make_link(0).await;
        for address in service::addresses() {
            let response = request(attack.attacker(), address).unwrap();
            assert_eq!(response, interface_of(&attack.agent, 0), "{command}, {address}");
        }
    }
}

#[tokio::test]
async fn flood_of_half_open_connections_leaves_a_neighbours_connections() {
    let attack = AttackTopology::new().await;
    // The attacker never acknowledges a SYN-ACK.
    nft(attack.attacker(), "table inet flood { chain in { type filter hook input priority 0; iifname imds0 drop; }; }");
    for address in service::addresses() {
        let _flood = connect_many(attack.attacker(), address, 6000);
        for _ in 0..50 {
            attack.assert_neighbour("flood", address);
        }
    }
    assert!(attack.agent.dropped_connections() > 0);
}

/// A pod with NET_ADMIN and no user namespace can move an interface into the agent namespace, and give it any alias. The
/// link-local route of that interface passes a check of the route alone.
#[tokio::test]
async fn interface_that_a_pod_moved_into_the_agent_namespace_gets_no_response() {
    let attack = AttackTopology::new().await;
    let agent = &attack.agent.netns;
    let attacker = format!("/proc/{}/fd/{}", std::process::id(), attack.attacker().as_fd().as_raw_fd());
    run(agent, "sysctl -qw net.ipv6.conf.default.accept_dad=0");
    run(agent, "ip link add moved type veth peer name evil");
    run(agent, &format!("ip link set evil netns {attacker}"));
    run(agent, "ip link set moved up");
    run(attack.attacker(), "ip link set evil up");
    let local = || run(agent, "ip -6 -o addr show dev moved scope link");
    wait_until("the interface has a link-local address", || local().contains("fe80::")).await;
    let gateway = local().split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
    let source = run(attack.attacker(), "ip -6 -o addr show dev evil scope link");
    let source = source.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let service = service::ipv6()[0];
    run(attack.attacker(), &format!("ip -6 route replace {service}/128 via {gateway} dev evil src {source} metric 1"));
    assert!(request(attack.attacker(), service.into()).is_err());
    assert_eq!(request(attack.neighbour(), service.into()).unwrap(), interface_of(&attack.agent, 1));
}
