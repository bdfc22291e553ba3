//! The manifests that the chart renders. These tests need helm, but no cluster.

mod link_daemon;
mod permissions;
mod startup_taint;
mod uninstall_hook;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::kit::render_chart;

/// Returns the object of a kind and name.
pub(super) fn object<'o>(objects: &'o [Value], kind: &str, name: &str) -> Result<&'o Value> {
    let has = |object: &Value, path: &str, text: &str| object.pointer(path).is_some_and(|value| value == text);
    let found = objects.iter().find(|object| has(object, "/kind", kind) && has(object, "/metadata/name", name));
    found.with_context(|| format!("the chart renders no {kind} {name}"))
}

/// The pod specs of the chart.
struct PodSpecs<'o> {
    operator: &'o Value,
    agent: &'o Value,
    link: &'o Value,
    uninstall: &'o Value,
}

impl<'o> PodSpecs<'o> {
    fn of(objects: &'o [Value]) -> Result<Self> {
        let pod_spec = |kind, name| {
            let workload = object(objects, kind, name)?;
            workload.pointer("/spec/template/spec").with_context(|| format!("{kind} {name} has no pod spec"))
        };
        Ok(Self {
            operator: pod_spec("Deployment", "podmeta-operator")?,
            agent: pod_spec("DaemonSet", "podmeta-agent")?,
            link: pod_spec("DaemonSet", "podmeta-link")?,
            uninstall: pod_spec("Job", "podmeta-uninstall")?,
        })
    }

    fn all(&self) -> [&'o Value; 4] {
        [self.operator, self.agent, self.link, self.uninstall]
    }
}

/// Returns the value at `path` of each item of a list. Items without it are skipped.
fn fields<'o>(list: &'o Value, path: &str) -> Vec<&'o Value> {
    list.as_array().into_iter().flatten().filter_map(|item| item.pointer(path)).collect()
}

#[tokio::test]
async fn dns_egress_of_agents_is_port_53_unless_the_value_sets_other_rules() -> Result<()> {
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
        for pod in PodSpecs::of(&objects)?.all() {
            ensure!(pod["containers"][0]["image"] == expected, "{}", pod["containers"]);
            ensure!(fields(&pod["initContainers"], "/image").iter().all(|image| **image == expected), "{pod}");
        }
    }
    for digest in ["latest", "sha256:0a", "sha512:0a"] {
        ensure!(render_chart(&["--set", &format!("image.digest={digest}")]).await.is_err(), "{digest} is accepted");
    }
    Ok(())
}

#[tokio::test]
async fn pods_run_on_linux_nodes_and_mount_only_what_they_need() -> Result<()> {
    let selectors = "operator.nodeSelector.disk=ssd,agent.nodeSelector.disk=ssd,link.nodeSelector.disk=ssd";
    let objects = render_chart(&["--set", selectors]).await?;
    for pod in PodSpecs::of(&objects)?.all() {
        ensure!(pod["nodeSelector"] == json!({"disk": "ssd", "kubernetes.io/os": "linux"}), "{pod}");
    }
    let objects = render_chart(&[]).await?;
    let pods = PodSpecs::of(&objects)?;
    for pod in pods.all() {
        ensure!(pod["nodeSelector"] == json!({"kubernetes.io/os": "linux"}), "{pod}");
    }
    for (pod, expected) in [
        (pods.operator, &[][..]),
        (pods.uninstall, &[]),
        (pods.agent, &["/run/podmeta/serve", "/run/podmeta/link"]),
        (
            pods.link,
            &[
                "/run/netns",
                "/opt/cni/bin",
                "/etc/cni/net.d",
                "/run/containerd",
                "/run/podmeta/link",
                "/run/podmeta/bpf",
                "/sys/fs/cgroup",
            ],
        ),
    ] {
        let paths = fields(&pod["volumes"], "/hostPath/path");
        ensure!(paths == expected, "{paths:?}");
    }
    let mounts = pods.agent["containers"][0]["volumeMounts"].as_array().context("no mounts")?;
    let state = json!({"name": "state", "mountPath": "/run/podmeta/serve"});
    let link = json!({
        "name": "link", "mountPath": "/run/podmeta/link", "readOnly": true, "mountPropagation": "HostToContainer",
    });
    ensure!(mounts.contains(&state) && mounts.contains(&link), "{mounts:?}");
    Ok(())
}

#[tokio::test]
async fn agents_are_replaced_without_a_gap_and_link_daemons_one_after_another() -> Result<()> {
    let objects = render_chart(&[]).await?;
    for (name, expected) in
        [("podmeta-agent", json!({"maxSurge": 1, "maxUnavailable": 0})), ("podmeta-link", json!({"maxUnavailable": 1}))]
    {
        let strategy = &object(&objects, "DaemonSet", name)?["spec"]["updateStrategy"];
        ensure!(strategy["rollingUpdate"] == expected, "{name}: {strategy}");
    }
    Ok(())
}

#[tokio::test]
async fn liveness_probes_tolerate_a_minute_without_a_response() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let pods = PodSpecs::of(&objects)?;
    let expected = json!({
        "httpGet": {"path": "/healthz", "port": "metrics"}, "timeoutSeconds": 10, "failureThreshold": 6,
    });
    for pod in [pods.operator, pods.agent] {
        ensure!(pod["containers"][0]["livenessProbe"] == expected, "{}", pod["containers"][0]);
    }
    Ok(())
}

#[tokio::test]
async fn sts_endpoint_value_sets_a_flag_of_the_operator() -> Result<()> {
    for (values, expected) in [
        (&[][..], None),
        (&["--set", "credentials.aws.stsEndpoint=https://sts.example"], Some("--aws-sts-endpoint=https://sts.example")),
    ] {
        let objects = render_chart(values).await?;
        let container = &PodSpecs::of(&objects)?.operator["containers"][0];
        let flags = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let endpoint = flags.into_iter().find(|flag| flag.starts_with("--aws-sts-endpoint"));
        ensure!(endpoint == expected, "{container}");
    }
    Ok(())
}
