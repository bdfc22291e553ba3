//! The uplink guard, without the other two guards.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use podmeta_link::guard::uplink::{self, AttachedPrograms, Hook, UplinkGuard};
use podmeta_link::netns::Netns;
use podmeta_link::service;

use crate::bpf_pins::Pins;
use crate::kit::{pod, request, run};
use crate::node::{REAL, Topology};
use crate::routing::{connect, route_by_default, set_up};

/// Returns the name of the pinned link of an interface.
fn link_of(node: &Netns, interface: &str) -> String {
    let index = run(node, &format!("ip -o link show {interface}"));
    format!("uplink-{}", index.split(':').next().unwrap())
}

/// Number of a topology's uplinks: `up0` and the bridge of the pods. The interfaces of pods are not uplinks.
const UPLINKS: usize = 2;

fn attached(new: usize, repaired: usize) -> AttachedPrograms {
    AttachedPrograms { new, repaired }
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
    for hook in [Hook::Best, Hook::Clsact] {
        let topology = Topology::new(1);
        let (node, pins) = (&topology.node, Pins::new());
        assert_pods_are_open(&topology, "without a guard");
        let guard = || UplinkGuard::with_hook(pins.path.clone(), hook);
        assert_eq!(guard().ensure(node).await.unwrap(), attached(UPLINKS, 0), "{hook:?}");
        assert_eq!(pins.links().len(), if hook == Hook::Best { UPLINKS } else { 0 }, "{hook:?}");
        topology.assert_only_the_node_reaches_the_real_service("uplink guard only");
        let mut guard = guard();
        assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 0), "another daemon of the same version");
        assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 0));
        uplink::remove(node, &pins.path).await.unwrap();
        assert!(!pins.path.exists());
        assert_pods_are_open(&topology, "after the removal");
        assert!(!run(node, "tc qdisc show").contains("clsact"), "{hook:?}: a qdisc is left");
        uplink::remove(node, &pins.path).await.unwrap();
    }
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
async fn interface_without_a_route_is_guarded_and_one_of_a_pod_or_of_another_namespace_is_not() {
    let topology = Topology::new(1);
    let (node, pins, other) = (&topology.node, Pins::new(), pod());
    let mut guard = pins.guard();
    guard.ensure(node).await.unwrap();
    for command in [
        "ip link add up1 type veth peer name up2",
        "ip link add bond0 type bond",
        "ip link add tap0 type bridge",
        "ip link add link up0 name vlan7 type vlan id 7",
    ] {
        // A kernel can lack a kind of interface.
        let words = command.split(' ');
        let added = node.run(|| std::process::Command::new("ip").args(words.skip(1)).status()).unwrap();
        if added.success() {
            assert!(guard.ensure(node).await.unwrap().new > 0, "{command}");
        }
    }
    for interface in ["up0", "up1", "up2", "cni0"] {
        assert!(pins.links().contains(&link_of(node, interface)), "{interface}");
    }
    for interface in ["lo", "pod0"] {
        assert!(!pins.links().contains(&link_of(node, interface)), "{interface}");
    }
    let moved = link_of(node, "up2");
    let netns = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
    run(node, &format!("ip link set up2 netns {netns}"));
    guard.ensure(node).await.unwrap();
    assert!(!pins.links().contains(&moved), "an interface of another namespace");
    run(&other, &format!("ip link set up2 netns /proc/{}/fd/{}", std::process::id(), node.as_fd().as_raw_fd()));
    assert_eq!(guard.ensure(node).await.unwrap(), attached(1, 0), "it is back");
}

#[tokio::test]
async fn pair_with_a_route_to_a_service_address_is_guarded() {
    let topology = Topology::new(0);
    let (node, pins, other) = (&topology.node, Pins::new(), pod());
    connect(node, "up1", &other, "eth0");
    set_up(node, "up1", 7, 1);
    assert_eq!(pins.guard().ensure(node).await.unwrap(), attached(UPLINKS, 0), "without such a route");
    for route in ["default via 10.0.7.2 table 77", "169.254.169.254 dev up1", "-6 default via fd01:7::2 table 78"] {
        run(node, "ip link del up1");
        connect(node, "up1", &other, "eth0");
        set_up(node, "up1", 7, 1);
        let (family, route) = route.strip_prefix("-6 ").map_or(("-4", route), |route| ("-6", route));
        run(node, &format!("ip {family} route add {route}"));
        pins.guard().ensure(node).await.unwrap();
        assert!(pins.links().contains(&link_of(node, "up1")), "{route}");
        assert_eq!(pins.links().len(), UPLINKS + 1, "{route}: that of the former interface is removed");
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
    assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 0));
    assert_eq!(pins.guard().ensure(node).await.unwrap(), attached(0, 0), "another daemon");
    assert_eq!(pins.links(), links, "without routes");
    route_by_default(node, 1, 2);
    topology.assert_only_the_node_reaches_the_real_service("before the next check");
}

