//! The uplink guard without the redirection: pods on the host network, and pods whose packets keep their socket on the way
//! to the uplink.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use podmeta_link::guard::uplink::cgroups::{self, CgroupUpdate, ExemptPods};
use podmeta_link::guard::uplink::{Hook, UplinkGuard};
use podmeta_link::netns::Netns;
use podmeta_link::service;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindingKind;
use podmeta_metadata::node_guard::NodeGuardState;

use crate::bpf_pins::Pins;
use crate::cgroup_root::CgroupRoot;
use crate::daemon::{Daemon, REPAIR_TIME, runtime_socket};
use crate::kit::{Agent, block_until, pod, request, run, wait_until};
use crate::node::{REAL, Topology};
use crate::routing::{route_by_default, set_up};
use crate::runtime::{FakeRuntime, FakeSandbox};

fn uid(n: usize) -> PodUid {
    PodUid::try_from(format!("uid-{n}")).unwrap()
}

/// Returns the response to a process in a cgroup, which is empty if its packets are dropped.
pub(crate) fn request_in(cgroup: &Path, from: &Netns, address: IpAddr) -> String {
    let script = r#"echo $$ > "$0/cgroup.procs" && exec timeout 2 bash -c "cat < /dev/tcp/$1/80""#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(cgroup).arg(address.to_string());
    String::from_utf8(from.run(|| command.output()).unwrap().stdout).unwrap()
}

/// Writes the cgroups below a root, with these exempt pods.
fn update(pins: &Pins, root: &CgroupRoot, exempt: &[&PodUid]) -> CgroupUpdate {
    let exempt = exempt.iter().copied().collect::<BTreeSet<_>>();
    cgroups::update(&pins.path, &root.0, ExemptPods::All(&exempt))
}

#[tokio::test]
async fn pod_on_the_host_network_is_dropped_unless_it_is_exempt() {
    for hook in [Hook::Best, Hook::Clsact] {
        let topology = Topology::new(0);
        let (pins, root, node) = (Pins::new(), CgroupRoot::new(), &topology.node);
        UplinkGuard::with_hook(pins.path.clone(), hook).ensure(node).await.unwrap();
        let (pod, exempt) = (root.pod(&uid(1)), root.pod(&uid(2)));
        for address in service::addresses() {
            assert_eq!(request_in(&pod, node, address), REAL, "{address}: the cgroups are not known yet");
        }
        assert!(update(&pins, &root, &[&uid(2)]).pods.unwrap());
        for address in service::addresses() {
            assert_eq!(request_in(&pod, node, address), "", "{hook:?} {address}");
            assert_eq!(request_in(&exempt, node, address), REAL, "{hook:?} {address}");
            assert_eq!(request(node, address).unwrap(), REAL, "{address}: a process outside the cgroup of pods");
        }
    }
}

#[tokio::test]
async fn exemption_follows_the_cgroup_of_the_pod() {
    let topology = Topology::new(0);
    let (pins, root, node) = (Pins::new(), CgroupRoot::new(), &topology.node);
    pins.guard().ensure(node).await.unwrap();
    let (pod, exempt) = (root.pod(&uid(1)), root.pod(&uid(2)));
    update(&pins, &root, &[&uid(2)]).exempt.unwrap();
    let ipv6 = service::ipv6()[0].into();
    // A cgroup that was created again is another one until the next check.
    block_until("the cgroup is removed", || std::fs::remove_dir(&exempt).is_ok());
    root.pod(&uid(2));
    assert_eq!(request_in(&exempt, node, ipv6), "");
    update(&pins, &root, &[&uid(2)]).exempt.unwrap();
    assert_eq!(request_in(&exempt, node, ipv6), REAL);
    let unknown = cgroups::update(&pins.path, &root.0, ExemptPods::Known(&BTreeSet::new()));
    unknown.exempt.unwrap();
    assert_eq!(request_in(&exempt, node, ipv6), REAL, "the exempt pods are not all known");
    update(&pins, &root, &[]).exempt.unwrap();
    assert_eq!(request_in(&exempt, node, ipv6), "");
    let missing = update(&pins, &root, &[&uid(3)]).exempt.unwrap_err();
    assert!(missing.to_string().contains("uid-3 has no cgroup"), "{missing}");
    assert!(!update(&pins, &CgroupRoot::new(), &[]).pods.unwrap(), "no cgroup contains pods");
    assert_eq!(request_in(&pod, node, ipv6), "", "the known cgroup stays");
}

