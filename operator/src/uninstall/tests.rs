mod node_conditions;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};

const AGENT: &str = "/apis/apps/v1/namespaces/podmeta-system/daemonsets/podmeta-agent";
const OPERATOR: &str = "/apis/apps/v1/namespaces/podmeta-system/deployments/podmeta-operator";
const LINK: &str = "/apis/apps/v1/namespaces/podmeta-system/daemonsets/podmeta-link";
const PODS: &str = "/api/v1/namespaces/podmeta-system/pods";
const NODES: &str = "/api/v1/nodes";
const TIMEOUT: Duration = Duration::from_secs(60);

/// The link DaemonSet of the chart, reduced to what matters here. Its status is that of `generation`.
fn link_daemon_set(desired: u8, generation: u8, observed_generation: u8) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "podmeta-link", "resourceVersion": "7", "generation": generation},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/component": "link"}},
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/component": "link"}},
                "spec": {
                    "hostNetwork": true,
                    "initContainers": [{
                        "name": "install",
                        "volumeMounts": [
                            {"name": "netns", "mountPath": "/run/netns"},
                            {"name": "cni-bin", "mountPath": "/opt/cni/test"},
                        ],
                    }],
                    "containers": [{
                        "name": "link", "image": "podmeta:1", "args": ["run"],
                        "volumeMounts": [
                            {"name": "netns", "mountPath": "/run/netns"},
                            {"name": "cni-config", "mountPath": "/etc/cni/test.d"},
                            {"name": "socket", "mountPath": "/run/podmeta/link"},
                        ],
                    }],
                    "volumes": [
                        {"name": "netns", "hostPath": {"path": "/run/netns"}},
                        {"name": "cni-bin", "hostPath": {"path": "/opt/cni/test"}},
                        {"name": "cni-config", "hostPath": {"path": "/etc/cni/test.d"}},
                        {"name": "socket", "hostPath": {"path": "/run/podmeta/link"}},
                    ],
                },
            },
        },
        "status": {
            "observedGeneration": observed_generation, "desiredNumberScheduled": desired,
            "currentNumberScheduled": desired, "numberMisscheduled": 0, "numberReady": desired,
        },
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkPod {
    /// Runs the link daemon, and is ready.
    Old,
    /// Uninstalls, and is not ready.
    Uninstalling,
    /// Has uninstalled.
    Clean,
}

