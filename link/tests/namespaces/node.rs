//! A node with pods behind a bridge, and the node's own metadata service behind its uplink.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use podmeta_link::netns::Netns;
use podmeta_link::service::{self, SERVICE_PORT};

use crate::kit::{listener, pod, request, run};
use crate::routing::{connect, route_by_default, set_up};

/// Response of the node's own metadata service.
pub(crate) const REAL: &str = "REAL-IMDS";

/// Pods whose traffic the node forwards to the real service. Pod `n` has the addresses 10.0.2.(`n` + 2) and
/// fd01:2::(`n` + 2) on `eth0`.
pub(crate) struct Topology {
    pub(crate) node: Netns,
    pub(crate) pods: Vec<Netns>,
    pub(crate) cloud: Netns,
}

impl Topology {
    pub(crate) fn new(pods: usize) -> Self {
        let (node, cloud) = (pod(), pod());
        connect(&node, "up0", &cloud, "eth0");
        set_up(&node, "up0", 1, 1);
        set_up(&cloud, "eth0", 1, 2);
        run(&node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        route_by_default(&node, 1, 2);
        route_by_default(&cloud, 1, 1);
        run(&node, "ip link add cni0 type bridge");
        set_up(&node, "cni0", 2, 1);
        let pods = (0..pods).map(|n| {
            let pod = pod();
            connect(&node, &format!("pod{n}"), &pod, "eth0");
            run(&node, &format!("ip link set pod{n} master cni0 up"));
            set_up(&pod, "eth0", 2, n + 2);
            route_by_default(&pod, 2, 1);
            pod
        });
        let pods = pods.collect();
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
        let topology = Self { node, pods, cloud };
        topology.wait_until_reachable();
        topology
    }

    /// Waits until pods and node reach the real service. The kernel activates interfaces some time after their creation, in
    /// particular while it makes many others.
    fn wait_until_reachable(&self) {
        let start = Instant::now();
        for address in service::addresses() {
            for client in self.pods.iter().chain([&self.node]) {
                while let Err(error) = request(client, address) {
                    assert!(start.elapsed() < Duration::from_secs(30), "{address}: {error}");
                }
            }
        }
    }

    /// Asserts that pods get no response from the service addresses, and that the node gets that of the real service.
    pub(crate) fn assert_only_the_node_reaches_the_real_service(&self, case: &str) {
        for address in service::addresses() {
            for pod in &self.pods {
                assert!(request(pod, address).is_err(), "{case}: a pod reaches {address}");
            }
            assert_eq!(request(&self.node, address).unwrap(), REAL, "{case}: the node does not reach {address}");
        }
    }
}
