//! The uninstallation beside a link daemon and CNI plugins that run at the same time.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use podmeta_link::cni::conflist::{FILE_NAME, LinkSettings};
use podmeta_link::guard::uplink;
use podmeta_link::host_pods::{HostPods, UnredirectedPods};
use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::uninstall::{UninstallPaths, uninstall};
use podmeta_link::{agent_ns, guard, install};
use serde_json::Value;

use crate::cgroup_root::CgroupRoot;
use crate::cni::{PluginCall, RESULT};
use crate::kit::{Agent, block_until, pinned_pod, pod, run};

const CONFLIST: &str = r#"{"name":"pods","cniVersion":"1.1.0","plugins":[{"type":"bridge"}]}"#;

fn has_guards(node: &Netns) -> bool {
    run(node, "nft list ruleset").contains("podmeta") || run(node, "ip rule").contains("prohibit")
}

/// The directories of a node, beside the pinned agent namespace.
struct NodeDirs {
    cni_config: PathBuf,
    cni_bin: PathBuf,
    cni_cache: PathBuf,
    state: PathBuf,
}

impl NodeDirs {
    fn create(agent: &Agent) -> Self {
        let create = |name: &str| {
            let path = agent.path.with_file_name(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        create("state/link");
        Self {
            cni_config: create("net.d"),
            cni_bin: create("bin"),
            cni_cache: agent.path.with_file_name("cache"),
            state: create("state"),
        }
    }

    /// Makes the CNI configuration of the link daemon.
    fn write_conflist(&self) {
        std::fs::write(self.cni_config.join("10-pods.conflist"), CONFLIST).unwrap();
        install::write_conflist(&self.cni_config, LinkSettings::default()).unwrap();
    }

    /// Uninstalls podmeta from a node.
    fn uninstall(&self, node: &Netns, agent: &Path) -> anyhow::Result<()> {
        let paths = UninstallPaths {
            agent_namespace: agent.to_owned(),
            cni_config_dir: self.cni_config.clone(),
            cni_bin_dir: self.cni_bin.clone(),
            cni_cache_dir: self.cni_cache.clone(),
            state_dir: self.state.clone(),
        };
        let uninstall = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(uninstall(&paths)))
        };
        node.run(uninstall).unwrap()
    }
}

#[tokio::test]
async fn plugin_that_runs_during_the_uninstallation_adds_no_guard_after_it() {
    let agent = Agent::new().await;
    let node = pod();
    let (_pod, path) = pinned_pod(&agent, "pod");
    let dirs = NodeDirs::create(&agent);
    dirs.write_conflist();
    let cni = &dirs.cni_config;
    let list = serde_json::from_slice::<Value>(&std::fs::read(cni.join(FILE_NAME)).unwrap()).unwrap();
    let mut config = list["plugins"][1].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    config["prevResult"] = serde_json::from_str(RESULT).unwrap();
    let request = PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 };
    let run_plugin = |command| request.run(command, &config.to_string());
    run_plugin("ADD").unwrap();
    assert!(has_guards(&node));

    // A plugin holds this lock while it runs.
    let running = Flock::lock(File::open(cni.join(".podmeta-lock")).unwrap(), FlockArg::LockShared).unwrap();
    std::thread::scope(|scope| {
        let uninstallation = scope.spawn(|| dirs.uninstall(&node, &agent.path));
        block_until("podmeta's configuration is removed", || !cni.join(FILE_NAME).exists());
        for _ in 0..20 {
            let error = run_plugin("ADD").unwrap_err();
            assert!(error.contains("try again") && error.contains(FILE_NAME), "{error}");
        }
        assert!(has_guards(&node), "the uninstallation waits for the plugin that runs");
        drop(running);
        uninstallation.join().unwrap().unwrap();
    });
    for command in ["ADD", "STATUS"] {
        assert!(run_plugin(command).unwrap_err().contains("try again"), "{command}");
    }
    assert!(!has_guards(&node));
    assert!(!agent.path.exists(), "the agent namespace is not pinned");
    assert!(!cni.join(".podmeta-lock").exists(), "the lock file is left");
}

#[tokio::test]
async fn guards_stay_if_the_agent_namespace_cannot_be_removed_and_the_uninstallation_can_be_repeated() {
    let agent = Agent::new().await;
    let node = pod();
    guard::ensure(&node).await.unwrap();
    let dirs = NodeDirs::create(&agent);
    // A directory is in the place of the namespace.
    agent_ns::remove(&agent.path).unwrap();
    std::fs::create_dir(&agent.path).unwrap();
    let (result, has_guards_left) = (dirs.uninstall(&node, &agent.path), has_guards(&node));
    std::fs::remove_dir(&agent.path).unwrap();
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("cannot remove") && error.contains(agent.path.to_str().unwrap()), "{error}");
    assert!(has_guards_left, "guards are removed last");
    for repetition in 0..2 {
        dirs.uninstall(&node, &agent.path).unwrap();
        assert!(!has_guards(&node), "{repetition}");
    }
}