fn pod(node: &str, state: LinkPod) -> Value {
    let ready = if state == LinkPod::Uninstalling { "False" } else { "True" };
    let command = if state == LinkPod::Old { "run" } else { "uninstall" };
    json!({
        "metadata": {"name": format!("pod-{node}")},
        "spec": {"nodeName": node, "containers": [{"name": "link", "args": [command]}]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn status() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

fn start() -> (FakeApiServer, tokio::task::JoinHandle<Result<()>>) {
    let (client, server) = FakeApiServer::new();
    let args = UninstallArgs { release: "podmeta".into(), namespace: "podmeta-system".into(), timeout: TIMEOUT };
    (server, tokio::spawn(async move { run(client, &args).await }))
}

/// Responds to the requests before the link DaemonSet is changed.
async fn stop_agents(server: &mut FakeApiServer) {
    server.expect(Method::DELETE, AGENT).await.respond(&status());
    server.expect(Method::DELETE, OPERATOR).await.respond(&status());
    let pods = server.expect(Method::GET, PODS).await;
    assert!(pods.query.contains("component+in+%28agent%2Coperator%29"), "{}", pods.query);
    pods.respond(&list(&[]));
}

fn node_list(items: &[Value]) -> Value {
    json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items})
}

async fn switch_links(server: &mut FakeApiServer) -> Value {
    server.expect(Method::GET, LINK).await.respond(&link_daemon_set(2, 1, 1));
    let replace = server.expect(Method::PUT, LINK).await;
    let body = replace.body.clone();
    replace.respond(&link_daemon_set(2, 2, 1));
    body
}

/// Responds to the requests that change the links. No node has the condition.
async fn switch_links_without_conditions(server: &mut FakeApiServer) {
    switch_links(server).await;
    server.expect(Method::GET, NODES).await.respond(&node_list(&[]));
}

/// Responds to the list of nodes, which is the last request.
async fn list_nodes(server: &mut FakeApiServer, names: &[&str]) {
    let request = server.expect(Method::GET, NODES).await;
    assert!(request.query.contains("kubernetes.io%2Fos%3Dlinux"), "{}", request.query);
    let nodes: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    let list =
        json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": nodes});
    request.respond(&list);
}

/// Responds to one poll of the link daemons.
async fn report(server: &mut FakeApiServer, links: &Value, pods: &[Value]) {
    server.expect(Method::GET, LINK).await.respond(links);
    let request = server.expect(Method::GET, PODS).await;
    assert!(request.query.contains("instance%3Dpodmeta%2C"), "{}", request.query);
    assert!(request.query.contains("component+%3D+link"), "{}", request.query);
    request.respond(&list(pods));
}

#[tokio::test(start_paused = true)]
async fn uninstall_succeeds_once_every_node_has_a_ready_pod_that_uninstalled() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links_without_conditions(&mut server).await;
    let links = link_daemon_set(2, 2, 2);
    report(&mut server, &links, &[pod("a", LinkPod::Old), pod("b", LinkPod::Old)]).await;
    report(&mut server, &links, &[pod("a", LinkPod::Clean)]).await;
    report(&mut server, &links, &[pod("a", LinkPod::Clean), pod("b", LinkPod::Uninstalling)]).await;
    assert!(!result.is_finished());
    report(&mut server, &links, &[pod("a", LinkPod::Clean), pod("b", LinkPod::Clean)]).await;
    list_nodes(&mut server, &["a", "b", "c"]).await;
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_of_an_earlier_generation_does_not_end_the_uninstallation() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links_without_conditions(&mut server).await;
    report(&mut server, &link_daemon_set(0, 2, 1), &[]).await;
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Old)]).await;
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Clean)]).await;
    list_nodes(&mut server, &["a"]).await;
    result.await.unwrap().unwrap();
}

