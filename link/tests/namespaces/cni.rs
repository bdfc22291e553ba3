//! The plugin as the container runtime runs it, but in a node's namespace of the test's own.

use podmeta_link::cni::plugin;
use podmeta_link::cni::request::CniCommand;
use podmeta_link::netns::Netns;
use podmeta_link::service;

use crate::kit::{Agent, pinned_pod, pod, request, run};

const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],  "ips":[],"x":1}"#;

/// Runs the plugin with the node's namespace as its own.
fn plugin(agent: &Agent, node: &Netns, command: &str, pod: &std::path::Path, extra: &str) -> Result<String, String> {
    let pod = pod.display().to_string();
    let variable = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "sandbox0",
            "CNI_NETNS" => &pod,
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_UID=uid-0;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"podmeta-cni"{extra},"prevResult":{RESULT}}}"#);
    let command = CniCommand::parse(variable, &config).map_err(|error| error.to_string())?;
    let result = node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(plugin::run(command, &agent.path)))
    });
    result.unwrap().map_err(|error| error.to_string())
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
