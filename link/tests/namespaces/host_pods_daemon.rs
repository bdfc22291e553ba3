//! The link daemon with the redirection of pods on the host network.

use std::time::Instant;

use podmeta_link::host_pods::identity::HostPodFinder;
use podmeta_link::service;
use podmeta_metadata::node_finding::NodeFindingKind;
use podmeta_metadata::node_guard::NodeGuardState;

use crate::cgroup_root::CgroupRoot;
use crate::daemon::{Daemon, REPAIR_TIME, runtime_socket};
use crate::host_network::request_in;
use crate::host_pods::{UIDS, listen, open, serve, uid};
use crate::kit::{Agent, wait_until};
use crate::node::{REAL, Topology};
use crate::runtime::{FakeRuntime, FakeSandbox};

#[tokio::test]
async fn daemon_redirects_pods_except_those_of_listed_namespaces_and_those_that_the_agent_reports() {
    let agent = Agent::new().await;
    let sandbox = FakeSandbox { uid: UIDS[0].to_owned(), ..FakeSandbox::host(0) };
    let runtime = FakeRuntime { sandboxes: vec![sandbox], ..FakeRuntime::default() };
    let _runtime = runtime.serve(&runtime_socket(&agent));
    let (topology, cgroups) = (Topology::new(0), CgroupRoot::with_pods());
    serve(listen(&agent), HostPodFinder::new(open(&topology.node), cgroups.0.clone()));
    let Topology { node, cloud: _cloud, .. } = topology;
    let [exempt, pod] = [0, 1].map(|n| cgroups.pod(&uid(n)));
    let daemon = Daemon::start_redirecting(agent, node, cgroups).await;
    let address = service::addresses()[0];
    wait_until("the redirection", || request_in(&pod, &daemon.node, address) == UIDS[1]).await;
    assert_eq!(request_in(&exempt, &daemon.node, address), REAL);
    assert_eq!(daemon.findings.snapshot().get(&NodeFindingKind::HostPods), None);
    daemon.node_pods.set([uid(1)].into());
    wait_until("the exemption", || request_in(&pod, &daemon.node, address) == REAL).await;
    daemon.node_pods.set([].into());
    wait_until("the end of the exemption", || request_in(&pod, &daemon.node, address) == UIDS[1]).await;
}

#[tokio::test]
async fn new_pod_of_a_listed_namespace_is_exempt_within_a_second_of_its_container() {
    let agent = Agent::new().await;
    let runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let (topology, cgroups) = (Topology::new(0), CgroupRoot::with_pods());
    serve(listen(&agent), HostPodFinder::new(open(&topology.node), cgroups.0.clone()));
    let Topology { node, cloud: _cloud, .. } = topology;
    let (pod, address) = (cgroups.pod(&uid(0)), service::addresses()[0]);
    let daemon = Daemon::start_redirecting(agent, node, cgroups).await;
    wait_until("the redirection", || request_in(&pod, &daemon.node, address) == UIDS[0]).await;
    runtime.lock().unwrap().sandboxes.push(FakeSandbox { uid: UIDS[0].to_owned(), ..FakeSandbox::host(0) });
    let start = Instant::now();
    std::fs::create_dir(pod.join("container")).unwrap();
    wait_until("the exemption", || request_in(&pod, &daemon.node, address) == REAL).await;
    assert!(start.elapsed() < REPAIR_TIME, "{:?}", start.elapsed());
}

/// The uplink guard is on too. The new daemon does not know the pods until the agent reports them.
#[tokio::test]
async fn reported_pod_stays_exempt_after_a_restart_of_the_daemon_until_the_next_report() {
    let agent = Agent::new().await;
    let _runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let (topology, cgroups) = (Topology::new(0), CgroupRoot::with_pods());
    serve(listen(&agent), HostPodFinder::new(open(&topology.node), cgroups.0.clone()));
    let Topology { node, cloud: _cloud, .. } = topology;
    let pod = cgroups.pod(&uid(0));
    let mut daemon = Daemon::start_redirecting(agent, node, cgroups).await;
    let address = service::addresses()[0];
    wait_until("the redirection", || request_in(&pod, &daemon.node, address) == UIDS[0]).await;
    daemon.node_pods.set([uid(0)].into());
    wait_until("the exemption", || request_in(&pod, &daemon.node, address) == REAL).await;
    daemon.restart();
    wait_until("the first checks", || daemon.checks.state(Instant::now()) == NodeGuardState::InPlace).await;
    assert_eq!(request_in(&pod, &daemon.node, address), REAL);
    daemon.node_pods.set([].into());
    wait_until("the end of the exemption", || request_in(&pod, &daemon.node, address) == UIDS[0]).await;
}
