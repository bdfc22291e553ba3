//! The guard of the uplinks, without the other two guards.

use std::path::PathBuf;
use std::time::Duration;

use podmeta_link::guard::uplink::{self, UplinkGuard};
use podmeta_link::netns::Netns;
use podmeta_link::service;

use crate::kit::{pod, request, run};
use crate::node::{REAL, Topology};
use crate::routing::{connect, route_by_default, set_up};

/// A bpf filesystem at a path of its own, removed on drop.
pub(crate) struct Pins {
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Pins {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bpf");
        uplink::mount(&path).unwrap();
        Self { path, _directory: directory }
    }

    pub(crate) fn guard(&self) -> UplinkGuard {
        UplinkGuard::new(self.path.clone())
    }

    /// Returns the names of the pinned links.
    pub(crate) fn links(&self) -> Vec<String> {
        let names =
            std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut links = names.filter(|name| name.starts_with("uplink-")).collect::<Vec<_>>();
        links.sort();
        links
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        uplink::remove(&self.path).unwrap();
    }
}

/// Returns the name of the pinned link of an interface.
fn link_of(node: &Netns, interface: &str) -> String {
    let index = run(node, &format!("ip -o link show {interface}"));
    format!("uplink-{}", index.split(':').next().unwrap())
}

fn assert_pods_are_open(topology: &Topology, case: &str) {
    for address in service::addresses() {
        for pod in &topology.pods {
            assert_eq!(request(pod, address).unwrap(), REAL, "{case}: a pod does not reach {address}");
        }
    }
}

/// The program has no open descriptor after `ensure`, as after the end of a daemon.
#[tokio::test]
async fn forwarded_packets_are_dropped_and_the_node_passes_until_the_removal() {
    let topology = Topology::new(1);
    let pins = Pins::new();
    assert_pods_are_open(&topology, "without a guard");
    assert_eq!(pins.guard().ensure(&topology.node).await.unwrap(), 1);
    topology.assert_pods_are_closed_and_node_is_open("uplink guard only");
    let mut guard = pins.guard();
    assert_eq!(guard.ensure(&topology.node).await.unwrap(), 0, "another daemon of the same version");
    assert_eq!(guard.ensure(&topology.node).await.unwrap(), 0);
    uplink::remove(&pins.path).unwrap();
    assert!(!pins.path.exists());
    assert_pods_are_open(&topology, "after the removal");
    uplink::remove(&pins.path).unwrap();
}

#[tokio::test]
async fn udp_to_a_service_address_passes() {
    let topology = Topology::new(1);
    let pins = Pins::new();
    pins.guard().ensure(&topology.node).await.unwrap();
    for address in service::addresses() {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Nothing listens: the response is an ICMP error.
        let result = topology.pods[0].run(|| {
            let socket = std::net::UdpSocket::bind(any)?;
            socket.connect((address, 53))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send(b"query")?;
            Ok(socket.recv(&mut [0; 16]).unwrap_err().kind())
        });
        assert_eq!(result.unwrap(), std::io::ErrorKind::ConnectionRefused, "{address}");
    }
}

#[tokio::test]
async fn uplinks_follow_the_routes_of_all_tables() {
    let topology = Topology::new(0);
    let (node, pins) = (&topology.node, Pins::new());
    let mut guard = pins.guard();
    guard.ensure(node).await.unwrap();
    let first = link_of(node, "up0");
    assert_eq!(pins.links(), [first.as_str()]);
    let other = pod();
    connect(node, "up1", &other, "eth0");
    set_up(node, "up1", 7, 1);
    assert_eq!(guard.ensure(node).await.unwrap(), 0, "an interface without such a route is not an uplink");
    for route in ["default via 10.0.7.2 table 77", "169.254.169.254 dev up1", "-6 default via fd01:7::2 table 78"] {
        run(node, "ip link del up1");
        connect(node, "up1", &other, "eth0");
        set_up(node, "up1", 7, 1);
        assert_eq!(guard.ensure(node).await.unwrap(), 0, "{route}: the former interface is deleted");
        assert_eq!(pins.links(), [first.as_str()], "{route}");
        let (family, route) = route.strip_prefix("-6 ").map_or(("-4", route), |route| ("-6", route));
        run(node, &format!("ip {family} route add {route}"));
        assert_eq!(guard.ensure(node).await.unwrap(), 1, "{route}");
        assert_eq!(pins.links().len(), 2, "{route}");
        assert!(pins.links().contains(&link_of(node, "up1")), "{route}");
    }
}

#[tokio::test]
async fn program_stays_attached_while_the_routes_are_deleted() {
    let topology = Topology::new(1);
    let (node, pins) = (&topology.node, Pins::new());
    let mut guard = pins.guard();
    guard.ensure(node).await.unwrap();
    let links = pins.links();
    for family in ["-4", "-6"] {
        run(node, &format!("ip {family} route del default"));
    }
    assert_eq!(guard.ensure(node).await.unwrap(), 0);
    assert_eq!(pins.links(), links, "without routes");
    route_by_default(node, 1, 2);
    topology.assert_pods_are_closed_and_node_is_open("before the next check");
    assert_eq!(guard.ensure(node).await.unwrap(), 0);
    assert_eq!(pins.links(), links);
}

#[tokio::test]
async fn new_interface_with_the_index_of_a_deleted_uplink_is_guarded() {
    let topology = Topology::new(0);
    let (node, pins) = (&topology.node, Pins::new());
    let mut guard = pins.guard();
    let route = || {
        run(node, "ip link add up1 index 77 up type veth");
        run(node, "ip link set up1 up");
        run(node, "ip route add default dev up1 table 77");
    };
    route();
    assert_eq!(guard.ensure(node).await.unwrap(), 2);
    run(node, "ip link del up1");
    route();
    assert_eq!(guard.ensure(node).await.unwrap(), 1);
    assert_eq!(guard.ensure(node).await.unwrap(), 0);
}

/// Two guards with pins of their own stand for two programs that know nothing of each other.
#[tokio::test]
async fn program_of_another_stays_on_the_interface() {
    let topology = Topology::new(1);
    let (ours, another) = (Pins::new(), Pins::new());
    assert_eq!(another.guard().ensure(&topology.node).await.unwrap(), 1);
    assert_eq!(ours.guard().ensure(&topology.node).await.unwrap(), 1);
    uplink::remove(&ours.path).unwrap();
    topology.assert_pods_are_closed_and_node_is_open("the other program only");
    assert_eq!(another.guard().ensure(&topology.node).await.unwrap(), 0);
}

#[tokio::test]
async fn missing_filesystem_is_an_error_with_its_remedy() {
    let node = pod();
    let directory = tempfile::tempdir().unwrap();
    let error = UplinkGuard::new(directory.path().to_owned()).ensure(&node).await.unwrap_err();
    assert!(format!("{error:#}").contains("restart the pod of the link daemon"), "{error:#}");
}

#[tokio::test]
async fn removal_of_a_path_that_is_no_mount_point_is_an_error() {
    let pins = Pins::new();
    let path = pins.path.join("below");
    std::fs::create_dir(&path).unwrap();
    let removed = {
        let path = path.clone();
        tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(move || uplink::remove(&path)))
    };
    let error = removed.await.unwrap().unwrap().unwrap_err();
    std::fs::remove_dir(&path).unwrap();
    let text = format!("{error:#}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("not its mount point"), "{text}");
}
