//! The manifests that the chart renders. These tests need helm, but no cluster.

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

/// Returns the values of a field of each item of a list that has it.
fn fields<'o>(list: &'o Value, path: &str) -> Vec<&'o Value> {
    list.as_array().into_iter().flatten().filter_map(|item| item.pointer(path)).collect()
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
        let arguments = PodSpecs::of(&objects)?.operator["containers"][0]["args"].as_array().context("no arguments")?;
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
        (pods.link, &["/run/netns", "/opt/cni/bin", "/etc/cni/net.d", "/run/containerd", "/run/podmeta/link"]),
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
async fn link_daemon_has_only_the_rights_that_it_uses() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let link = PodSpecs::of(&objects)?.link;
    ensure!(link["hostNetwork"] == true && link["hostPID"] == true && link["hostIPC"].is_null(), "{link}");
    ensure!(link["automountServiceAccountToken"] == false && link["serviceAccountName"] == "podmeta-link", "{link}");
    let daemon = &link["containers"][0];
    let context = json!({
        "runAsUser": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_BIND_SERVICE"]},
    });
    ensure!(daemon["securityContext"] == context && daemon["ports"].is_null(), "{daemon}");
    ensure!(!fields(&daemon["volumeMounts"], "/mountPath").contains(&&json!("/opt/cni/bin")), "{daemon}");
    let is_bidirectional =
        |container: &Value| fields(&container["volumeMounts"], "/mountPropagation").contains(&&json!("Bidirectional"));
    let install = &link["initContainers"][0];
    ensure!(is_bidirectional(install) && !is_bidirectional(daemon), "only install may pin the namespace");
    ensure!(install["securityContext"]["privileged"] == true, "{install}");
    // No binding refers to the accounts of agent and link daemon.
    for object in &objects {
        let subjects = fields(&object["subjects"], "/name");
        ensure!(
            !subjects.contains(&&json!("podmeta-link")) && !subjects.contains(&&json!("podmeta-agent")),
            "{object}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn link_values_set_the_command_line_and_the_mounts() -> Result<()> {
    let values = "link.cniBinDir=/var/lib/cni/bin,link.cniConfigDir=/etc/cni/test.d,link.range=10.9.0.0/16,\
                  link.onFailure=start,link.runtimeSocket=/run/crio/crio.sock,link.log=debug";
    let objects = render_chart(&["--set", values]).await?;
    let link = PodSpecs::of(&objects)?.link;
    let (install, daemon) = (&link["initContainers"][0], &link["containers"][0]);
    let arguments = json!(["install", "--cni-bin-dir=/var/lib/cni/bin", "--plugin=/podmeta-cni", "--log=debug",]);
    ensure!(install["args"] == arguments, "{}", install["args"]);
    let arguments = json!([
        "run",
        "--runtime-socket=/run/crio/crio.sock",
        "--link-range=10.9.0.0/16",
        "--on-failure=start",
        "--cni-config-dir=/etc/cni/test.d",
        "--release=podmeta",
        "--release-namespace=podmeta-system",
        "--log=debug",
    ]);
    ensure!(daemon["args"] == arguments, "{}", daemon["args"]);
    // The configuration names its source by the path on the node, so both paths are equal.
    let paths = fields(&daemon["volumeMounts"], "/mountPath");
    ensure!(paths.contains(&&json!("/etc/cni/test.d")), "{paths:?}");
    let runtime = json!({
        "name": "runtime", "mountPath": "/run/crio", "readOnly": true, "mountPropagation": "HostToContainer",
    });
    ensure!(daemon["volumeMounts"].as_array().is_some_and(|mounts| mounts.contains(&runtime)), "{daemon}");
    let host_paths = fields(&link["volumes"], "/hostPath/path");
    for path in ["/var/lib/cni/bin", "/etc/cni/test.d", "/run/crio"] {
        ensure!(host_paths.contains(&&json!(path)), "{host_paths:?}");
    }
    for value in ["onFailure=ignore", "range=169.254.0.0/8", "range=fd00::/64", "cniBinDir=bin", "askSocket=true"] {
        ensure!(render_chart(&["--set", &format!("link.{value}")]).await.is_err(), "{value} is accepted");
    }
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
async fn uninstall_objects_are_hooks_that_may_change_only_the_daemon_sets_of_the_release() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"].map(|kind| (kind, "-1"));
    for (kind, weight) in kinds.into_iter().chain([("Job", "0")]) {
        let annotations = &object(&objects, kind, "podmeta-uninstall")?["metadata"]["annotations"];
        ensure!(annotations["helm.sh/hook"] == "pre-delete", "{kind}: {annotations}");
        ensure!(annotations["helm.sh/hook-weight"] == weight, "{kind}: {annotations}");
        let policy = &annotations["helm.sh/hook-delete-policy"];
        ensure!(policy == "before-hook-creation,hook-succeeded", "{kind}: {policy}");
        let log_policy = &annotations["helm.sh/hook-output-log-policy"];
        ensure!(log_policy == "hook-failed,hook-succeeded", "{kind}: {log_policy}");
    }
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["podmeta-agent"], "verbs": ["delete"]},
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["podmeta-link"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]);
    ensure!(object(&objects, "Role", "podmeta-uninstall")?["rules"] == rules);
    let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]);
    ensure!(object(&objects, "ClusterRole", "podmeta-uninstall")?["rules"] == rules);
    let job = &object(&objects, "Job", "podmeta-uninstall")?["spec"];
    ensure!(job["backoffLimit"] == 0 && job["activeDeadlineSeconds"] == 180, "{job}");
    let arguments = json!(["--release=podmeta", "--namespace=podmeta-system", "--timeout=2m"]);
    ensure!(PodSpecs::of(&objects)?.uninstall["containers"][0]["args"] == arguments, "{job}");
    ensure!(PodSpecs::of(&objects)?.uninstall["hostNetwork"] == true, "the hook needs a link: {job}");
    let without = render_chart(&["--set", "link.uninstallHook=false"]).await?;
    ensure!(object(&without, "Job", "podmeta-uninstall").is_err(), "the hook is rendered");
    // The hook finds the pods by these labels, and changes this container and volume.
    for component in ["agent", "link"] {
        let labels = &object(&objects, "DaemonSet", &format!("podmeta-{component}"))?["spec"]["template"]["metadata"];
        ensure!(labels["labels"]["app.kubernetes.io/component"] == component, "{labels}");
        ensure!(labels["labels"]["app.kubernetes.io/instance"] == "podmeta", "{labels}");
    }
    let link = PodSpecs::of(&objects)?.link;
    ensure!(link["containers"][0]["name"] == "link", "{link}");
    ensure!(fields(&link["volumes"], "/name").contains(&&json!("cni-config")), "{link}");
    Ok(())
}

