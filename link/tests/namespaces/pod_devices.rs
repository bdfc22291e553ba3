//! Network devices in pods that lead past the guards.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use podmeta_link::netns::Netns;
use podmeta_link::pod_devices::{self, Device, GuardedDevices, PodNamespace};
use podmeta_metadata::node_finding::NodeFindingKind;

use crate::daemon::{Daemon, runtime_socket};
use crate::kit::{Agent, pinned_pod, pod, run, wait_until};
use crate::runtime::{FakeRuntime, FakeSandbox};

fn path_of(netns: &Netns) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd())
}

/// Creates a macvlan device on an interface of the node, and moves it into a pod.
fn add_macvlan(node: &Netns, name: &str, pod: &Netns) {
    run(node, &format!("ip link add link up0 name {name} type macvlan mode bridge"));
    run(node, &format!("ip link set {name} netns {}", path_of(pod)));
}

/// Adds the uplink of a node.
fn add_uplink(node: &Netns) {
    run(node, "ip link add up0 type veth peer name up1");
    run(node, "ip link set up0 up");
}

fn find(node: &Netns, path: &Path, guarded: GuardedDevices) -> Vec<Device> {
    let pod = PodNamespace { pod_name: "shop/web".to_owned(), path: path.to_owned() };
    let mut found: BTreeMap<_, _> = pod_devices::find(node.id().unwrap(), &[pod], guarded);
    found.remove("shop/web").unwrap_or_default()
}

#[tokio::test]
async fn device_on_an_interface_of_the_node_is_found_in_a_pod_and_is_guarded_by_the_uplink_guard() {
    let (agent, node) = (Agent::new().await, pod());
    let (pod, path) = pinned_pod(&agent, "pod");
    add_uplink(&node);
    assert_eq!(find(&node, &path.0, GuardedDevices::None), []);
    add_macvlan(&node, "net1", &pod);
    assert_eq!(find(&node, &path.0, GuardedDevices::None), [Device::Stacked("macvlan".to_owned())]);
    assert_eq!(find(&node, &path.0, GuardedDevices::Stacked), []);
    assert_eq!(find(&pod, &path.0, GuardedDevices::None), [], "a pod in the namespace of the node");
}

#[tokio::test]
async fn interfaces_that_a_pod_creates_for_itself_are_not_found() {
    let (agent, node) = (Agent::new().await, pod());
    let (pod, path) = pinned_pod(&agent, "pod");
    let nested = crate::kit::pod();
    run(&pod, "ip link add link eth0 name own type macvlan mode bridge");
    run(&pod, "ip link add br0 type bridge");
    run(&pod, &format!("ip link add nested0 type veth peer name eth0 netns {}", path_of(&nested)));
    assert_eq!(find(&node, &path.0, GuardedDevices::None), []);
}

#[tokio::test]
async fn pod_with_too_many_interfaces_is_found() {
    let (agent, node) = (Agent::new().await, pod());
    let (pod, path) = pinned_pod(&agent, "pod");
    let commands = (0..500).map(|n| format!("link add a{n} type veth peer name b{n}\n")).collect::<String>();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), commands).unwrap();
    run(&pod, &format!("ip -batch {}", file.path().display()));
    assert_eq!(find(&node, &path.0, GuardedDevices::Stacked), [Device::Unknown]);
}

#[tokio::test]
async fn device_that_is_moved_into_a_pod_is_a_finding_until_it_is_removed() {
    let agent = Agent::new().await;
    let (with_device, path) = pinned_pod(&agent, "pod");
    let (_other, other_path) = pinned_pod(&agent, "other");
    let sandbox = |n, path: &Path| FakeSandbox { netns: Some(path.to_owned()), ..FakeSandbox::host(n) };
    let sandboxes = vec![sandbox(1, &path.0), sandbox(2, &other_path.0), FakeSandbox::host(3)];
    let runtime = FakeRuntime { sandboxes, ..FakeRuntime::default() }.serve(&runtime_socket(&agent));
    let daemon = Daemon::start_without_uplink_guard(agent).await;
    let finding = || daemon.findings.snapshot().get(&NodeFindingKind::PodDevices).cloned();
    wait_until("the daemon is ready", || daemon.is_ready()).await;
    assert_eq!(finding(), None, "the links of podmeta are no finding");
    add_uplink(&daemon.node);
    add_macvlan(&daemon.node, "net1", &with_device);
    wait_until("the device is a finding", || finding().is_some()).await;
    assert!(finding().unwrap().ends_with("pods: 1 (shop/pod1: macvlan)"), "{:?}", finding());
    run(&with_device, "ip link del net1");
    wait_until("the finding of a removed device ends", || finding().is_none()).await;
    add_macvlan(&daemon.node, "net1", &with_device);
    wait_until("the device is a finding again", || finding().is_some()).await;
    runtime.lock().unwrap().sandboxes.remove(0);
    wait_until("the finding of an ended pod ends", || finding().is_none()).await;
}
