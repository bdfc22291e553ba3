//! The connectivity check of a new cluster: pods on all nodes reach each other, a Service and a DNS name, by IPv4 and IPv6.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::kubectl::Kubectl;
use crate::layout::url_host;
use crate::machine::processes::poll_until;

const PROBE_MANIFEST: &str = include_str!("../../manifests/probe.yaml");
const NAMESPACE: &str = "podmeta-cluster";
/// Timeout until one pod reaches every URL.
const REACH_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts one probe pod on each node and waits until each pod reaches every URL.
///
/// # Errors
/// If a pod does not reach a URL. The error names both.
pub fn check(kubectl: &Kubectl, nodes: usize) -> Result<()> {
    kubectl.apply(PROBE_MANIFEST)?;
    kubectl.run(&["rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=120s"])?;
    kubectl.run(&["rollout", "status", "--namespace", NAMESPACE, "daemonset/probe", "--timeout=120s"])?;
    let pods: Value =
        serde_json::from_str(&kubectl.run(&["get", "pods", "--namespace", NAMESPACE, "-lapp=probe", "-ojson"])?)?;
    let pods = pods.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ensure!(pods.len() == nodes, "{} probe pods run on {nodes} nodes", pods.len());
    let service: Value =
        serde_json::from_str(&kubectl.run(&["get", "service", "probe", "--namespace", NAMESPACE, "-ojson"])?)?;
    let mut targets: Vec<String> = pods
        .iter()
        .flat_map(|pod| url_hosts(pod.pointer("/status/podIPs")))
        .map(|host| format!("{host}:8080"))
        .collect();
    ensure!(targets.len() == 2 * nodes, "probe pods need an IPv4 and an IPv6 address, but have {targets:?}");
    targets.extend(url_hosts(service.pointer("/spec/clusterIPs")));
    targets.push(format!("probe.{NAMESPACE}.svc.cluster.local"));
    for pod in pods {
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).context("a pod has no name")?;
        let request = || request_all(kubectl, name, &targets);
        if !poll_until(REACH_TIMEOUT, || request().is_ok()) {
            let error = request().err().context("all targets are reachable now")?;
            bail!("pod {name} does not reach all targets after {} s: {error:#}", REACH_TIMEOUT.as_secs());
        }
    }
    Ok(())
}

/// Requests all targets with one `kubectl exec`, because each exec takes a while to start.
fn request_all(kubectl: &Kubectl, pod: &str, targets: &[String]) -> Result<String> {
    let script = r#"for target in "$@"; do curl -gsSf -o /dev/null --max-time 2 "http://$target/" || { echo "$target" >&2; exit 1; }; done"#;
    let mut arguments = vec!["exec", "--namespace", NAMESPACE, pod, "--", "sh", "-c", script, "sh"];
    arguments.extend(targets.iter().map(String::as_str));
    kubectl.run(&arguments)
}

/// Returns addresses as URL hosts, from a list of strings or of objects with a field `ip`.
fn url_hosts(list: Option<&Value>) -> Vec<String> {
    let address = |entry: &'_ Value| entry.as_str().or_else(|| entry.get("ip")?.as_str()).map(url_host);
    list.and_then(Value::as_array).into_iter().flatten().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ipv6_address_in_url_has_brackets() {
        assert_eq!(url_hosts(Some(&json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]))), ["10.0.0.1", "[fd00::1]"]);
        assert_eq!(url_hosts(Some(&json!(["10.96.0.1"]))), ["10.96.0.1"]);
        assert!(url_hosts(None).is_empty());
    }
}
