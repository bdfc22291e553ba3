//! Pods on the host network with the redirection (`nodeMetadata.redirectHostNetwork`).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use podmeta_cluster::layout::{METADATA_ADDRESSES, url_host};
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use podmeta_metadata::dialect::Dialect;
use serde_json::json;

use super::fixtures::profile;
use crate::kit::{self, ExecOutput, Podmeta, TestNamespace, TestNode, eventually};

const CONNECTIONS: &str = include_str!("scripts/connections.py");

/// Addresses of a node's link that stand for service addresses.
pub(super) const LINK_ADDRESSES: [&str; 3] = ["169.254.239.2", "169.254.239.4", "fda9:fe:a9fe::a9fe:ef03"];

/// Name of the exempt pod in `kube-system`.
const EXEMPT_POD: &str = "podmeta-test-redirection";

/// Timeout until a change has reached the node. The link daemon checks every 5 seconds, and the agent reports as often.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Prints what the redirection leaves on a node: its link, its routes and its pins.
const TRACES: &str = "ip -o link show | grep -o 'podmeta0' || true
{ ip route show table all; ip -6 route show table all; } | grep prohibit || true
ls -d /run/podmeta/bpf/connect-* 2>/dev/null || true";

/// The response that a pod gets.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Its own instance ID.
    Own,
    /// The response of the node's own metadata service.
    NodeService,
    Forbidden,
    /// No response, because the uplink guard drops the request.
    Nothing,
}

/// The pods of the test on node `a`.
struct TestPods<'a> {
    namespace: &'a TestNamespace,
    system: TestNamespace,
    node: TestNode,
}

impl<'a> TestPods<'a> {
    async fn start(podmeta: &Podmeta, namespace: &'a TestNamespace) -> Result<Self> {
        let system = TestNamespace { client: namespace.client.clone(), name: "kube-system".to_owned() };
        let node = podmeta.cluster.node("a")?;
        namespace.apply(&policy(&namespace.name)).await?;
        let options = json!({"httpTokens": "optional", "httpProtocolIpv6": "enabled"});
        for (name, mode) in [("own", "Pod"), ("denied", "Deny"), ("node", "Node"), ("forwarded", "Pod")] {
            let spec = json!({"dialects": ["ec2", "ecs"], "metadataOptions": options, "hostNetwork": mode});
            namespace.apply(&profile(name, spec)).await?;
        }
        let spec = |on_host: bool| json!({"nodeName": node.name, "hostNetwork": on_host});
        for (name, on_host) in [("own", true), ("denied", true), ("node", true), ("other", true), ("forwarded", false)]
        {
            namespace.start_client(name, spec(on_host)).await?;
        }
        system.start_client(EXEMPT_POD, spec(true)).await?;
        Ok(Self { namespace, system, node })
    }

    /// Waits until a pod gets this from each service address.
    async fn expect(&self, namespace: &TestNamespace, name: &str, expected: Expected) -> Result<()> {
        let uid = namespace.api::<Pod>().get(name).await?.uid().context("the pod has no UID")?;
        eventually(CHANGE_TIMEOUT, &format!("pod {name} gets {expected:?}"), async || {
            for address in METADATA_ADDRESSES {
                let dialect = if address == "100.100.100.200" { Dialect::Ecs } else { Dialect::Ec2 };
                let output = get(namespace, name, address).await?;
                let is_expected = match expected {
                    Expected::Own => output.stdout == format!("{} 200", dialect.protocol().instance_id(&uid)),
                    Expected::NodeService => output.stdout == format!("{RESPONSE_BODY} 200"),
                    Expected::Forbidden => output.stdout.ends_with(" 403"),
                    Expected::Nothing => output.stdout == " 000",
                };
                ensure!(is_expected, "{address}: {output:?}");
            }
            Ok(())
        })
        .await
    }