#[tokio::test]
async fn nothing_is_removed_until_the_link_daemon_has_ended() {
    let agent = Agent::new().await;
    let node = pod();
    guard::ensure(&node).await.unwrap();
    let dirs = NodeDirs::create(&agent);
    dirs.write_conflist();
    let daemon = UnixListener::bind(dirs.state.join("link/link.sock")).unwrap();
    daemon.set_nonblocking(true).unwrap();
    std::thread::scope(|scope| {
        let uninstallation = scope.spawn(|| dirs.uninstall(&node, &agent.path));
        for _ in 0..2 {
            block_until("the uninstallation connects to the daemon", || daemon.accept().is_ok());
            assert!(has_guards(&node) && agent.path.exists() && dirs.cni_config.join(FILE_NAME).exists());
        }
        drop(daemon);
        uninstallation.join().unwrap().unwrap();
    });
    assert!(!has_guards(&node) && !agent.path.exists() && !dirs.cni_config.join(FILE_NAME).exists());
    assert!(!dirs.state.exists(), "the state is removed, with the socket");
}

#[tokio::test]
async fn plugin_stays_until_no_sandbox_that_it_made_is_in_the_cache() {
    // Base64 of {"name":"n","plugins":[{"type":"podmeta-cni"}]} and {"name":"n","plugins":[{"type":"loopback"}]}.
    const OURS: &str = "eyJuYW1lIjoibiIsInBsdWdpbnMiOlt7InR5cGUiOiJwb2RtZXRhLWNuaSJ9XX0=";
    const LOOPBACK: &str = "eyJuYW1lIjoibiIsInBsdWdpbnMiOlt7InR5cGUiOiJsb29wYmFjayJ9XX0=";
    let entry = |config| format!(r#"{{"kind":"cniCacheV1","containerId":"id1","config":"{config}"}}"#);
    let agent = Agent::new().await;
    let node = pod();
    let dirs = NodeDirs::create(&agent);
    let plugin = dirs.cni_bin.join("podmeta-cni");
    std::fs::write(&plugin, "").unwrap();
    std::fs::write(dirs.cni_bin.join("bridge"), "").unwrap();

    dirs.uninstall(&node, &agent.path).unwrap();
    assert!(plugin.exists(), "the plugin stays without a cache");
    let results = dirs.cni_cache.join("results");
    std::fs::create_dir_all(&results).unwrap();
    for (case, content) in [("a sandbox of the plugin", entry(OURS)), ("an unreadable entry", "{".to_owned())] {
        std::fs::write(results.join("n-id1-eth0"), content).unwrap();
        dirs.uninstall(&node, &agent.path).unwrap();
        assert!(plugin.exists(), "the plugin stays with {case}");
    }
    std::fs::write(results.join("n-id1-eth0"), entry(LOOPBACK)).unwrap();
    for _ in 0..2 {
        dirs.uninstall(&node, &agent.path).unwrap();
        assert!(!plugin.exists(), "no sandbox needs the plugin");
    }
    assert!(dirs.cni_bin.join("bridge").exists());
}

#[tokio::test]
async fn uninstallation_removes_the_redirection_of_pods_on_the_host_network() {
    let agent = Agent::new().await;
    let (node, dirs, cgroups) = (pod(), NodeDirs::create(&agent), CgroupRoot::with_pods());
    let pins = dirs.state.join("bpf");
    uplink::mount(&pins).unwrap();
    let mut pods = HostPods::new(pins.clone(), cgroups.0.clone());
    let repairs = pods.ensure(&node, &agent.netns, LinkRange::default(), &UnredirectedPods::default()).await.unwrap();
    assert_eq!((repairs.link, repairs.programs), (true, 2));
    dirs.uninstall(&node, &agent.path).unwrap();
    assert!(!run(&node, "ip -o link").contains("podmeta0"));
    for family in ["-4", "-6"] {
        assert!(!run(&node, &format!("ip {family} route show table all")).contains("prohibit"), "{family}");
    }
    assert!(!dirs.state.exists());
}

#[tokio::test]
async fn guards_are_removed_if_the_redirection_cannot_be_removed_and_the_uninstallation_can_be_repeated() {
    let agent = Agent::new().await;
    let (node, dirs) = (pod(), NodeDirs::create(&agent));
    guard::ensure(&node).await.unwrap();
    // A file in the place of a pinned program.
    let pins = dirs.state.join("bpf");
    std::fs::create_dir(&pins).unwrap();
    std::fs::write(pins.join("connect-ipv4-0"), "").unwrap();
    let error = format!("{:#}", dirs.uninstall(&node, &agent.path).unwrap_err());
    assert!(error.contains("cannot remove the redirection of pods on the host network: "), "{error}");
    assert!(error.contains("; cannot remove the uplink guard: "), "{error}");
    assert!(!has_guards(&node) && !dirs.state.exists());
    dirs.uninstall(&node, &agent.path).unwrap();
}