#[test]
fn node_that_never_had_a_link_daemon_is_named_apart_from_the_others() {
    let parse = |pods: &[Value]| serde_json::from_value::<Vec<Pod>>(json!(pods)).unwrap();
    let links = serde_json::from_value(link_daemon_set(1, 2, 2)).unwrap();
    let mut progress = UninstallProgress::default();
    progress.observe(&links, &parse(&[pod("a", LinkPod::Old), pod("b", LinkPod::Old)]));
    progress.observe(&links, &parse(&[pod("a", LinkPod::Clean)]));
    assert_eq!(progress.other_nodes(["a", "b", "c"].map(str::to_owned)), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_cannot_be_listed_do_not_fail_the_uninstallation() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links_without_conditions(&mut server).await;
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Clean)]).await;
    server.expect(Method::GET, NODES).await.respond_error(StatusCode::FORBIDDEN);
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_not_reached_in_time_are_named() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links_without_conditions(&mut server).await;
    let links = link_daemon_set(4, 2, 2);
    let pods = [pod("a", LinkPod::Clean), pod("b", LinkPod::Old), pod("c", LinkPod::Uninstalling)];
    let started = Instant::now();
    let polled = tokio::spawn(async move {
        loop {
            let request = server.expect_any().await;
            match request.path.as_str() {
                LINK => request.respond(&links),
                PODS => request.respond(&list(&pods)),
                path => return path.to_owned(),
            }
        }
    });
    let error = result.await.unwrap().unwrap_err().to_string();
    assert_eq!(polled.await.unwrap(), NODES, "the last request");
    let expected = "podmeta is not removed from these nodes: b, c; nodes without a pod of the link DaemonSet: 1";
    assert_eq!(error, expected);
    assert!((TIMEOUT - POLL_INTERVAL..=TIMEOUT).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn agents_that_do_not_end_delay_the_uninstallation_for_half_of_the_time_limit() {
    let (mut server, _result) = start();
    let started = Instant::now();
    server.expect(Method::DELETE, AGENT).await.respond(&status());
    server.expect(Method::DELETE, OPERATOR).await.respond(&status());
    let request = loop {
        let request = server.expect_any().await;
        if request.path != PODS {
            break request;
        }
        request.respond(&list(&[pod("a", LinkPod::Old)]));
    };
    assert_eq!(request.path, LINK);
    assert!((TIMEOUT / 2 - POLL_INTERVAL..=TIMEOUT / 2).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn release_without_daemon_sets_has_nothing_to_uninstall() {
    let (mut server, result) = start();
    server.expect(Method::DELETE, AGENT).await.respond_error(StatusCode::NOT_FOUND);
    server.expect(Method::DELETE, OPERATOR).await.respond_error(StatusCode::NOT_FOUND);
    server.expect(Method::GET, PODS).await.respond(&list(&[]));
    server.expect(Method::GET, LINK).await.respond_error(StatusCode::NOT_FOUND);
    server.expect(Method::GET, NODES).await.respond(&node_list(&[]));
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn forbidden_deletion_fails_without_a_retry() {
    let (mut server, result) = start();
    server.expect(Method::DELETE, AGENT).await.respond_error(StatusCode::FORBIDDEN);
    let error = format!("{:#}", result.await.unwrap().unwrap_err());
    assert!(error.contains("cannot delete DaemonSet podmeta-agent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn daemon_set_that_changed_meanwhile_is_read_again() {
    let (mut server, _result) = start();
    stop_agents(&mut server).await;
    server.expect(Method::GET, LINK).await.respond(&link_daemon_set(2, 1, 1));
    server.expect(Method::PUT, LINK).await.respond_error(StatusCode::CONFLICT);
    switch_links(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn uninstalling_pods_mount_the_cni_directories_and_no_directory_of_podmeta() {
    let (mut server, _result) = start();
    stop_agents(&mut server).await;
    let links = switch_links(&mut server).await;
    assert_eq!(links["metadata"]["resourceVersion"], "7", "a concurrent change must conflict");
    assert_eq!(links["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
    let template = &links["spec"]["template"];
    assert_eq!(template["metadata"]["labels"], json!({"app.kubernetes.io/component": "link"}));
    let pod = &template["spec"];
    assert_eq!((&pod["initContainers"], &pod["hostNetwork"]), (&Value::Null, &json!(true)));
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "podmeta:1");
    let args = json!([
        "uninstall",
        "--cni-config-dir=/etc/cni/test.d",
        "--cni-bin-dir=/opt/cni/test",
        "--cni-cache-dir=/host/var/lib/cni",
        "--agent-namespace=/host/run/netns/podmeta",
        "--state-dir=/host/run/podmeta",
        "--stay=/result/ready",
    ]);
    assert_eq!(container["args"], args);
    let probe = json!(["/podmeta-link", "ready", "--ready-file=/result/ready"]);
    assert_eq!(container["readinessProbe"]["exec"]["command"], probe);
    let paths = |field: &Value, path: &str| -> Vec<Value> {
        field.as_array().unwrap().iter().filter_map(|item| item.pointer(path).cloned()).collect()
    };
    let mounts = &container["volumeMounts"];
    let expected = ["/etc/cni/test.d", "/opt/cni/test", "/host/run", "/host/var/lib", "/result"];
    assert_eq!(paths(mounts, "/mountPath"), expected);
    assert_eq!(paths(&pod["volumes"], "/hostPath/path"), ["/opt/cni/test", "/etc/cni/test.d", "/run", "/var/lib"]);
    let var_lib = json!({
        "name": "var-lib", "mountPath": "/host/var/lib", "readOnly": true, "mountPropagation": "HostToContainer",
    });
    assert_eq!(mounts[3], var_lib);

    let mut again: DaemonSet = serde_json::from_value(links.clone()).unwrap();
    link_daemon_set::switch_to_uninstalling(&mut again).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), links, "a second run changes nothing");
}
