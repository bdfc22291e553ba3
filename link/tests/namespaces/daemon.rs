//! The link daemon on a node that the test creates.

mod process;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podmeta_link::cni::conflist::{FILE_NAME, LinkSettings};
use podmeta_link::daemon::{self, DaemonConfig};

use crate::capabilities;
use crate::kit::{Agent, nft, pod, run, table, wait_until};

pub(crate) use process::{Daemon, runtime_socket};

/// Maximum time of a repair. It is less than the interval of checks without an event.
pub(crate) const REPAIR_TIME: Duration = Duration::from_secs(1);

const CONFLIST: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;
const CONF: &str = r#"{"name":"pods","cniVersion":"0.3.1","type":"bridge"}"#;

/// Starts a daemon whose container runtime accepts connections and never responds.
pub(crate) async fn with_silent_runtime() -> (Daemon, UnixListener) {
    let agent = Agent::new().await;
    let runtime = UnixListener::bind(runtime_socket(&agent)).unwrap();
    (Daemon::start(agent).await, runtime)
}

#[tokio::test]
async fn guards_are_repaired_within_a_second_while_the_runtime_does_not_respond() {
    let (daemon, _runtime) = with_silent_runtime().await;
    let complete = daemon.guards();
    let mut rules = 0;
    for (command, count) in [
        ("ip rule del pref 90", 1),
        ("ip rule del pref 91", 1),
        ("ip -6 rule del pref 91", 1),
        ("ip -6 rule del pref 92", 1),
        ("ip rule flush", 5),
        ("ip -6 rule flush", 7),
    ] {
        let start = Instant::now();
        run(&daemon.node, command);
        rules += count;
        let time = daemon.repair_time(start, |counters| counters.rules_repaired >= rules).await;
        assert!(time < REPAIR_TIME, "{command}: {time:?}");
        assert_eq!(daemon.counters.snapshot().rules_repaired, rules, "{command}");
    }
    let mut tables = 0;
    for commands in [
        "flush ruleset",
        "delete table inet podmeta",
        "flush chain inet podmeta arriving",
        "add table inet podmeta { flags dormant; }",
        "add chain inet podmeta forwarded { policy drop; }",
        "insert rule inet podmeta forwarded accept",
    ] {
        let start = Instant::now();
        nft(&daemon.node, commands);
        tables += 1;
        let time = daemon.repair_time(start, |counters| counters.tables_repaired >= tables).await;
        assert!(time < REPAIR_TIME, "{commands}: {time:?}");
        assert_eq!(table(&daemon.node, "podmeta"), complete.2.trim_start(), "{commands}");
        assert_eq!(
            daemon.counters.snapshot().tables_repaired,
            tables,
            "{commands}: the daemon repaired its own repair"
        );
    }
    let sorted = |text: &str| {
        let mut lines = text.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.sort();
        lines.retain(|line| ["90:", "91:", "92:"].iter().any(|priority| line.starts_with(priority)));
        lines
    };
    let repaired = daemon.guards();
    assert_eq!((sorted(&repaired.0), sorted(&repaired.1)), (sorted(&complete.0), sorted(&complete.1)));
    assert!(!daemon.is_ready(), "the links of running pods are not known");
}

#[tokio::test]
async fn cni_configuration_follows_its_source_within_a_second() {
    let (daemon, _runtime) = with_silent_runtime().await;
    let ours = daemon.cni.join(FILE_NAME);
    for (name, content) in [("10-pods.conflist", CONFLIST), ("10-pods.conf", CONF)] {
        let source = daemon.cni.join(name);
        let check = |step: &str, time: Duration| assert!(time < REPAIR_TIME, "{name}, {step}: {time:?}");
        let start = Instant::now();
        std::fs::write(&source, content).unwrap();
        check("created", daemon.wait_for_conflist(start, "bridge").await);
        let start = Instant::now();
        std::fs::write(&source, content.replace("bridge", "ptp")).unwrap();
        check("rewritten", daemon.wait_for_conflist(start, "ptp").await);
        let start = Instant::now();
        let temporary = daemon.cni.join("temporary");
        std::fs::write(&temporary, content.replace("bridge", "macvlan")).unwrap();
        std::fs::rename(&temporary, &source).unwrap();
        check("replaced", daemon.wait_for_conflist(start, "macvlan").await);
        let start = Instant::now();
        std::fs::write(&ours, "{}").unwrap();
        check("ours changed", daemon.wait_for_conflist(start, "macvlan").await);
        let start = Instant::now();
        std::fs::remove_file(&ours).unwrap();
        check("ours removed", daemon.wait_for_conflist(start, "macvlan").await);
        let start = Instant::now();
        std::fs::write(&source, "{").unwrap();
        wait_until("ours is removed with an invalid source", || !ours.exists()).await;
        check("invalid", start.elapsed());
        let start = Instant::now();
        std::fs::write(&source, content).unwrap();
        check("valid again", daemon.wait_for_conflist(start, "bridge").await);
        let start = Instant::now();
        std::fs::remove_file(&source).unwrap();
        wait_until("ours is removed with its source", || !ours.exists()).await;
        check("deleted", start.elapsed());
    }
    assert_eq!(daemon.counters.snapshot().conflist_writes, 2 * 6);
}

#[tokio::test]
async fn replaced_cni_directory_is_watched_again() {
    let (daemon, _runtime) = with_silent_runtime().await;
    std::fs::remove_dir(&daemon.cni).unwrap();
    std::fs::create_dir(&daemon.cni).unwrap();
    std::fs::write(daemon.cni.join("10-pods.conflist"), CONFLIST).unwrap();
    daemon.wait_for_conflist(Instant::now(), "bridge").await;
    let start = Instant::now();
    std::fs::write(daemon.cni.join("10-pods.conflist"), CONFLIST.replace("bridge", "ptp")).unwrap();
    let time = daemon.wait_for_conflist(start, "ptp").await;
    assert!(time < REPAIR_TIME, "{time:?}");
}

/// A daemon that created the namespace itself would pin it in its own container only.
#[tokio::test]
async fn daemon_does_not_create_a_missing_agent_namespace() {
    let agent = Agent::new().await;
    let node = pod();
    podmeta_link::agent_ns::remove(&agent.path).unwrap();
    let config = DaemonConfig {
        agent_namespace: agent.path.clone(),
        guard_pins: None,
        host_pods_pins: None,
        node_pods: Arc::default(),
        cgroup_root: "/sys/fs/cgroup".into(),
        node_metadata_namespaces: Vec::new(),
        cni_config_dir: agent.path.with_file_name("net.d"),
        runtime_socket: runtime_socket(&agent),
        settings: LinkSettings::default(),
    };
    let run = || {
        capabilities::limit_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let daemon = daemon::run(config, Arc::default(), Arc::default(), Arc::default(), || {});
        Ok(runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), daemon).await }))
    };
    let error = node.run(run).unwrap().unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("the CNI plugin pins it with the next new pod"), "{error:#}");
    assert!(!agent.path.exists());
}