#[tokio::test]
async fn program_that_another_program_detached_is_a_repair() {
    for hook in [Hook::Best, Hook::Clsact] {
        let topology = Topology::new(1);
        let (node, pins) = (&topology.node, Pins::new());
        // Neighbours are resolved before requests with a timeout.
        assert_pods_are_open(&topology, "without a guard");
        let mut guard = UplinkGuard::with_hook(pins.path.clone(), hook);
        guard.ensure(node).await.unwrap();
        match hook {
            Hook::Best => std::fs::remove_file(pins.path.join(link_of(node, "up0"))).unwrap(),
            Hook::Clsact => drop(run(node, "tc qdisc del dev up0 clsact")),
        }
        // The kernel detaches a link some time after the removal of its pin.
        let (mut repaired, start) = (0, Instant::now());
        while repaired == 0 && start.elapsed() < Duration::from_secs(10) {
            repaired += guard.ensure(node).await.unwrap().repaired;
        }
        assert_eq!(repaired, 1, "{hook:?}");
        topology.assert_only_the_node_reaches_the_real_service("repaired");
    }
}

#[tokio::test]
async fn removed_map_of_cgroups_replaces_all_programs() {
    for hook in [Hook::Best, Hook::Clsact] {
        let topology = Topology::new(0);
        let (node, pins) = (&topology.node, Pins::new());
        let mut guard = UplinkGuard::with_hook(pins.path.clone(), hook);
        guard.ensure(node).await.unwrap();
        std::fs::remove_file(pins.path.join("cgroup-ids")).unwrap();
        assert_eq!(guard.ensure(node).await.unwrap(), attached(0, UPLINKS), "{hook:?}");
        assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 0), "{hook:?}");
    }
}

#[tokio::test]
async fn new_interface_with_the_index_of_a_deleted_one_is_guarded() {
    let topology = Topology::new(0);
    let (node, pins) = (&topology.node, Pins::new());
    let mut guard = pins.guard();
    let add = || run(node, "ip link add up1 index 77 type veth peer name up2 index 78");
    add();
    guard.ensure(node).await.unwrap();
    run(node, "ip link del up1");
    add();
    assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 2));
    assert_eq!(guard.ensure(node).await.unwrap(), attached(0, 0));
}

/// Prints the times of a node with many pods.
#[tokio::test]
async fn thousand_interfaces_of_pods_are_checked_in_less_than_a_second() {
    let topology = Topology::new(0);
    let (node, pins, other) = (&topology.node, Pins::new(), pod());
    let netns = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
    let commands =
        (0..1000).map(|n| format!("link add a{n} type veth peer name b{n} netns {netns}\n")).collect::<String>();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), commands).unwrap();
    run(node, &format!("ip -batch {}", file.path().display()));
    for hook in [Hook::Best, Hook::Clsact] {
        let mut guard = UplinkGuard::with_hook(pins.path.clone(), hook);
        for expected in [attached(UPLINKS, 0), attached(0, 0)] {
            let start = Instant::now();
            assert_eq!(guard.ensure(node).await.unwrap(), expected);
            let time = start.elapsed();
            println!("{hook:?}: {expected:?} in {time:?}");
            assert!(time < Duration::from_secs(1), "{hook:?}: {time:?}");
        }
    }
    uplink::detach_all(node, &pins.path).await.unwrap();
}

/// Two guards with pins of their own stand for two programs that know nothing of each other.
#[tokio::test]
async fn program_of_another_stays_on_the_interface() {
    let topology = Topology::new(1);
    let (node, ours, another) = (&topology.node, Pins::new(), Pins::new());
    assert_eq!(another.guard().ensure(node).await.unwrap(), attached(UPLINKS, 0));
    assert_eq!(ours.guard().ensure(node).await.unwrap(), attached(UPLINKS, 0));
    uplink::remove(node, &ours.path).await.unwrap();
    topology.assert_only_the_node_reaches_the_real_service("the other program only");
    assert_eq!(another.guard().ensure(node).await.unwrap(), attached(0, 0));
}

#[tokio::test]
async fn program_that_another_precedes_is_moved_to_the_front() {
    let topology = Topology::new(1);
    let (node, ours, another) = (&topology.node, Pins::new(), Pins::new());
    let (mut first, mut second) = (ours.guard(), another.guard());
    assert_eq!(first.ensure(node).await.unwrap(), attached(UPLINKS, 0));
    assert_eq!(second.ensure(node).await.unwrap(), attached(UPLINKS, 0), "it precedes ours");
    assert_eq!(first.ensure(node).await.unwrap(), attached(0, UPLINKS));
    assert_eq!(first.ensure(node).await.unwrap(), attached(0, 0));
    assert_eq!(second.ensure(node).await.unwrap(), attached(0, UPLINKS), "ours preceded it");
    topology.assert_only_the_node_reaches_the_real_service("both programs");
}

/// As after a process that ended before it renamed the pin of a new link.
#[tokio::test]
async fn program_with_only_the_pin_of_a_new_link_is_moved_to_the_front() {
    let topology = Topology::new(1);
    let (node, ours, another) = (&topology.node, Pins::new(), Pins::new());
    ours.guard().ensure(node).await.unwrap();
    let links = ours.links();
    for link in &links {
        std::fs::rename(ours.path.join(link), ours.path.join(format!("{link}-new"))).unwrap();
    }
    another.guard().ensure(node).await.unwrap();
    assert_eq!(ours.guard().ensure(node).await.unwrap(), attached(UPLINKS, 0));
    assert_eq!(ours.links(), links);
    assert_eq!(another.guard().ensure(node).await.unwrap(), attached(UPLINKS, 0), "ours preceded it");
    topology.assert_only_the_node_reaches_the_real_service("both programs");
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
        tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(move || uplink::remove_pins(&path)))
    };
    let error = removed.await.unwrap().unwrap().unwrap_err();
    std::fs::remove_dir(&path).unwrap();
    let text = format!("{error:#}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("not its mount point"), "{text}");
}