#[tokio::test]
async fn all_of_500_exempt_pods_are_exempt() {
    let topology = Topology::new(0);
    let (pins, root, node) = (Pins::new(), CgroupRoot::new(), &topology.node);
    pins.guard().ensure(node).await.unwrap();
    let uids = (0..500).map(uid).collect::<Vec<_>>();
    let paths = uids.iter().map(|uid| root.pod(uid)).collect::<Vec<_>>();
    update(&pins, &root, &uids.iter().collect::<Vec<_>>()).exempt.unwrap();
    for path in [&paths[0], &paths[499]] {
        assert_eq!(request_in(path, node, service::ipv4()[0].into()), REAL, "{}", path.display());
    }
}

/// Another program, which passes the packets of pods, repeatedly attaches itself before the guard's program.
#[tokio::test]
async fn no_packet_passes_while_the_program_moves_to_the_front() {
    let topology = Topology::new(0);
    let (ours, another, root, node) = (Pins::new(), Pins::new(), CgroupRoot::new(), &topology.node);
    let (mut guard, mut another) = (ours.guard(), another.guard());
    guard.ensure(node).await.unwrap();
    let pod = root.pod(&uid(1));
    assert!(update(&ours, &root, &[]).pods.unwrap());
    count_connections(node, "output");
    count_connections(&topology.cloud, "input");
    let _client = Client::start(&pod, node);
    block_until("the pod sends", || connections(node) > 1_000);
    let before = connections(node);
    for _ in 0..20 {
        another.ensure(node).await.unwrap();
        assert!(guard.ensure(node).await.unwrap().repaired > 0);
    }
    assert!(connections(node) > before, "the pod no longer sends");
    assert_eq!(connections(&topology.cloud), 0, "of {}", connections(node));
}

/// Counts the first packets of connections to IPv4 addresses at a hook.
fn count_connections(namespace: &Netns, hook: &str) {
    for command in [
        "nft add table ip count".to_owned(),
        format!("nft add chain ip count connections {{ type filter hook {hook} priority 0; }}"),
        "nft add rule ip count connections tcp flags & (syn|ack) == syn counter".to_owned(),
    ] {
        run(namespace, &command);
    }
}

fn connections(namespace: &Netns) -> u64 {
    let chain = run(namespace, "nft list chain ip count connections");
    let packets = chain.split_once("counter packets ").unwrap().1;
    packets.split(' ').next().unwrap().parse().unwrap()
}

/// A process in a cgroup that opens thousands of connections a second, killed on drop.
struct Client(Child);

