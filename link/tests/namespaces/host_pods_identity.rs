//! Identity at the node's link: other clients than pods on the host network get none.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use podmeta_link::guard;
use podmeta_link::netns::Netns;
use podmeta_link::service::SERVICE_PORT;
use socket2::{Domain, Socket, Type};

use crate::host_network::request_in;
use crate::host_pods::{Node, UIDS, listen, serve};
use crate::kit::{block_until, nft, request, run};

/// Addresses of the link that stand for service addresses of EC2, and the service addresses.
const SUBSTITUTES: [(&str, &str); 2] =
    [("169.254.239.2", "169.254.169.254"), ("fda9:fe:a9fe::a9fe:ef03", "fd00:ec2::254")];

/// Makes the node masquerade what it sends by the link, with the addresses of pods on the host network.
fn masquerade(node: &Netns) {
    for (family, source) in [("ip", "169.254.239.1"), ("ip6", "fda9:fe:a9fe::a9fe:ef01")] {
        let rule = format!("oifname podmeta0 snat to {source}");
        nft(
            node,
            &format!("table {family} nat {{ chain out {{ type nat hook postrouting priority 100; {rule}; }}; }}"),
        );
    }
}

/// A process of the node, and a pod with its own network whose packets the node masquerades, use the link's addresses directly.
#[tokio::test]
async fn client_that_is_no_pod_on_the_host_network_has_no_identity() {
    let mut node = Node::new().await;
    node.ensure(&[]).await.unwrap();
    let host = &node.topology.node;
    masquerade(host);
    let pod = node.container(0);
    for address in ["169.254.239.2", "169.254.239.4", "fda9:fe:a9fe::a9fe:ef03"].map(|address| address.parse().unwrap())
    {
        let of_node = request(host, address).unwrap();
        assert!(of_node.contains("belongs to no pod"), "{address}: {of_node}");
        let forwarded = request_in(&pod, &node.topology.pods[0], address);
        assert!(forwarded.starts_with("nobody: no process in"), "{address}: {forwarded}");
        assert_eq!(node.request_in(&pod, address), UIDS[0], "{address}: a pod on the host network");
    }
}

/// Connects from a namespace and a source port.
fn connect_from(netns: &Netns, port: u16, address: IpAddr) -> io::Result<TcpStream> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    netns.run(|| {
        let socket = Socket::new(Domain::for_address((address, SERVICE_PORT).into()), Type::STREAM, None)?;
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        socket.bind(&SocketAddr::from((any, port)).into())?;
        socket.connect_timeout(&SocketAddr::from((address, SERVICE_PORT)).into(), TIMEOUT)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    })
}

/// A forwarded pod connects first. A pod on the host network then gets the same source port, and its packets another one by the
/// masquerading of the node. The agent accepts the first connection afterwards.
#[tokio::test]
async fn forwarded_pod_with_the_source_port_of_a_pod_on_the_host_network_gets_no_response() {
    const PORT: u16 = 4000;
    for (substitute, service) in SUBSTITUTES {
        let mut node = Node::without_server().await;
        node.ensure(&[]).await.unwrap();
        let (host, pod) = (&node.topology.node, node.container(0));
        guard::ensure(host).await.unwrap();
        masquerade(host);
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{PORT} {PORT}"))).unwrap();
        let listener = listen(&node.agent);
        let forwarded = connect_from(&node.topology.pods[0], PORT, substitute.parse().unwrap());
        let own = std::thread::scope(|scope| {
            let request = scope.spawn(|| request_in(&pod, host, service.parse().unwrap()));
            if forwarded.is_ok() {
                block_until("the connection of the pod", || run(host, "ss -Htn").contains(&format!(":{PORT} ")));
            }
            serve(listener, node.finder());
            request.join().unwrap()
        });
        let mut stolen = String::new();
        if let Ok(mut forwarded) = forwarded {
            drop(forwarded.read_to_string(&mut stolen));
        }
        assert_eq!((stolen.as_str(), own.as_str()), ("", UIDS[0]), "{substitute}");
    }
}

/// Services can have endpoints at the addresses of the link.
#[tokio::test]
async fn forwarded_connection_with_a_replaced_destination_reaches_no_address_of_the_link() {
    let mut node = Node::new().await;
    node.ensure(&[]).await.unwrap();
    let host = &node.topology.node;
    guard::ensure(host).await.unwrap();
    masquerade(host);
    for (family, (substitute, _), cluster_ip) in
        [("ip", SUBSTITUTES[0], "10.96.0.9"), ("ip6", SUBSTITUTES[1], "fd01:9::9")]
    {
        let rule = format!("{family} daddr {cluster_ip} dnat to {substitute}");
        let chain = format!("type nat hook prerouting priority -100; {rule};");
        nft(host, &format!("table {family} services {{ chain in {{ {chain} }}; }}"));
        let result = request(&node.topology.pods[0], cluster_ip.parse().unwrap());
        assert!(result.is_err(), "{cluster_ip}: {result:?}");
    }
}
