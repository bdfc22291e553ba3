//! Installation on nodes with running pods, and `helm uninstall`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PostParams};
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use super::egress_programs::{egress_programs, start_observer};
use super::fixtures::{GET_INSTANCE_ID, instance_id, profile};
use super::user_shell::{UserShell, cluster_commands};
use crate::cluster::imds_stub::urls;
use crate::kit::{self, Podmeta, TestCluster, TestNamespace, TestNode, eventually};

/// Shell script that prints what podmeta changes on a node: links, rules, tables, mounts, namespaces and files. It leaves
/// out the network of pods, and the plugin's binary, because uninstall keeps it while pods that it made run.
const NODE_STATE: &str = "ip -o link show | grep -v veth | cut -d: -f2 | sort
ip rule; ip -6 rule; nft list tables | sort
tc qdisc show | grep clsact | grep -v veth || true
grep -c podmeta /proc/self/mountinfo || true
ls /run/netns | grep -v ^cni- || true
ls /etc/cni/net.d
ls /opt/cni/bin | grep -v '^podmeta-cni$'
ls -d /run/podmeta 2>/dev/null || true";

async fn state(node: &TestNode) -> Result<String> {
    node.sh(NODE_STATE).await
}

/// Returns the state of a node that has nothing of podmeta. Otherwise a test would accept what an uninstallation has left.
async fn clean_state(node: &TestNode) -> Result<String> {
    let state = state(node).await?;
    ensure!(!state.contains("podmeta") && !state.contains("prohibit"), "node {} is not clean: {state}", node.name);
    Ok(state)
}

/// Returns the nodes, which have nothing of podmeta, with their states.
async fn clean_states(cluster: &TestCluster) -> Result<Vec<(TestNode, String)>> {
    let state = async |name: &String| {
        let node = cluster.node_by_name(name);
        let state = clean_state(&node).await?;
        Ok((node, state))
    };
    try_join_all(cluster.node_names().iter().map(state)).await
}

