//! Whether a cluster is one: pods on every node reach the others, a Service and a name, over IPv4 and IPv6.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::processes::until;

const PROBE: &str = include_str!("../manifests/probe.yaml");
const NAMESPACE: &str = "podmeta-cluster";
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the probes and waits until each reaches everything.
///
/// # Errors
/// What cannot be reached from where.
pub fn reach(kubectl: &Kubectl, nodes: usize) -> Result<()> {
    // Pods are refused until the controllers have made their namespace's ServiceAccount.
    kubectl.apply(PROBE)?;
    kubectl.run(&["rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=120s"])?;
    kubectl.run(&["rollout", "status", "--namespace", NAMESPACE, "daemonset/probe", "--timeout=120s"])?;
    let pods: Value =
        serde_json::from_str(&kubectl.run(&["get", "pods", "--namespace", NAMESPACE, "-lapp=probe", "-ojson"])?)?;
    let pods = pods.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ensure!(pods.len() == nodes, "{} probes run, on {nodes} nodes", pods.len());
    let service: Value =
        serde_json::from_str(&kubectl.run(&["get", "service", "probe", "--namespace", NAMESPACE, "-ojson"])?)?;
    let mut urls: Vec<String> =
        pods.iter().flat_map(|pod| addresses(pod.pointer("/status/podIPs"))).map(|ip| format!("{ip}:8080")).collect();
    ensure!(urls.len() == 2 * nodes, "probes do not have an address of each kind: {urls:?}");
    urls.extend(addresses(service.pointer("/spec/clusterIPs")));
    urls.push(format!("probe.{NAMESPACE}.svc.cluster.local"));
    for pod in pods {
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).context("a pod has a name")?;
        let ask = || ask(kubectl, name, &urls);
        if !until(PATIENCE, || ask().is_ok()) {
            bail!("pod {name} does not reach everything: {:#}", ask().err().context("now it does")?);
        }
    }
    Ok(())
}

/// Asks every URL from a pod, with one command because each takes a while to start.
fn ask(kubectl: &Kubectl, pod: &str, urls: &[String]) -> Result<String> {
    let script = r#"for url in "$@"; do curl -gsSf -o /dev/null --max-time 2 "http://$url/" || { echo "$url" >&2; exit 1; }; done"#;
    let mut arguments = vec!["exec", "--namespace", NAMESPACE, pod, "--", "sh", "-c", script, "sh"];
    arguments.extend(urls.iter().map(String::as_str));
    kubectl.run(&arguments)
}

/// Addresses as a URL has them, from a list of them or of objects with an `ip`.
fn addresses(list: Option<&Value>) -> Vec<String> {
    let text = |entry: &'_ Value| entry.as_str().or_else(|| entry.get("ip")?.as_str()).map(str::to_owned);
    let texts = list.and_then(Value::as_array).into_iter().flatten().filter_map(text);
    texts.map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_written_as_a_url_has_them() {
        assert_eq!(addresses(Some(&json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]))), ["10.0.0.1", "[fd00::1]"]);
        assert_eq!(addresses(Some(&json!(["10.96.0.1"]))), ["10.96.0.1"]);
        assert!(addresses(None).is_empty());
    }
}
