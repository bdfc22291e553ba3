//! Pods at the real service addresses, through their links.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{self, Podmeta, TestNamespace, eventually};

/// Prints the instance ID, with a token. It tries once.
pub(super) const GET_INSTANCE_ID: &str = "set -e
token=$(curl -sSf -m 10 -X PUT http://169.254.169.254/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
curl -sSf -m 10 -H \"X-aws-ec2-metadata-token: $token\" http://169.254.169.254/latest/meta-data/instance-id";

/// Pods that start at once in the test of the first instruction.
const PODS_AT_ONCE: usize = 40;

/// Requests the instance ID with new connections until the file `/stop` exists. Prints the numbers of right responses,
/// failed connections, and wrong responses, then the failures.
const LOAD_SCRIPT: &str = r"
import http.client, os, sys, time
right = failed = wrong = 0
failures = set()
while not os.path.exists('/stop'):
    try:
        connection = http.client.HTTPConnection('169.254.169.254', timeout=5)
        connection.request('GET', '/latest/meta-data/instance-id')
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        if (response.status, body) == (200, sys.argv[1]):
            right += 1
        elif response.status == 200:
            wrong += 1
        else:
            failed += 1
            failures.add(str(response.status))
    except (OSError, http.client.HTTPException) as error:
        failed += 1
        failures.add(repr(error))
    time.sleep(0.01)
print(right, failed, wrong, *failures)
";

/// The result of [`LOAD_SCRIPT`].
struct LinkLoadResult {
    failed: u64,
    wrong: u64,
    /// Output of the script.
    printed: String,
}

/// Returns a profile that requires no tokens and serves IPv6 too.
fn tokenless_profile(name: &str) -> String {
    let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled"});
    profile(name, json!({"dialects": ["ec2", "ecs"], "metadataOptions": options}))
}

/// Returns the instance ID of a pod by the debug socket of its agent.
pub(super) async fn instance_id(podmeta: &Podmeta, namespace: &TestNamespace, pod: &str) -> Result<String> {
    let node = namespace.node_of(pod).await?;
    let name = format!("{}/{pod}", namespace.name);
    podmeta.query_until_ok(&node, &[&name, "ec2", "/latest/meta-data/instance-id"]).await
}

#[tokio::test]
async fn first_requests_of_pods_that_start_at_once_return_their_own_ids() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.apply(&profile("web", json!({}))).await?;
        podmeta.wait_until_programmed(namespace, "web", 0).await?;
        let start = async |number: usize| {
            let name = format!("web-{number}");
            let first = json!({
                "name": "first", "image": podmeta_cluster::images::CLIENT, "imagePullPolicy": "Never",
                "command": ["sh", "-c", GET_INSTANCE_ID],
            });
            let pod = kit::client_pod(&name, "web", json!({"initContainers": [first], "restartPolicy": "Never"}));
            namespace.start(&name, &pod).await.with_context(|| name.clone())?;
            let printed = namespace.logs(&name, "first").await?;
            let expected = instance_id(podmeta, namespace, &name).await?;
            ensure!(printed == expected, "{name}: the first instruction got {printed}, expected {expected}");
            anyhow::Ok(printed)
        };
        let ids = try_join_all((0..PODS_AT_ONCE).map(start)).await?;
        ensure!(ids.iter().collect::<BTreeSet<_>>().len() == PODS_AT_ONCE, "{ids:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_service_address_serves_the_pod_with_its_own_addresses() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.apply(&tokenless_profile("web")).await?;
        let pod = namespace.start_client("web", json!({})).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        let id = instance_id(podmeta, namespace, "web").await?;
        for address in ["169.254.169.254", "[fd00:ec2::254]"] {
            let url = format!("http://{address}/latest/meta-data/instance-id");
            ensure!(namespace.curl("web", &url).await? == id, "{url}");
        }
        let ecs = namespace.curl("web", "http://100.100.100.200/latest/meta-data/instance-id").await?;
        ensure!(ecs.starts_with("i-") && ecs != id, "{ecs}");
        // The addresses are those of the pod's primary interface.
        let url = "http://169.254.169.254/latest/meta-data/local-ipv4";
        ensure!(namespace.curl("web", url).await? == kit::pod_addresses(&pod)?.0, "{url}");
        let url = "http://169.254.169.254/latest/meta-data/mac";
        let mac = namespace.run("web", &["cat", "/sys/class/net/eth0/address"]).await?;
        ensure!(namespace.curl("web", url).await? == mac.trim(), "{url}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_without_a_profile_gets_403_and_never_the_nodes_service() -> Result<()> {
    kit::podmeta_test(async |_, namespace| {
        namespace.start_client("other", json!({})).await?;
        for url in crate::cluster::imds_stub::urls() {
            let status = ["curl", "-gs", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let printed = namespace.run("other", &status).await?;
            ensure!(printed == "403", "{url}: {printed}");
        }
        Ok(())
    })
    .await
}

/// Runs `body` while pod `web` requests its instance ID with new connections.
async fn under_load(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    body: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<LinkLoadResult> {
    namespace.apply(&tokenless_profile("web")).await?;
    namespace.start_client("web", json!({})).await?;
    podmeta.wait_until_programmed(namespace, "web", 1).await?;
    let id = instance_id(podmeta, namespace, "web").await?;
    let node = namespace.node_of("web").await?;
    let load = async { namespace.run("web", &["python3", "-c", LOAD_SCRIPT, &id]).await };
    let body = async {
        let result = body(&node).await;
        namespace.run("web", &["touch", "/stop"]).await?;
        result
    };
    let (printed, ended) = tokio::join!(load, body);
    ended?;
    let printed = printed?;
    println!("right, failed, wrong: {}", printed.trim());
    let mut words = printed.split_whitespace();
    let mut number = || words.next().context("a number is missing")?.parse::<u64>().context("not a number");
    let (right, failed, wrong) = (number()?, number()?, number()?);
    ensure!(right > 0, "{printed}");
    Ok(LinkLoadResult { failed, wrong, printed })
}

/// Restarts the pods of a DaemonSet and waits until all are updated and ready.
async fn restart(podmeta: &Podmeta, name: &str, restart: usize) -> Result<()> {
    let sets = podmeta.system.api::<DaemonSet>();
    let annotation = json!({"podmeta.test/restart": restart.to_string()});
    let patch: Value = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
    let patched = sets.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let generation = patched.metadata.generation;
    eventually(Duration::from_secs(120), "the DaemonSet is updated", async || {
        let status = sets.get(name).await?.status.context("the DaemonSet has no status")?;
        let desired = status.desired_number_scheduled;
        let is_updated = status.observed_generation == generation
            && status.updated_number_scheduled == Some(desired)
            && status.number_available == Some(desired);
        ensure!(is_updated, "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn restart_of_agents_and_link_daemons_fails_no_connection() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let result = under_load(podmeta, namespace, async |_| {
            for number in 0..3 {
                restart(podmeta, "podmeta-agent", number).await?;
            }
            restart(podmeta, "podmeta-link", 0).await
        })
        .await?;
        ensure!(result.failed == 0 && result.wrong == 0, "{}", result.printed);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn killed_agent_gives_no_wrong_response() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let result = under_load(podmeta, namespace, async |node| {
            for _ in 0..5 {
                let process = podmeta.agent_process(node).await?;
                podmeta.cluster.node_by_name(node).sh(&format!("kill -9 {process}")).await?;
                eventually(Duration::from_secs(120), "another agent runs", async || {
                    ensure!(podmeta.agent_process(node).await? != process, "the old agent runs");
                    Ok(())
                })
                .await?;
                podmeta.wait_until_ready().await?;
            }
            Ok(())
        })
        .await?;
        ensure!(result.wrong == 0, "{}", result.printed);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_agents_of_the_release_may_use_the_link_socket() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let mount = json!({
            "nodeName": podmeta.cluster.node("a")?.name,
            "containers": [{
                "name": "client", "image": podmeta_cluster::images::CLIENT, "imagePullPolicy": "Never",
                "command": ["sleep", "infinity"], "volumeMounts": [{"name": "link", "mountPath": "/link"}],
            }],
            "volumes": [{"name": "link", "hostPath": {"path": "/run/podmeta/link"}}],
        });
        let pod: Pod = namespace.start_client("other", mount).await?;
        let script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/link/link.sock'); \
                      s.sendall(b'\"sockets\"\\n'); data, fds, _, _ = socket.recv_fds(s, 4096, 8); print(len(fds), data.decode())";
        let printed = namespace.run(&pod.name_any(), &["python3", "-c", script]).await?;
        ensure!(printed.starts_with("0 ") && printed.contains("is not a node agent of this release"), "{printed}");
        Ok(())
    })
    .await
}
