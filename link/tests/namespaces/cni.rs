//! The plugin as the container runtime runs it, but in a node's namespace of the test's own.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Barrier;

use podmeta_link::cni::conflist::FILE_NAME;
use podmeta_link::cni::plugin;
use podmeta_link::cni::request::CniCommand;
use podmeta_link::netns::Netns;
use podmeta_link::service;

use crate::capabilities;
use crate::kit::{Agent, pinned_pod, pod, request, run};

/// Pods that start at the same time.
const PARALLEL_PODS: usize = 250;

pub(crate) const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],  "ips":[],"x":1}"#;

/// A call of the plugin by the container runtime, for pod `n`.
pub(crate) struct PluginCall<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) node: &'a Netns,
    pub(crate) n: usize,
    /// Path of the pod's namespace.
    pub(crate) pod: &'a Path,
}

impl PluginCall<'_> {
    /// Runs the plugin with the node's namespace as its own, and with the capabilities of the link daemon.
    pub(crate) fn run(&self, command: &str, config: &str) -> Result<String, String> {
        let variable = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command.to_owned(),
                "CNI_CONTAINERID" => format!("sandbox{}", self.n),
                "CNI_NETNS" => self.pod.display().to_string(),
                "CNI_IFNAME" => "eth0".to_owned(),
                "CNI_ARGS" => {
                    format!("IgnoreUnknown=1;K8S_POD_UID=uid-{};K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", self.n)
                }
                _ => return None,
            };
            Some(value)
        };
        let command = CniCommand::parse(variable, config).map_err(|error| error.to_string())?;
        let result = self.node.run(|| {
            capabilities::limit_thread();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(plugin::run(command, &self.agent.path)))
        });
        result.unwrap().map_err(|error| error.to_string())
    }
}

/// Runs the plugin for pod 0. `extra` is added to its entry of the configuration.
fn plugin(agent: &Agent, node: &Netns, command: &str, pod: &Path, extra: &str) -> Result<String, String> {
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"podmeta-cni"{extra},"prevResult":{RESULT}}}"#);
    PluginCall { agent, node, n: 0, pod }.run(command, &config)
}

#[tokio::test]
async fn add_makes_guards_and_link_and_returns_the_result_unchanged() {
    let agent = Agent::new().await;
    agent.serve();
    let node = pod();
    let (pod, path) = pinned_pod(&agent, "pod");
    assert_eq!(plugin(&agent, &node, "ADD", &path.0, ""), Ok(RESULT.to_owned()));
    let links = run(&agent.netns, "ip -o link show type veth");
    assert!(links.contains("uid=uid-0 sandbox=sandbox0 mac=02:42:ac:11:00:02 ip=10.244.1.7,fd00:244::7"), "{links}");
    for address in service::addresses() {
        assert!(request(&pod, address).is_ok(), "{address}");
    }
    assert!(run(&node, "nft list ruleset").contains("169.254.169.254"));
    assert!(run(&node, "ip rule").contains("prohibit"));
    assert_eq!(plugin(&agent, &node, "CHECK", &path.0, ""), Ok(String::new()));
    run(&pod, "ip link del imds0");
    assert!(plugin(&agent, &node, "CHECK", &path.0, "").is_err());
    assert_eq!(plugin(&agent, &node, "ADD", &path.0, ""), Ok(RESULT.to_owned()));
    assert_eq!(plugin(&agent, &node, "DEL", &path.0, ""), Ok(String::new()));
}

