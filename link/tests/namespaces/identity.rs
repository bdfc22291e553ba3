//! Identity of connections at the sockets that the node agent receives.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use podmeta_link::identity::{LinkChange, LinkTable, bind_to_arrival_interface};
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};
use podmeta_link::sockets::AgentSockets;
use socket2::SockRef;

use crate::kit::{Agent, alias, interface_of, listener, pod, run};
use crate::routing::{self, set_up};

/// Timeout of one connection.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Connects from a namespace and accepts the connection.
pub(crate) fn connect(from: &Netns, address: IpAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = from.run(|| TcpStream::connect_timeout(&(address, SERVICE_PORT).into(), TIMEOUT)).unwrap();
    (client, listener.accept().unwrap().0)
}

async fn open(agent: &Agent) -> (TcpListener, LinkTable, tokio::sync::mpsc::UnboundedReceiver<LinkChange>) {
    let AgentSockets { listener, events, requests } = AgentSockets::open(&agent.netns).unwrap();
    SockRef::from(&listener).listen(16).unwrap();
    let (table, changes) = LinkTable::open(events, requests).await.unwrap();
    (listener, table, changes)
}

#[tokio::test]
async fn connection_has_the_pod_of_its_link_on_every_service_address() {
    let agent = Agent::new().await;
    let (listener, table, _changes) = open(&agent).await;
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    for (n, pod) in pods.iter().enumerate() {
        for address in service::addresses() {
            let (_client, accepted) = connect(pod, address, &listener);
            let interface = bind_to_arrival_interface(&accepted).unwrap();
            let found = table.find(interface).await.unwrap().unwrap();
            assert_eq!(found.pod().unwrap().pod, alias(n).pod, "{address}");
            assert!(SockRef::from(&accepted).device().unwrap().is_some(), "the connection is bound to its link");
        }
    }
}

#[tokio::test]
async fn ipv4_socket_reports_the_interface_of_a_connection() {
    let agent = Agent::new().await;
    let listener = agent.netns.run(|| listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap();
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    for (n, pod) in pods.iter().enumerate() {
        let (_client, accepted) = connect(pod, service::ipv4()[0].into(), &listener);
        assert_eq!(bind_to_arrival_interface(&accepted).unwrap().to_string(), interface_of(&agent, n));
    }
}

#[tokio::test]
async fn links_of_before_and_after_are_reported_with_their_removal() {
    let agent = Agent::new().await;
    let old = pod();
    pod_link::ensure(&agent.netns, &old, &alias(0), LinkRange::default()).await.unwrap();
    let (_listener, _table, mut changes) = open(&agent).await;
    let mut next = async || tokio::time::timeout(5 * TIMEOUT, changes.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, LinkChange::Added(alias(0).into()));
    let new = pod();
    pod_link::ensure(&agent.netns, &new, &alias(1), LinkRange::default()).await.unwrap();
    assert_eq!(next().await, LinkChange::Added(alias(1).into()));
    drop(old);
    assert_eq!(next().await, LinkChange::Removed(alias(0).into()));
}

#[tokio::test]
async fn interface_without_an_alias_of_podmeta_is_no_link() {
    let agent = Agent::new().await;
    let (_listener, table, _changes) = open(&agent).await;
    run(&agent.netns, "ip link add foreign type veth");
    run(&agent.netns, "ip link set foreign alias other");
    let line = run(&agent.netns, "ip -o link show foreign");
    let index = line.split(':').next().unwrap().parse().unwrap();
    for interface in [1, index, 100_000] {
        assert_eq!(table.find(interface).await.unwrap(), None, "{interface}");
    }
}

#[tokio::test]
async fn two_processes_share_the_port() {
    let agent = Agent::new().await;
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    let (first, ..) = open(&agent).await;
    let (second, ..) = open(&agent).await;
    drop(first);
    let (_client, accepted) = connect(&pod, service::ipv4()[0].into(), &second);
    assert_eq!(bind_to_arrival_interface(&accepted).unwrap().to_string(), interface_of(&agent, 0));
}

#[tokio::test]
async fn connection_has_the_pod_of_its_link_with_syn_cookies() {
    let agent = Agent::new().await;
    // Each connection uses a cookie, not only those over the limit of the queue.
    run(&agent.netns, "sysctl -qw net.ipv4.tcp_syncookies=2");
    let (listener, table, _changes) = open(&agent).await;
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    for (n, pod) in pods.iter().enumerate() {
        for address in service::addresses() {
            let (_client, accepted) = connect(pod, address, &listener);
            let interface = bind_to_arrival_interface(&accepted).unwrap();
            assert_eq!(table.find(interface).await.unwrap().unwrap().pod().unwrap().pod, alias(n).pod, "{address}");
        }
    }
    let counters = run(&agent.netns, "cat /proc/net/netstat");
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let mut fields = lines.next().unwrap().split(' ').zip(lines.next().unwrap().split(' '));
    let received = fields.find(|(name, _)| *name == "SyncookiesRecv").unwrap().1.parse::<usize>().unwrap();
    assert_eq!(received, pods.len() * service::addresses().len(), "all connections used a cookie");
}

/// Without the bind, a segment with the right addresses and numbers is accepted from any link. The test turns the reverse path
/// filter off, which drops such a segment earlier.
#[tokio::test]
async fn later_segment_by_another_link_is_not_read() {
    let agent = Agent::new().await;
    let (listener, _table, _changes) = open(&agent).await;
    let pods = [pod(), pod()];
    for (n, pod) in pods.iter().enumerate() {
        pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
    }
    let address = service::ipv4()[0];
    let (mut unbound_client, mut unbound) = connect(&pods[0], address.into(), &listener);
    let (mut client, mut bound) = connect(&pods[0], address.into(), &listener);
    bind_to_arrival_interface(&bound).unwrap();
    let filters = run(&agent.netns, "ls /proc/sys/net/ipv4/conf");
    for interface in filters.split_whitespace() {
        run(&agent.netns, &format!("sysctl -qw net/ipv4/conf/{interface}/rp_filter=0"));
    }
    // The first pod now sends by the second one, which forwards.
    routing::connect(&pods[0], "next0", &pods[1], "previous0");
    set_up(&pods[0], "next0", 9, 1);
    set_up(&pods[1], "previous0", 9, 2);
    run(&pods[1], "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.previous0.rp_filter=0");
    let source = run(&pods[0], "ip -o -4 addr show dev imds0");
    let source = source.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    run(&pods[0], &format!("ip route replace {address}/32 via 10.0.9.2 dev next0 src {source}"));
    let mut buffer = [0; 8];
    unbound_client.write_all(b"x").unwrap();
    unbound.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(unbound.read(&mut buffer).unwrap(), 1, "the segment arrives by the second link");
    client.write_all(b"x").unwrap();
    bound.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert!(bound.read(&mut buffer).is_err(), "the segment is read");
}
