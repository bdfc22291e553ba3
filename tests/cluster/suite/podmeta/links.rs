//! Pods at the real service addresses, through their links.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;

use super::fixtures::{instance_id, profile};
use crate::kit;

/// Returns a profile that requires no tokens and serves IPv6 too.
fn tokenless_profile(name: &str) -> String {
    let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled"});
    profile(name, json!({"dialects": ["ec2", "ecs"], "metadataOptions": options}))
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

/// Python program that calls the link daemon for sockets. Prints the number of descriptors, and the response. The daemon may
/// close the connection before it has the call.
const CALL_LINK_DAEMON: &str = r#"
import contextlib, socket
s = socket.socket(socket.AF_UNIX)
s.connect('/link/link.sock')
with contextlib.suppress(BrokenPipeError):
    s.sendall(b'"sockets"\n')
data, fds, _, _ = socket.recv_fds(s, 4096, 8)
print(len(fds), data.decode())
"#;

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
        let printed = namespace.run(&pod.name_any(), &["python3", "-c", CALL_LINK_DAEMON]).await?;
        ensure!(printed.starts_with("0 ") && printed.contains("is not a node agent of this release"), "{printed}");
        Ok(())
    })
    .await
}
