//! Commands of the plugin: all commands and versions of the specification, a missing agent namespace, and failures.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use podmeta_link::agent_ns;
use podmeta_link::cni::VERSIONS;
use podmeta_link::netns::Netns;
use podmeta_link::service;
use serde_json::Value;

use crate::cni::PluginCall;
use crate::kit::{Agent, PinnedPath, pinned_pod, pod, request, run};
use crate::node::{REAL, Topology};

const ARGS: &str = "K8S_POD_UID=uid-0;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";

/// Returns the configuration of the plugin. `extra` is added to its entry.
fn config(version: &str, extra: &str) -> String {
    let result = result(version);
    format!(r#"{{"cniVersion":"{version}","name":"n","type":"podmeta-cni"{extra},"prevResult":{result}}}"#)
}

/// Returns the result of the previous plugin.
fn result(version: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","interfaces":[{{"name":"eth0"}}],"x":1}}"#)
}

#[tokio::test]
async fn every_version_of_the_specification_is_served() {
    let agent = Agent::new().await;
    agent.serve();
    let node = pod();
    let (pod, path) = pinned_pod(&agent, "pod");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = config(version, "");
        assert_eq!(
            PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("ADD", &config),
            Ok(result(version)),
            "{version}"
        );
        assert_eq!(
            PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("CHECK", &config),
            Ok(String::new()),
            "{version}"
        );
        for address in service::addresses() {
            assert!(request(&pod, address).is_ok(), "{version}, {address}");
        }
        run(&pod, "ip link del imds0");
    }
    let supported = PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("VERSION", "").unwrap();
    let supported = serde_json::from_str::<Value>(&supported).unwrap();
    assert_eq!(supported["cniVersion"], "1.1.0");
    assert_eq!(supported["supportedVersions"], serde_json::json!(VERSIONS));
}

#[tokio::test]
async fn status_makes_guards_and_namespace_or_fails_and_collection_changes_nothing() {
    let agent = Agent::new().await;
    let node = pod();
    let (_pod, path) = pinned_pod(&agent, "pod");
    let config = config("1.1.0", "");
    agent_ns::remove(&agent.path).unwrap();
    assert_eq!(PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("GC", &config), Ok(String::new()));
    assert!(!agent.path.exists() && !run(&node, "ip rule").contains("prohibit"));
    assert_eq!(PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("STATUS", &config), Ok(String::new()));
    assert!(Netns::open(&agent.path).is_ok() && run(&node, "ip rule").contains("prohibit"));
    // A directory is in the place of the namespace.
    agent_ns::remove(&agent.path).unwrap();
    std::fs::create_dir(&agent.path).unwrap();
    let error = PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("STATUS", &config).unwrap_err();
    assert!(error.contains("podmeta cannot make links on this node"), "{error}");
    std::fs::remove_dir(&agent.path).unwrap();
}

#[tokio::test]
async fn add_pins_a_missing_namespace_and_replaces_a_leftover_file() {
    let mut agent = Agent::new().await;
    let node = pod();
    let (pod, path) = pinned_pod(&agent, "pod");
    // Any process that can read the directory can lock it. That must not delay pods.
    let directory = File::open(agent.path.parent().unwrap()).unwrap();
    let _lock_of_another_process = Flock::lock(directory, FlockArg::LockExclusive).unwrap();
    let leftovers: [fn(&Path); 2] = [|_| {}, |path| std::fs::write(path, "from before a reboot").unwrap()];
    for (n, leave) in leftovers.into_iter().enumerate() {
        agent_ns::remove(&agent.path).unwrap();
        leave(&agent.path);
        assert_eq!(
            PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("ADD", &config("1.0.0", "")),
            Ok(result("1.0.0")),
            "{n}"
        );
        agent.netns = Netns::open(&agent.path).unwrap();
        agent.serve();
        for address in service::addresses() {
            assert!(request(&pod, address).is_ok(), "{n}, {address}");
        }
    }
}

#[tokio::test]
async fn failure_without_a_known_remedy_names_the_pod_the_cause_and_the_log() {
    let agent = Agent::new().await;
    let node = pod();
    let missing = agent.path.with_file_name("missing");
    let error =
        PluginCall { agent: &agent, node: &node, n: 0, pod: &missing }.run("ADD", &config("1.0.0", "")).unwrap_err();
    assert!(error.contains("pod shop/web") && error.contains("cannot open the pod's namespace"), "{error}");
    assert!(error.ends_with("; the runtime retries; read the log of the link daemon on this node"), "{error}");
    let (pod, path) = pinned_pod(&agent, "pod");
    run(&pod, "ip addr add 169.254.169.254/32 dev lo");
    let error =
        PluginCall { agent: &agent, node: &node, n: 0, pod: &path.0 }.run("ADD", &config("1.0.0", "")).unwrap_err();
    assert!(error.contains("pod shop/web") && error.ends_with("itself: remove it from the pod"), "{error}");
}

/// The program of the plugin, whose agent namespace is in a mount namespace of its own.
#[tokio::test]
async fn pod_that_starts_without_a_link_gets_nothing_and_the_runtime_logs_the_cause() {
    let agent = Agent::new().await;
    let topology = Topology::new(1);
    let pod = &topology.pods[0];
    let path = PinnedPath(agent.path.with_file_name("pod"));
    pod.pin(&File::create(&path.0).unwrap()).unwrap();
    for address in service::addresses() {
        assert_eq!(request(pod, address).unwrap(), REAL, "{address}");
    }
    run(pod, "ip link add imds0 type bridge");
    let config_file = agent.path.with_file_name("config");
    std::fs::write(&config_file, config("1.0.0", r#","onFailure":"start""#)).unwrap();
    let script = r#"mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$0""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_podmeta-cni")]);
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "sandbox0").env("CNI_IFNAME", "eth0");
    command.env("CNI_NETNS", &path.0).env("CNI_ARGS", ARGS);
    command.stdin(Stdio::from(std::fs::File::open(&config_file).unwrap()));
    let output = topology.node.run(|| command.output()).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), result("1.0.0"), "{log}");
    assert!(log.contains("pod shop/web") && log.contains("interface imds0 that is not podmeta's"), "{log}");
    assert!(log.contains("the pod starts, and its metadata requests can fail"), "{log}");
    topology.assert_only_the_node_reaches_the_real_service("without a link");
}