/// Returns true if a ClusterRole of the chart allows to create tokens of ServiceAccounts.
fn may_request_tokens(objects: &[Value]) -> bool {
    let rules = objects.iter().filter_map(|object| object.get("rules")).flat_map(|rules| fields(rules, "/resources"));
    rules.into_iter().any(|resources| *resources == json!(["serviceaccounts/token"]))
}

#[tokio::test]
async fn operator_may_request_tokens_only_with_the_admission_policy() -> Result<()> {
    let objects = render_chart(&["--set-json", r#"credentials.tokenAudiences=["sts.amazonaws.com","other"]"#]).await?;
    ensure!(may_request_tokens(&objects), "the operator may not request tokens");
    let name = "podmeta-operator-tokens";
    let policy = object(&objects, "ValidatingAdmissionPolicy", name)?;
    let validations = policy.pointer("/spec/validations").context("the policy has no validations")?;
    let audiences = r#"object.spec.audiences[0] in ["sts.amazonaws.com","other"]"#;
    let expressions = fields(validations, "/expression");
    ensure!(
        expressions.iter().any(|expression| expression.as_str().is_some_and(|text| text.contains(audiences))),
        "{expressions:?}"
    );
    ensure!(policy.pointer("/spec/failurePolicy") == Some(&json!("Fail")), "{policy}");
    let binding = object(&objects, "ValidatingAdmissionPolicyBinding", name)?;
    ensure!(binding.pointer("/spec/policyName") == Some(&json!(name)), "{binding}");
    ensure!(binding.pointer("/spec/validationActions") == Some(&json!(["Deny"])), "{binding}");

    let objects = render_chart(&["--set-json", "credentials.tokenAudiences=[]"]).await?;
    ensure!(!may_request_tokens(&objects), "the operator may request tokens without an audience");
    ensure!(object(&objects, "ValidatingAdmissionPolicy", name).is_err(), "a policy without audiences is rendered");
    Ok(())
}

#[tokio::test]
async fn operator_may_create_tls_secrets_only() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let name = "podmeta-operator-secrets";
    let spec = &object(&objects, "ValidatingAdmissionPolicy", name)?["spec"];
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}]);
    ensure!(spec["failurePolicy"] == "Fail" && spec["matchConstraints"]["resourceRules"] == rules, "{spec}");
    let expressions = fields(&spec["validations"], "/expression");
    ensure!(expressions == ["has(object.type) && object.type == 'kubernetes.io/tls'"], "{expressions:?}");
    let binding = &object(&objects, "ValidatingAdmissionPolicyBinding", name)?["spec"];
    ensure!(*binding == json!({"policyName": name, "validationActions": ["Deny"]}), "{binding}");
    Ok(())
}

#[tokio::test]
async fn private_endpoint_is_a_flag_of_the_operator() -> Result<()> {
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
