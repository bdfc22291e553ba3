//! Failures of the uplink guard, and what still works then.

use std::collections::BTreeSet;
use std::time::Instant;

use podmeta_link::guard::uplink::cgroups::{self, ExemptPods};
use podmeta_link::service;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindingKind;
use podmeta_metadata::node_guard::NodeGuardState;

use crate::bpf_pins::Pins;
use crate::cgroup_root::CgroupRoot;
use crate::daemon::{Daemon, runtime_socket};
use crate::host_network::request_in;
use crate::kit::{Agent, block_until, nft, run, wait_until};
use crate::node::{REAL, Topology};
use crate::runtime::FakeRuntime;

/// A directory stands for the link of a deleted interface that the kernel does not detach.
#[tokio::test]
async fn link_that_cannot_be_removed_does_not_keep_interfaces_from_being_guarded() {
    let topology = Topology::new(1);
    let pins = Pins::new();
    let (first, last) = (pins.path.join("uplink-99998"), pins.path.join("uplink-99999"));
    for path in [&first, &last] {
        std::fs::create_dir(path).unwrap();
    }
    let result = pins.guard().ensure(&topology.node).await;
    for path in [first, last] {
        std::fs::remove_dir(path).unwrap();
    }
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("2 errors") && error.contains("uplink-9999"), "{error}");
    topology.assert_only_the_node_reaches_the_real_service("with an error");
    assert!(pins.guard().ensure(&topology.node).await.is_ok());
}

/// A pinned link in place of the map of cgroups makes the kernel reject the program.
#[tokio::test]
async fn node_whose_kernel_rejects_the_program_has_a_finding_and_keeps_the_other_guards() {
    let agent = Agent::new().await;
    let _runtime = FakeRuntime::default().serve(&runtime_socket(&agent));
    let Topology { node, cloud: _cloud, .. } = Topology::new(0);
    let daemon = Daemon::start_on(agent, node, CgroupRoot::with_pods()).await;
    let state = || daemon.checks.state(Instant::now());
    wait_until("the node is guarded", || state() == NodeGuardState::InPlace).await;
    let link = daemon.pins.links().remove(0);
    std::fs::rename(daemon.pins.path.join(link), daemon.pins.path.join("cgroup-ids")).unwrap();
    run(&daemon.node, "ip link add up1 type veth peer name up2");
    let finding = || daemon.findings.snapshot().get(&NodeFindingKind::UplinkGuard).cloned().unwrap_or_default();
    wait_until("the finding", || finding().contains("the kernel rejects the program")).await;
    assert!(finding().contains("can reach the node's metadata service"), "{}", finding());
    assert!(matches!(state(), NodeGuardState::GuardsMissing { .. }), "{:?}", state());
    nft(&daemon.node, "delete table inet podmeta");
    wait_until("the table is added again", || daemon.counters.snapshot().tables_repaired == 1).await;
    std::fs::write(daemon.cni.join("10-pods.conf"), r#"{"name":"pods","cniVersion":"0.3.1","type":"bridge"}"#).unwrap();
    daemon.wait_for_conflist(Instant::now(), "bridge").await;
    assert!(daemon.is_ready());
}

/// As if the container runtime did not report the network of one sandbox, while thousands of exempt pods start and end.
#[tokio::test]
async fn exempt_pods_that_ended_do_not_fill_the_map_while_the_exempt_pods_are_not_all_known() {
    let topology = Topology::new(0);
    let (pins, root, node) = (Pins::new(), CgroupRoot::with_pods(), &topology.node);
    pins.guard().ensure(node).await.unwrap();
    let uid = |n: usize| PodUid::try_from(format!("uid-{n}")).unwrap();
    let update = |exempt: &[PodUid]| {
        let exempt = exempt.iter().collect::<BTreeSet<_>>();
        cgroups::update(&pins.path, &root.0, ExemptPods::Known(&exempt))
    };
    let unknown = root.pod(&uid(0));
    update(&[uid(0)]).exempt.unwrap();
    for round in 0..6_usize {
        let uids = (1..=1000).map(|n| uid(round * 1000 + n)).collect::<Vec<_>>();
        let paths = uids.iter().map(|uid| root.pod(uid)).collect::<Vec<_>>();
        let updated = update(&uids);
        updated.exempt.unwrap();
        assert!(updated.pods.unwrap());
        assert_eq!(request_in(&paths[999], node, service::ipv4()[0].into()), REAL, "round {round}");
        for path in paths {
            block_until("the cgroup is removed", || std::fs::remove_dir(&path).is_ok());
        }
    }
    assert_eq!(request_in(&unknown, node, service::ipv4()[0].into()), REAL, "an existing pod that is not known");
}
