//! Manifests that tests share, and the addresses of pods.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use podmeta_cluster::images::CLIENT;
use serde_json::{Value, json};

/// Returns the manifest of a pod with label `app`, whose container `client` sleeps until tests run commands in it.
/// Fields of `spec` replace those of the pod.
pub(crate) fn client_pod(name: &str, app: &str, spec: Value) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}],
        },
    });
    with_spec(pod, spec)
}

/// Returns an object with the fields of `spec` added to its spec, or replaced there.
pub(crate) fn with_spec(mut object: Value, spec: Value) -> Value {
    if let (Some(Value::Object(fields)), Value::Object(changes)) = (object.get_mut("spec"), spec) {
        fields.extend(changes);
    }
    object
}

/// Returns the IPv4 and the IPv6 address of a pod.
pub(crate) fn pod_addresses(pod: &Pod) -> Result<(String, String)> {
    let all = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref()).context("the pod has no addresses")?;
    match all.as_slice() {
        [ipv4, ipv6] => Ok((ipv4.ip.clone(), ipv6.ip.clone())),
        other => bail!("the pod needs one IPv4 and one IPv6 address, but has {other:?}"),
    }
}