#[tokio::test]
async fn failure_names_pod_and_cause_and_does_not_stop_a_pod_that_may_start() {
    let agent = Agent::new().await;
    let node = pod();
    let (pod, path) = pinned_pod(&agent, "pod");
    run(&pod, "ip addr add 169.254.169.254/32 dev lo");
    let error = plugin(&agent, &node, "ADD", &path.0, "").unwrap_err();
    assert!(error.contains("shop/web") && error.contains("the pod has the address 169.254.169.254 itself"), "{error}");
    assert_eq!(plugin(&agent, &node, "ADD", &path.0, r#","onFailure":"start""#), Ok(RESULT.to_owned()));
}

/// The program of the plugin, without the capability that the guards need.
#[tokio::test]
async fn pod_does_not_start_without_guards_even_if_it_may_start_without_a_link() {
    let agent = Agent::new().await;
    let node = pod();
    let (_pod, path) = pinned_pod(&agent, "pod");
    let config = agent.path.with_file_name("config");
    let entry = r#""cniVersion":"1.0.0","name":"n","type":"podmeta-cni","onFailure":"start""#;
    std::fs::write(&config, format!(r#"{{{entry},"prevResult":{RESULT}}}"#)).unwrap();
    let program = env!("CARGO_BIN_EXE_podmeta-cni");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", program]).env_clear().stdin(std::fs::File::open(&config).unwrap());
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "sandbox0").env("CNI_IFNAME", "eth0");
    command.env("CNI_NETNS", &path.0).env("CNI_ARGS", "K8S_POD_UID=uid-0;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web");
    let output = node.run(|| command.output()).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("shop/web") && text.contains("cannot add the"), "{text}");
    assert!(!run(&node, "nft list ruleset").contains("podmeta"));
}

#[tokio::test]
async fn changed_source_configuration_is_tried_again() {
    let agent = Agent::new().await;
    let node = pod();
    let (_pod, path) = pinned_pod(&agent, "pod");
    let source = agent.path.with_file_name("10-pods.conflist");
    std::fs::write(&source, "changed").unwrap();
    std::fs::write(agent.path.with_file_name(FILE_NAME), "{}").unwrap();
    let extra = format!(r#","source":{{"file":"{}","sha256":"00"}}"#, source.display());
    let error = plugin(&agent, &node, "ADD", &path.0, &extra).unwrap_err();
    assert!(error.contains("try again") && error.contains("10-pods.conflist"), "{error}");
}

#[tokio::test]
async fn pod_with_too_many_routes_gets_an_error() {
    let agent = Agent::new().await;
    let node = pod();
    let (pod, path) = pinned_pod(&agent, "pod");
    let routes = (0..10_001).map(|n| format!("route add 10.{}.{}.1/32 dev eth0\n", n / 256, n % 256));
    let batch = agent.path.with_file_name("routes");
    std::fs::write(&batch, routes.collect::<String>()).unwrap();
    run(&pod, &format!("ip -batch {}", batch.display()));
    let error = plugin(&agent, &node, "ADD", &path.0, "").unwrap_err();
    assert!(error.contains("more than 10000 routes"), "{error}");
}

#[tokio::test]
async fn pods_that_start_at_the_same_time_get_different_addresses_and_their_own_identity() {
    let agent = Agent::new().await;
    agent.serve();
    let node = pod();
    let barrier = Barrier::new(PARALLEL_PODS);
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"podmeta-cni","prevResult":{RESULT}}}"#);
    let start = |n| {
        let (pod, path) = pinned_pod(&agent, &format!("pod{n}"));
        barrier.wait();
        let result = PluginCall { agent: &agent, node: &node, n, pod: &path.0 }.run("ADD", &config);
        (pod, path, result)
    };
    let start = &start;
    let pods = std::thread::scope(|scope| {
        let threads = (0..PARALLEL_PODS).map(|n| scope.spawn(move || start(n))).collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for (n, (_, _, result)) in pods.iter().enumerate() {
        assert_eq!(result.as_deref(), Ok(RESULT), "pod {n}");
    }
    let links = run(&agent.netns, "ip -o link show type veth");
    // The index is the first word, with a colon. The alias names the pod.
    let index_and_uid = |line: &str| {
        let uid = line.split(" uid=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        (uid, line.split(':').next().unwrap().to_owned())
    };
    let interfaces = links.lines().map(index_and_uid).collect::<HashMap<_, _>>();
    assert_eq!((links.lines().count(), interfaces.len()), (PARALLEL_PODS, PARALLEL_PODS), "aliases are unique");
    let mut addresses = HashSet::new();
    for (n, (pod, _, _)) in pods.iter().enumerate() {
        let text = run(pod, "ip -o addr show dev imds0 scope global");
        let of_pod = text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(of_pod.len(), 2, "pod {n}: {text}");
        addresses.extend(of_pod);
        for address in service::addresses() {
            assert_eq!(request(pod, address).unwrap(), interfaces[&format!("uid-{n}")], "pod {n}, {address}");
        }
    }
    assert_eq!(addresses.len(), 2 * PARALLEL_PODS);
}
