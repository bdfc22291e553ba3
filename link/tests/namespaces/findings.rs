//! Findings of the daemon about its node.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use podmeta_link::cni::conflist::FILE_NAME;
use podmeta_link::requirements;
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use podmeta_metadata::node_guard::NodeGuardState;

use crate::daemon::with_silent_runtime;
use crate::kit::{pod, table, wait_until};

const CONFLIST: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;

#[tokio::test]
async fn node_of_the_tests_meets_all_requirements() {
    assert_eq!(requirements::check(&requirements::read(&pod())), NodeFindings::new());
}

#[tokio::test]
async fn findings_about_the_cni_directory_follow_its_files() {
    let (daemon, _runtime) = with_silent_runtime().await;
    let has = |kinds: &[NodeFindingKind]| daemon.findings.snapshot().keys().eq(kinds);
    wait_until("no configuration is a finding", || has(&[NodeFindingKind::CniConfig])).await;
    std::fs::write(daemon.cni.join("10-pods.conflist"), CONFLIST).unwrap();
    wait_until("a valid configuration gives no finding", || has(&[])).await;
    let first = daemon.cni.join("00-multus.conf");
    std::fs::write(&first, r#"{"name":"m","type":"multus"}"#).unwrap();
    wait_until("a configuration that sorts before is a finding", || has(&[NodeFindingKind::CniOrder])).await;
    let findings = daemon.findings.snapshot();
    assert!(findings[&NodeFindingKind::CniOrder].contains("00-multus.conf"), "{findings:?}");
    std::fs::rename(first, daemon.cni.join("20-multus.conf")).unwrap();
    wait_until("a renamed configuration gives no finding", || has(&[])).await;
    assert!(daemon.cni.join(FILE_NAME).exists());
}

/// The kernel rejects changes of a table that another process owns. The table disappears with that process.
#[tokio::test]
async fn guards_that_cannot_be_added_are_a_finding_until_they_are() {
    let (daemon, _runtime) = with_silent_runtime().await;
    let guards = || daemon.findings.snapshot().get(&NodeFindingKind::Guards).cloned();
    assert_eq!(guards(), None);
    let start = || Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut owner = daemon.node.run(start).unwrap();
    let commands = "delete table inet podmeta; add table inet podmeta { flags owner; }\n";
    owner.stdin.as_mut().unwrap().write_all(commands.as_bytes()).unwrap();
    wait_until("the failure is a finding", || guards().is_some()).await;
    let message = guards().unwrap();
    assert!(message.contains("nftables table") && message.contains("not permitted"), "{message}");
    assert_eq!(daemon.checks.state(Instant::now()), NodeGuardState::GuardsMissing { message });
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the guards are added again", || guards().is_none()).await;
    assert_eq!(daemon.checks.state(Instant::now()), NodeGuardState::Starting, "the links were not checked");
    assert!(table(&daemon.node, "podmeta").contains("169.254.169.254"));
}