/// Waits until a node has this state again.
async fn wait_until_as_before(node: &TestNode, before: &str) -> Result<()> {
    eventually(Duration::from_secs(30), "the node is as before", async || {
        let after = state(node).await?;
        ensure!(after == before, "node {}, before: {before}\nafter: {after}", node.name);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn running_and_new_pods_are_served_until_uninstall_leaves_the_nodes_as_before() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        let before = clean_states(cluster).await?;
        namespace.start_client("old", json!({"nodeName": node.name})).await?;
        start_observer(namespace, &node).await?;
        let programs = egress_programs(namespace).await?;
        let podmeta = Podmeta::install(cluster).await?;
        ensure!(egress_programs(namespace).await? != programs, "the uplink guard is not installed");
        for name in ["old", "new"] {
            namespace.apply(&profile(name, json!({}))).await?;
        }
        namespace.start_client("new", json!({"nodeName": node.name})).await?;
        for name in ["old", "new"] {
            podmeta.wait_until_programmed(namespace, name, 1).await?;
            let printed = namespace.run(name, &["sh", "-c", GET_INSTANCE_ID]).await?;
            let expected = instance_id(&podmeta, namespace, name).await?;
            ensure!(printed == expected, "pod {name} got {printed}, expected {expected}");
        }
        for (node, before) in &before {
            ensure!(state(node).await? != *before, "podmeta changed nothing on node {}", node.name);
        }
        Podmeta::uninstall(cluster).await?;
        ensure_no_node_is_guarded(cluster).await?;
        for (node, before) in &before {
            wait_until_as_before(node, before).await?;
        }
        let left = egress_programs(namespace).await?;
        ensure!(left == programs, "programs before: {programs:?}, after: {left:?}");
        // The pod "new" was made with it, and still runs.
        node.sh("test -e /opt/cni/bin/podmeta-cni").await.context("the plugin is removed too early")?;
        for name in ["old", "new"] {
            for url in urls() {
                ensure!(namespace.curl(name, &url).await? == RESPONSE_BODY, "pod {name}: {url}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn uninstall_names_a_node_outside_the_node_selector_and_leaves_it_as_it_is() -> Result<()> {
    kit::bare_cluster_test(async |cluster, _| {
        let (inside, outside) = (cluster.node("a")?, cluster.node("b")?);
        let (inside_before, outside_before) = (clean_state(&inside).await?, clean_state(&outside).await?);
        let podmeta = Podmeta::install(cluster).await?;
        let outside_installed = state(&outside).await?;
        ensure!(outside_installed != outside_before, "podmeta changed nothing on node {}", outside.name);
        let selector = format!(r#"link.nodeSelector={{"kubernetes.io/hostname":"{}"}}"#, inside.name);
        podmeta.upgrade(&["--set-json", &selector]).await?;
        let printed = Podmeta::uninstall(cluster).await?;
        // helm prints the hook's log as one quoted text.
        let warning = printed.split("\\n").find(|line| line.contains("podmeta-link uninstall"));
        let warning = warning.with_context(|| format!("no warning of node {}: {printed}", outside.name))?;
        ensure!(warning.contains(&outside.name) && !warning.contains(&inside.name), "{warning}");
        wait_until_as_before(&inside, &inside_before).await?;
        let left = state(&outside).await?;
        ensure!(left != outside_before, "node {} is clean, but has no link daemon", outside.name);
        // A release whose link daemons run on all nodes removes it there too.
        Podmeta::install(cluster).await?;
        Podmeta::uninstall(cluster).await?;
        wait_until_as_before(&outside, &outside_before).await
    })
    .await
}

/// Checks that no node has the condition of podmeta, which nobody updates after an uninstallation.
async fn ensure_no_node_is_guarded(cluster: &TestCluster) -> Result<()> {
    for node in Api::<Node>::all(cluster.client.clone()).list(&ListParams::default()).await? {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut types = conditions.map(|condition| condition.type_.as_str());
        ensure!(types.all(|kind| kind != "podmeta.dev/Guarded"), "node {} has the condition", node.name_any());
    }
    Ok(())
}

/// Deletes the objects of the release, and nothing on the nodes.
const UNINSTALL_WITHOUT_HOOKS: &str = "helm uninstall podmeta --namespace podmeta-system --no-hooks --wait";

/// Returns the command block of the installation page that starts with these words.
fn documented_command(start: &str) -> Result<String> {
    let mut blocks = cluster_commands("docs/install.md").into_iter().map(|block| block.text);
    blocks.find(|text| text.starts_with(start)).with_context(|| format!("no command block starts with {start:?}"))
}

/// Waits until the debug pod of a node has removed podmeta.
async fn wait_for_debug_pod(namespace: &TestNamespace, node: &str) -> Result<()> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?.items;
    let prefix = format!("node-debugger-{node}-");
    let pod = pods.iter().map(|pod| pod.name_any()).find(|name| name.starts_with(&prefix));
    let pod = pod.with_context(|| format!("kubectl made no debug pod of node {node}"))?;
    namespace.wait_for_log(&pod, "debugger", "removed podmeta from the node").await.map(drop)
}

#[tokio::test]
async fn documented_commands_remove_podmeta_if_helm_runs_no_hooks() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        namespace.wait_for_service_account().await?;
        let before = clean_states(cluster).await?;
        let run_hook = documented_command("helm template podmeta")?;
        let clean_node = documented_command("echo '{\"securityContext\"")?;
        let delete_condition = documented_command("kubectl patch node NODE")?;
        let shell = UserShell::new(cluster, namespace)?;
        Podmeta::install(cluster).await?;
        Podmeta::with_own_installation(async || {
            shell.run(UNINSTALL_WITHOUT_HOOKS).await?;
            for (node, before) in &before {
                ensure!(state(node).await? != *before, "node {} is clean without the commands", node.name);
                shell.run(&clean_node.replace("node/NODE", &format!("node/{}", node.name))).await?;
                wait_for_debug_pod(namespace, &node.name).await?;
                wait_until_as_before(node, before).await?;
                shell.run(&delete_condition.replace("node NODE", &format!("node {}", node.name))).await?;
            }
            ensure_no_node_is_guarded(cluster).await
        })
        .await?;
        Podmeta::install(cluster).await?;
        Podmeta::with_own_installation(async || {
            shell.run(&run_hook).await?;
            shell.run(UNINSTALL_WITHOUT_HOOKS).await?;
            for (node, before) in &before {
                wait_until_as_before(node, before).await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Renames the container of the link DaemonSet. The uninstall hook fails if the container has another name than `link`.
async fn rename_link_container(podmeta: &Podmeta, name: &str) -> Result<()> {
    let daemon_sets = podmeta.system.api::<DaemonSet>();
    eventually(Duration::from_secs(10), "the DaemonSet is changed", async || {
        let mut links = daemon_sets.get("podmeta-link").await?;
        let pod = links.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).context("no pod spec")?;
        pod.containers.first_mut().context("no container")?.name = name.to_owned();
        Ok(daemon_sets.replace("podmeta-link", &PostParams::default(), &links).await.map(drop)?)
    })
    .await
}

/// Returns the kinds of the uninstall hook's objects that exist.
async fn hook_objects(podmeta: &Podmeta) -> Result<Vec<&'static str>> {
    let name = "podmeta-uninstall";
    let (system, client) = (&podmeta.system, &podmeta.cluster.client);
    let found = [
        ("Job", system.api::<Job>().get_opt(name).await?.is_some()),
        ("ServiceAccount", system.api::<ServiceAccount>().get_opt(name).await?.is_some()),
        ("Role", system.api::<Role>().get_opt(name).await?.is_some()),
        ("RoleBinding", system.api::<RoleBinding>().get_opt(name).await?.is_some()),
        ("ClusterRole", Api::<ClusterRole>::all(client.clone()).get_opt(name).await?.is_some()),
        ("ClusterRoleBinding", Api::<ClusterRoleBinding>::all(client.clone()).get_opt(name).await?.is_some()),
    ];
    Ok(found.into_iter().filter_map(|(kind, exists)| exists.then_some(kind)).collect())
}

#[tokio::test]
async fn failed_uninstall_leaves_the_job_of_the_hook_but_not_its_rights_and_can_be_repeated() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, _| {
        rename_link_container(podmeta, "renamed").await?;
        let failed = Podmeta::uninstall(&podmeta.cluster).await;
        rename_link_container(podmeta, "link").await?;
        let error = format!("{:#}", failed.err().context("the hook did not fail")?);
        ensure!(error.contains("it has no container link"), "{error}");
        eventually(Duration::from_secs(10), "only the Job exists", async || {
            let objects = hook_objects(podmeta).await?;
            ensure!(objects == ["Job"], "{objects:?}");
            Ok(())
        })
        .await?;
        Podmeta::uninstall(&podmeta.cluster).await?;
        let objects = hook_objects(podmeta).await?;
        ensure!(objects.is_empty(), "{objects:?}");
        Ok(())
    })
    .await
}
