//! Links that the daemon makes for running pods.

use std::time::Instant;

use podmeta_link::agent_ns;
use podmeta_link::counters::CounterSnapshot;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;
use podmeta_metadata::node_guard::NodeGuardState;

use crate::daemon::{Daemon, runtime_socket};
use crate::kit::{Agent, alias, interface_of, pinned_pod, request, run, wait_until};
use crate::runtime::{FakeRuntime, FakeSandbox};

#[tokio::test]
async fn running_pods_get_complete_links_and_a_removed_link_is_made_again() {
    let agent = Agent::new().await;
    agent.serve();
    let [(unlinked, unlinked_path), (incomplete, incomplete_path)] =
        ["pod0", "pod1"].map(|name| pinned_pod(&agent, name));
    // Simulates an incomplete link: the alias exists, a route is missing.
    pod_link::ensure(&agent.netns, &incomplete, &alias(1), LinkRange::default()).await.unwrap();
    run(&incomplete, "ip route del 169.254.169.254");
    let sandbox = |n, netns| FakeSandbox { netns, ..FakeSandbox::host(n) };
    let invalid_path = agent.path.with_file_name("missing");
    let sandboxes = vec![
        sandbox(0, Some(unlinked_path.0.clone())),
        sandbox(1, Some(incomplete_path.0.clone())),
        sandbox(2, None),
        sandbox(3, Some(invalid_path)),
    ];
    let runtime = FakeRuntime { sandboxes, ..FakeRuntime::default() }.serve(&runtime_socket(&agent));
    let daemon = Daemon::start(agent).await;
    wait_until("the daemon is ready", || daemon.is_ready()).await;
    let counters = daemon.counters.snapshot();
    // The daemon is ready after the second attempt for the pod whose link cannot be made.
    assert_eq!((counters.links_made, counters.links_failed), (2, 2));
    for address in service::addresses() {
        for (n, pod) in [&unlinked, &incomplete].into_iter().enumerate() {
            assert_eq!(request(pod, address).unwrap(), interface_of(&daemon.agent, n), "pod {n}, {address}");
        }
    }
    run(&unlinked, "ip link del imds0");
    wait_until("the link is made again", || daemon.counters.snapshot().links_made == 3).await;
    for address in service::addresses() {
        assert_eq!(request(&unlinked, address).unwrap(), interface_of(&daemon.agent, 0), "{address}");
    }
    let unlinked = NodeGuardState::LinksMissing { count: 1, pods: vec!["shop/pod3".to_owned()] };
    wait_until("the pod without a link is in the state", || daemon.checks.state(Instant::now()) == unlinked).await;
    let runtime = runtime.lock().unwrap();
    let calls = |n| runtime.status_calls[&format!("sandbox{n}")];
    assert!(runtime.list_calls >= 2);
    // The uplink guard calls once for each pod of a namespace in `nodeMetadata.namespaces`, as this one, and the check of
    // devices once for each pod.
    assert_eq!(
        (calls(0), calls(1), calls(2)),
        (4, 3, 3),
        "a linked pod and a pod on the host network need no further call"
    );
    assert!(calls(3) >= 2, "a failure is retried");
}

#[tokio::test]
async fn agent_namespace_that_was_pinned_again_gets_the_links_of_running_pods() {
    let agent = Agent::new().await;
    let (pod, path) = pinned_pod(&agent, "pod0");
    let sandboxes = vec![FakeSandbox { netns: Some(path.0.clone()), ..FakeSandbox::host(0) }];
    FakeRuntime { sandboxes, ..FakeRuntime::default() }.serve(&runtime_socket(&agent));
    let mut daemon = Daemon::start(agent).await;
    wait_until("the daemon is ready", || daemon.is_ready()).await;
    agent_ns::remove(&daemon.agent.path).unwrap();
    // As the plugin does for the next pod.
    daemon.agent.netns = agent_ns::ensure(&daemon.agent.path).await.unwrap();
    daemon.agent.serve();
    // An attempt fails if the kernel removes the old namespace meanwhile. The next one is 5 seconds later.
    let has_tried = |counters: CounterSnapshot| counters.links_made >= 2 || counters.links_failed > 0;
    wait_until("the daemon has tried to make the link", || has_tried(daemon.counters.snapshot())).await;
    wait_until("the link is made again", || daemon.counters.snapshot().links_made >= 2).await;
    for address in service::addresses() {
        assert_eq!(request(&pod, address).unwrap(), interface_of(&daemon.agent, 0), "{address}");
    }
}