impl Client {
    fn start(cgroup: &Path, from: &Netns) -> Self {
        let script = r#"echo $$ > "$0/cgroup.procs" &&
            exec curl --no-progress-meter --output /dev/null --parallel --parallel-max 50 --max-time 0.005 "http://$1/[1-10000000]""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(cgroup).arg(service::ipv4()[0].to_string()).stderr(Stdio::null());
        Self(from.run(|| command.spawn()).unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A socket of a process outside pods, in the namespace of a pod, is not one of the node.
#[tokio::test]
async fn socket_of_another_namespace_is_dropped() {
    let topology = Topology::new(1);
    let (pins, root) = (Pins::new(), CgroupRoot::with_pods());
    bypass_stack(&topology);
    let outside = root.0.join("outside");
    std::fs::create_dir(&outside).unwrap();
    for address in service::addresses() {
        assert_eq!(request_in(&outside, &topology.pods[0], address), REAL, "{address}: without the guard");
    }
    pins.guard().ensure(&topology.node).await.unwrap();
    update(&pins, &root, &[]).exempt.unwrap();
    for address in service::addresses() {
        assert_eq!(request_in(&outside, &topology.pods[0], address), "", "{address}");
        assert_eq!(request_in(&outside, &topology.node, address), REAL, "{address}: the node");
    }
}

/// Redirects packets of a pod to the service addresses from its interface to the uplink, as an eBPF datapath does.
fn bypass_stack(topology: &Topology) {
    let (node, pod) = (&topology.node, &topology.pods[0]);
    run(node, "tc qdisc add dev pod0 clsact");
    for address in service::addresses() {
        let (ip, match_ip, gateway, router) = match address {
            IpAddr::V4(_) => ("ip", "ip", "10.0.1.2", "10.0.2.1"),
            IpAddr::V6(_) => ("ipv6", "ip6", "fd01:1::2", "fd01:2::1"),
        };
        // The node resolves the gateway. The pod sends to the gateway's MAC address.
        assert_eq!(request(node, address).unwrap(), REAL);
        let neighbour = run(node, &format!("ip neigh show {gateway} dev up0"));
        let mac = neighbour.split_whitespace().nth(2).unwrap();
        run(pod, &format!("ip neigh replace {router} lladdr {mac} dev eth0"));
        let length = if address.is_ipv4() { 32 } else { 128 };
        let matched = format!("u32 match {match_ip} dst {address}/{length}");
        let priority = if address.is_ipv4() { 1 } else { 2 };
        run(
            node,
            &format!(
                "tc filter add dev pod0 ingress protocol {ip} prio {priority} {matched} action mirred egress redirect dev up0"
            ),
        );
    }
}

#[tokio::test]
async fn packet_that_bypasses_the_network_stack_with_its_socket_is_dropped() {
    let topology = Topology::new(1);
    let (pins, root, pod) = (Pins::new(), CgroupRoot::new(), &topology.pods[0]);
    podmeta_link::guard::ensure(&topology.node).await.unwrap();
    bypass_stack(&topology);
    let cgroup = root.pod(&uid(1));
    for address in service::addresses() {
        assert_eq!(request_in(&cgroup, pod, address), REAL, "{address}: the packet bypasses the other guards");
    }
    pins.guard().ensure(&topology.node).await.unwrap();
    assert!(update(&pins, &root, &[]).pods.unwrap());
    for address in service::addresses() {
        assert_eq!(request_in(&cgroup, pod, address), "", "{address}");
    }
}

#[tokio::test]
async fn packet_of_a_macvlan_interface_on_the_uplink_is_dropped() {
    let topology = Topology::new(0);
    let (pins, root, pod) = (Pins::new(), CgroupRoot::new(), pod());
    podmeta_link::guard::ensure(&topology.node).await.unwrap();
    let netns = format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd());
    run(&topology.node, &format!("ip link add link up0 name eth0 netns {netns} type macvlan mode bridge"));
    set_up(&pod, "eth0", 1, 9);
    route_by_default(&pod, 1, 2);
    let cgroup = root.pod(&uid(1));
    for address in service::addresses() {
        assert_eq!(request_in(&cgroup, &pod, address), REAL, "{address}: the packet bypasses the other guards");
    }
    pins.guard().ensure(&topology.node).await.unwrap();
    assert!(update(&pins, &root, &[]).pods.unwrap());
    for address in service::addresses() {
        assert_eq!(request_in(&cgroup, &pod, address), "", "{address}");
    }
}

#[tokio::test]
async fn daemon_exempts_pods_of_the_listed_namespaces() {
    let agent = Agent::new().await;
    let runtime = FakeRuntime { sandboxes: vec![FakeSandbox::host(1)], ..FakeRuntime::default() };
    let runtime = runtime.serve(&runtime_socket(&agent));
    let Topology { node, cloud: _cloud, .. } = Topology::new(0);
    let root = CgroupRoot::new();
    let (exempt, pod) = (root.pod(&uid(1)), root.pod(&uid(2)));
    let daemon = Daemon::start_on(agent, node, root).await;
    let ipv4 = service::ipv4()[0].into();
    let node = &daemon.node;
    wait_until("a pod without an exempt sandbox is dropped", || request_in(&pod, node, ipv4).is_empty()).await;
    assert_eq!(request_in(&exempt, node, ipv4), REAL);
    runtime.lock().unwrap().sandboxes.clear();
    wait_until("a pod that has ended is not exempt", || request_in(&exempt, node, ipv4).is_empty()).await;
}

#[tokio::test]
async fn new_pod_of_an_exempt_namespace_is_exempt_within_a_second_of_its_container() {
    let agent = Agent::new().await;
    let runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let Topology { node, cloud: _cloud, .. } = Topology::new(0);
    let root = CgroupRoot::with_pods();
    let daemon = Daemon::start_on(agent, node, root).await;
    wait_until("the daemon is ready", || daemon.is_ready()).await;
    let exempt = daemon.cgroups.pod(&uid(1));
    let lists = || runtime.lock().unwrap().list_calls;
    let before = lists();
    wait_until("the pod's cgroup is watched", || lists() > before).await;
    runtime.lock().unwrap().sandboxes.push(FakeSandbox::host(1));
    std::fs::create_dir(exempt.join("container")).unwrap();
    // TCP sends the first packet again after a second.
    assert_eq!(request_in(&exempt, &daemon.node, service::ipv4()[0].into()), REAL);
}

#[tokio::test]
async fn pod_of_an_exempt_namespace_with_a_network_of_its_own_is_not_exempt() {
    let agent = Agent::new().await;
    let pod = FakeSandbox { netns: Some("/run/netns/none".into()), ..FakeSandbox::host(1) };
    let runtime = FakeRuntime { sandboxes: vec![pod, FakeSandbox::host(2)], ..FakeRuntime::default() };
    let _runtime = runtime.serve(&runtime_socket(&agent));
    let Topology { node, cloud: _cloud, .. } = Topology::new(0);
    let root = CgroupRoot::new();
    let (not_exempt, exempt) = (root.pod(&uid(1)), root.pod(&uid(2)));
    let daemon = Daemon::start_on(agent, node, root).await;
    let ipv4 = service::ipv4()[0].into();
    wait_until("the cgroups are written", || request_in(&not_exempt, &daemon.node, ipv4).is_empty()).await;
    assert_eq!(request_in(&exempt, &daemon.node, ipv4), REAL);
}

#[tokio::test]
async fn new_interface_is_guarded_within_a_second_and_a_node_without_a_cgroup_of_pods_is_not_guarded() {
    let agent = Agent::new().await;
    let _runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let daemon = Daemon::start_on(agent, pod(), CgroupRoot::new()).await;
    let finding = || daemon.findings.snapshot().get(&NodeFindingKind::HostNetwork).cloned();
    let state = || daemon.checks.state(Instant::now());
    let start = Instant::now();
    run(&daemon.node, "ip link add up0 type veth peer name up1");
    wait_until("the programs are attached", || daemon.pins.links().len() == 2).await;
    assert!(start.elapsed() < REPAIR_TIME, "{:?}", start.elapsed());
    assert_eq!(daemon.counters.snapshot().programs_repaired, 0, "a new interface does not count as a repair");
    wait_until("the finding", || finding().is_some()).await;
    assert!(finding().unwrap().contains("default cgroup root"), "{:?}", finding());
    wait_until("the node is not guarded", || matches!(state(), NodeGuardState::GuardsMissing { .. })).await;
    daemon.cgroups.pod(&uid(1));
    wait_until("the cgroup is found", || finding().is_none()).await;
    wait_until("the node is guarded", || state() == NodeGuardState::InPlace).await;
}

#[tokio::test]
async fn node_without_the_filesystem_of_the_guard_is_not_guarded() {
    let agent = Agent::new().await;
    let _runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let daemon = Daemon::start_on(agent, pod(), CgroupRoot::with_pods()).await;
    let state = || daemon.checks.state(Instant::now());
    wait_until("the node is guarded", || state() == NodeGuardState::InPlace).await;
    run(&daemon.node, &format!("umount {}", daemon.pins.path.display()));
    run(&daemon.node, "ip link add up0 type veth peer name up1");
    wait_until("the node is not guarded", || matches!(state(), NodeGuardState::GuardsMissing { .. })).await;
    assert!(daemon.findings.snapshot().contains_key(&NodeFindingKind::UplinkGuard));
}