    async fn check_redirected(&self) -> Result<()> {
        for (name, expected) in [
            ("own", Expected::Own),
            ("denied", Expected::Forbidden),
            ("other", Expected::Forbidden),
            ("forwarded", Expected::Own),
            ("node", Expected::NodeService),
        ] {
            self.expect(self.namespace, name, expected).await?;
        }
        self.expect(&self.system, EXEMPT_POD, Expected::NodeService).await?;
        self.expect_open_node().await?;
        try_join_all(LINK_ADDRESSES.map(async |address| {
            let forwarded = get(self.namespace, "forwarded", address).await?;
            ensure!(!forwarded.succeeded, "{address}: {forwarded:?}");
            anyhow::Ok(())
        }))
        .await?;
        for address in METADATA_ADDRESSES {
            let printed = self.namespace.run("denied", &["python3", "-c", CONNECTIONS, address]).await?;
            println!("{address}: {printed}");
            let forbidden = printed.lines().filter(|line| line.contains("403 Forbidden")).count();
            ensure!(forbidden >= 2 && forbidden == printed.lines().count(), "{address}: {printed}");
        }
        let traces = self.node.sh(TRACES).await?;
        ensure!(["podmeta0", "prohibit", "connect-ipv6"].iter().all(|trace| traces.contains(trace)), "{traces}");
        Ok(())
    }

    /// Waits until the redirection is removed, and the pods on the host network that are not exempt get this instead.
    async fn expect_not_redirected(&self, expected: Expected) -> Result<()> {
        for name in ["own", "denied", "other", "node"] {
            self.expect(self.namespace, name, expected).await?;
        }
        self.expect(&self.system, EXEMPT_POD, Expected::NodeService).await?;
        let traces = self.node.sh(TRACES).await?;
        ensure!(traces.is_empty(), "{traces}");
        self.expect_open_node().await
    }

    /// Checks that a process of the node gets the response of the node's own metadata service.
    async fn expect_open_node(&self) -> Result<()> {
        for url in crate::cluster::imds_stub::urls() {
            let printed = self.node.sh(&format!("curl -gsSf --max-time 5 '{url}'")).await?;
            ensure!(printed == RESPONSE_BODY, "{url}: {printed}");
        }
        Ok(())
    }
}

/// Returns a policy that allows the mode `Node` in a namespace.
fn policy(namespace: &str) -> String {
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    json!({
        "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace},
        "spec": {"namespaceSelector": selector, "allowedHostNetwork": ["Deny", "Pod", "Node"]},
    })
    .to_string()
}

/// Requests the instance ID at an address in a pod. Returns body and status.
async fn get(namespace: &TestNamespace, pod: &str, address: &str) -> Result<ExecOutput> {
    let url = format!("http://{}/latest/meta-data/instance-id", url_host(address));
    namespace.exec(pod, &["curl", "-gsS", "-m", "3", "-w", " %{http_code}", &url]).await
}

async fn set_redirection(podmeta: &Podmeta, is_on: bool) -> Result<()> {
    podmeta.upgrade(&["--set", &format!("nodeMetadata.redirectHostNetwork={is_on}")]).await
}

/// Turns the redirection on and off, and uninstalls podmeta with it.
async fn check(podmeta: &Podmeta, pods: &TestPods<'_>) -> Result<()> {
    let checked = match set_redirection(podmeta, true).await {
        Ok(()) => pods.check_redirected().await.context("with the redirection"),
        Err(error) => Err(error),
    };
    let turned_off = set_redirection(podmeta, false).await;
    checked.and(turned_off)?;
    pods.expect_not_redirected(Expected::Nothing).await.context("after the redirection was turned off")?;
    set_redirection(podmeta, true).await?;
    pods.expect(pods.namespace, "own", Expected::Own).await?;
    Podmeta::uninstall(&podmeta.cluster).await?;
    pods.expect_not_redirected(Expected::NodeService).await.context("after the uninstallation")
}

#[tokio::test]
async fn pod_on_the_host_network_gets_what_its_mode_admits_while_the_redirection_is_on() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let checked = match TestPods::start(podmeta, namespace).await {
            Ok(pods) => check(podmeta, &pods).await,
            Err(error) => Err(error),
        };
        let system = Api::<Pod>::namespaced(namespace.client.clone(), "kube-system");
        drop(podmeta.delete_policy(&namespace.name).await);
        drop(system.delete(EXEMPT_POD, &DeleteParams::default().grace_period(0)).await);
        checked
    })
    .await
}
