//! The manifests that the chart renders. These tests need helm, but no cluster.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::kit::render_chart;

/// Returns the object of a kind and name.
fn object<'o>(objects: &'o [Value], kind: &str, name: &str) -> Result<&'o Value> {
    let has = |object: &Value, path: &str, text: &str| object.pointer(path).is_some_and(|value| value == text);
    let found = objects.iter().find(|object| has(object, "/kind", kind) && has(object, "/metadata/name", name));
    found.with_context(|| format!("the chart renders no {kind} {name}"))
}

/// Returns the pod spec of the operator's Deployment and of the agents' DaemonSet.
fn pod_specs(objects: &[Value]) -> Result<[&Value; 2]> {
    let [operator, agent] =
        [object(objects, "Deployment", "podmeta-operator")?, object(objects, "DaemonSet", "podmeta-agent")?];
    Ok([operator, agent].map(|workload| workload.pointer("/spec/template/spec").unwrap_or(&Value::Null)))
}

/// Returns the namespaces of the Roles that allow a verb on Secrets; an empty name stands for a ClusterRole.
fn secret_namespaces(objects: &[Value], verb: &str) -> Vec<String> {
    let allows = |object: &&Value| {
        let contains = |rule: &Value, field: &str, value: &str| {
            rule.get(field).and_then(Value::as_array).is_some_and(|values| values.iter().any(|found| found == value))
        };
        let rules = object.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.into_iter().any(|rule| contains(rule, "resources", "secrets") && contains(rule, "verbs", verb))
    };
    let namespace =
        |object: &Value| object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    objects.iter().filter(allows).map(namespace).collect()
}

#[tokio::test]
async fn secrets_are_listed_in_the_cluster_or_in_the_listed_namespaces() -> Result<()> {
    for (namespaces, roles, argument) in [
        (json!(["*"]), &[""][..], "--secret-namespaces=*"),
        (json!([]), &[], "--secret-namespaces="),
        (json!(["shop", "attic"]), &["shop", "attic"], "--secret-namespaces=shop,attic"),
    ] {
        let objects = render_chart(&["--set-json", &format!("secrets.namespaces={namespaces}")]).await?;
        for verb in ["list", "watch"] {
            ensure!(secret_namespaces(&objects, verb) == roles, "{namespaces} {verb}");
        }
        ensure!(secret_namespaces(&objects, "get") == ["podmeta-system"], "{namespaces}: only the operator's own");
        let [operator, _] = pod_specs(&objects)?;
        let arguments = operator["containers"][0]["args"].as_array().context("no arguments")?;
        ensure!(arguments.iter().any(|found| found == argument), "{namespaces}: {arguments:?}");
    }
    for namespaces in [json!(["*", "shop"]), json!(["Shop"]), json!(["shop", "shop"]), json!("*")] {
        let rendered = render_chart(&["--set-json", &format!("secrets.namespaces={namespaces}")]).await;
        ensure!(rendered.is_err(), "{namespaces} is accepted");
    }
    Ok(())
}

#[tokio::test]
async fn dns_egress_of_the_agents_is_port_53_or_the_rules_of_the_value() -> Result<()> {
    let openshift = json!([{
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}],
        "ports": [{"port": 5353, "protocol": "UDP"}],
    }]);
    let default = json!([{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}]);
    for (values, expected) in [(None, default), (Some(json!([])), json!([])), (Some(openshift.clone()), openshift)] {
        let value = values.map(|rules| format!("networkPolicy.dnsEgress={rules}"));
        let values: Vec<&str> = value.iter().flat_map(|value| ["--set-json", value]).collect();
        let objects = render_chart(&values).await?;
        let egress = object(&objects, "NetworkPolicy", "podmeta-agent")?["spec"]["egress"].as_array();
        let (operator, dns) = egress.and_then(|rules| rules.split_first()).context("no egress rules")?;
        ensure!(operator["ports"] == json!([{"port": 8443}]) && operator["to"].is_array(), "{operator}");
        ensure!(expected == json!(dns), "{dns:?}");
    }
    Ok(())
}

#[tokio::test]
async fn image_has_the_tag_or_the_digest() -> Result<()> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    for (values, expected) in [
        ("image.tag=dev".to_owned(), "ghcr.io/podmeta/podmeta:dev".to_owned()),
        (format!("image.tag=dev,image.digest={digest}"), format!("ghcr.io/podmeta/podmeta@{digest}")),
    ] {
        let objects = render_chart(&["--set", &values]).await?;
        for pod in pod_specs(&objects)? {
            ensure!(pod["containers"][0]["image"] == expected, "{}", pod["containers"]);
        }
    }
    for digest in ["latest", "sha256:0a", "sha512:0a"] {
        ensure!(render_chart(&["--set", &format!("image.digest={digest}")]).await.is_err(), "{digest} is accepted");
    }
    Ok(())
}

#[tokio::test]
async fn pods_run_on_linux_nodes_and_agents_mount_only_their_own_state() -> Result<()> {
    let selectors = "operator.nodeSelector.disk=ssd,agent.nodeSelector.disk=ssd";
    let objects = render_chart(&["--set", selectors]).await?;
    for pod in pod_specs(&objects)? {
        ensure!(pod["nodeSelector"] == json!({"disk": "ssd", "kubernetes.io/os": "linux"}), "{pod}");
    }
    let objects = render_chart(&[]).await?;
    let [operator, agent] = pod_specs(&objects)?;
    for pod in [operator, agent] {
        ensure!(pod["nodeSelector"] == json!({"kubernetes.io/os": "linux"}), "{pod}");
    }
    let host_paths = |pod: &Value| -> Vec<Value> {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        volumes.into_iter().filter_map(|volume| volume.get("hostPath").cloned()).collect()
    };
    ensure!(host_paths(operator).is_empty());
    ensure!(host_paths(agent) == [json!({"path": "/run/podmeta/serve", "type": "DirectoryOrCreate"})]);
    let mounts = agent["containers"][0]["volumeMounts"].as_array().context("no mounts")?;
    ensure!(mounts.contains(&json!({"name": "state", "mountPath": "/run/podmeta/serve"})), "{mounts:?}");
    Ok(())
}
