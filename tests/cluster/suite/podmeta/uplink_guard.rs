//! The uplink guard: pods on the host network, and each guard without the others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use podmeta_cluster::images::CLIENT;
use serde_json::{Value, json};

use super::egress_programs::{egress_programs, start_observer};
use crate::kit::{self, LINK_COMMAND, Podmeta, TestNamespace, TestNode, eventually};

/// Shell script that requests each service address, by its route and by a socket that is bound to the uplink. Prints the number of
/// responses of the IMDS stub.
const COUNT_RESPONSES: &str = "
uplink=$(ip -4 route get 198.51.100.1 | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')
for url in http://169.254.169.254/ http://100.100.100.200/ 'http://[fd00:ec2::254]/'; do
  for option in -s \"--interface $uplink\"; do
    curl -gsS -m 3 $option \"$url\" &
  done
done 2>/dev/null | grep -o IMDS-STUB | wc -l";

/// Number of requests of [`COUNT_RESPONSES`].
const REQUESTS: u64 = 6;

/// Timeout until a changed guard is in place.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Name of the pod on the host network in an exempt namespace. Not a test namespace, so the test deletes it.
const EXEMPT_POD: &str = "uplink-guard-exempt";

/// Clients in the network namespace of node `a`.
struct HostClients<'a> {
    podmeta: &'a Podmeta,
    /// The namespace of the pods `host` and `admin`.
    namespace: &'a TestNamespace,
    exempt: TestNamespace,
    node: TestNode,
}

impl<'a> HostClients<'a> {
    async fn start(podmeta: &'a Podmeta, namespace: &'a TestNamespace) -> Result<Self> {
        let node = podmeta.cluster.node("a")?;
        let exempt = TestNamespace { client: namespace.client.clone(), name: "kube-system".to_owned() };
        let on_host = json!({"nodeName": node.name, "hostNetwork": true});
        namespace.start_client("host", on_host.clone()).await?;
        let admin = client_container(&json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}, "runAsUser": 0}));
        namespace
            .start_client("admin", json!({"nodeName": node.name, "hostNetwork": true, "containers": [admin]}))
            .await?;
        exempt.start_client(EXEMPT_POD, on_host).await?;
        Ok(Self { podmeta, namespace, exempt, node })
    }

    async fn delete_exempt(&self) -> Result<()> {
        self.exempt.api::<Pod>().delete(EXEMPT_POD, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Returns the number of responses to pods that are not exempt.
    async fn of_pods(&self) -> Result<[u64; 2]> {
        tokio::try_join!(responses(self.namespace, "host"), responses(self.namespace, "admin")).map(Into::into)
    }

    /// Returns the number of responses to the exempt pod and to a process of the node.
    async fn of_exempt(&self) -> Result<[u64; 2]> {
        let of_node = self.node.sh(COUNT_RESPONSES).await?;
        Ok([responses(&self.exempt, EXEMPT_POD).await?, of_node.trim().parse()?])
    }

    /// Returns the number of requests that the stub got from all clients.
    async fn requests(&self) -> Result<u64> {
        Ok(self.podmeta.cluster.imds_stub_request_counts().await?.values().sum())
    }

    /// Waits until the guard drops all requests of pods and none of the others. Checks the requests that arrive.
    async fn wait_until_guarded(&self) -> Result<()> {
        eventually(CHANGE_TIMEOUT, "only the exempt pod and the node reach the service", async || {
            let responses = (self.of_pods().await?, self.of_exempt().await?);
            ensure!(responses == ([0; 2], [REQUESTS; 2]), "{responses:?}");
            Ok(())
        })
        .await?;
        let before = self.requests().await?;
        ensure!(self.of_pods().await? == [0; 2], "a pod got a response");
        let after = self.requests().await?;
        ensure!(after == before, "the service got {} requests of pods", after - before);
        ensure!(self.of_exempt().await? == [REQUESTS; 2], "the exempt pod or the node got no response");
        let requests = self.requests().await? - after;
        ensure!(requests == 2 * REQUESTS, "the service got {requests} requests of the exempt pod and the node");
        Ok(())
    }
}

/// Returns the container of a client pod with a security context.
fn client_container(context: &Value) -> Value {
    json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
        "securityContext": context,
    })
}

/// Returns the number of responses of the IMDS stub to a pod.
async fn responses(namespace: &TestNamespace, pod: &str) -> Result<u64> {
    Ok(namespace.run(pod, &["sh", "-c", COUNT_RESPONSES]).await?.trim().parse()?)
}

#[tokio::test]
async fn pods_on_the_host_network_reach_the_nodes_service_only_if_they_are_exempt_or_the_guard_is_off() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let clients = HostClients::start(podmeta, namespace).await?;
        let result = check_on_and_off(&clients).await;
        clients.delete_exempt().await?;
        result
    })
    .await
}

async fn check_on_and_off(clients: &HostClients<'_>) -> Result<()> {
    clients.wait_until_guarded().await?;
    let set =
        async |is_on: bool| clients.podmeta.upgrade(&["--set", &format!("nodeMetadata.uplinkGuard={is_on}")]).await;
    let off = match set(false).await {
        Ok(()) => {
            eventually(CHANGE_TIMEOUT, "all reach the service", async || {
                let responses = (clients.of_pods().await?, clients.of_exempt().await?);
                ensure!(responses == ([REQUESTS; 2], [REQUESTS; 2]), "{responses:?}");
                Ok(())
            })
            .await
        }
        Err(error) => Err(error),
    };
    set(true).await?;
    off?;
    clients.wait_until_guarded().await
}

/// Number of addresses that the rules prohibit: the service addresses, and the IPv4 ones with the prefix of NAT64.
const PROHIBITED: usize = 5;

/// The guards of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Rules,
    Table,
    Programs,
}

const GUARDS: [Guard; 3] = [Guard::Rules, Guard::Table, Guard::Programs];

impl Guard {
    /// Returns the shell script that removes the guard from a node.
    fn removal(self) -> &'static str {
        match self {
            Self::Rules => {
                "for family in -4 -6; do for priority in 90 91 92; do
                   while ip $family rule del pref $priority 2>/dev/null; do :; done
                 done; done"
            }
            Self::Table => "nft delete table inet podmeta",
            Self::Programs => "rm /run/podmeta/bpf/uplink-*",
        }
    }
}

/// A pod with `NET_ADMIN` that deletes its link while the link daemon of its node is stopped.
struct UnlinkedPod<'a> {
    podmeta: &'a Podmeta,
    namespace: &'a TestNamespace,
    node: TestNode,
    /// Programs of the node's interfaces while all guards are in place.
    programs: String,
}

const POD: &str = "unlinked";

impl<'a> UnlinkedPod<'a> {
    async fn start(podmeta: &'a Podmeta, namespace: &'a TestNamespace) -> Result<Self> {
        let node = podmeta.cluster.node("a")?;
        start_observer(namespace, &node).await?;
        let container = client_container(&json!({"capabilities": {"add": ["NET_ADMIN"]}}));
        namespace.start_client(POD, json!({"nodeName": node.name, "containers": [container]})).await?;
        let programs = egress_programs(namespace).await?;
        ensure!(!programs.is_empty(), "the uplink guard is off");
        Ok(Self { podmeta, namespace, node, programs })
    }

    /// Waits until all guards and the link are in place.
    async fn wait_until_complete(&self) -> Result<()> {
        eventually(CHANGE_TIMEOUT, "guards and link are in place", async || {
            let state = "ip rule; ip -6 rule; nft list tables; ls /run/podmeta/bpf";
            let state = self.node.sh(state).await?;
            ensure!(state.matches("prohibit").count() == PROHIBITED && state.contains("table inet podmeta"), "{state}");
            let programs = egress_programs(self.namespace).await?;
            ensure!(programs == self.programs, "{programs}");
            self.namespace.run(POD, &["ip", "link", "show", "imds0"]).await.map(drop)
        })
        .await
    }

    /// Removes the link and all guards but those of `left`, and returns the number of service addresses that respond to the pod. The
    /// link daemon repairs them afterwards.
    async fn responses_with(&self, left: &[Guard]) -> Result<usize> {
        self.wait_until_complete().await?;
        let daemon = self.podmeta.processes(&self.node.name, LINK_COMMAND).await?;
        let daemon = daemon.first().context("no link daemon runs on node a")?;
        self.node.sh(&format!("kill -STOP {daemon}")).await?;
        let responses = self.responses_while_stopped(left).await;
        self.node.sh(&format!("kill -CONT {daemon}")).await?;
        responses.with_context(|| format!("with the guards {left:?}"))
    }

    async fn responses_while_stopped(&self, left: &[Guard]) -> Result<usize> {
        self.namespace.run(POD, &["ip", "link", "del", "imds0"]).await?;
        for guard in GUARDS.into_iter().filter(|guard| !left.contains(guard)) {
            self.node.sh(guard.removal()).await?;
        }
        // The kernel detaches the programs some time after the removal of their pins.
        if !left.contains(&Guard::Programs) {
            eventually(CHANGE_TIMEOUT, "the programs are detached", async || {
                let programs = egress_programs(self.namespace).await?;
                ensure!(programs.is_empty(), "{programs}");
                Ok(())
            })
            .await?;
        }
        let urls = crate::cluster::imds_stub::urls();
        let script = "for url; do curl -gsS -m 3 $url & done 2>/dev/null | grep -o IMDS-STUB | wc -l";
        let command = ["sh", "-c", script, "sh", &urls[0], &urls[1], &urls[2]];
        Ok(self.namespace.run(POD, &command).await?.trim().parse()?)
    }
}

#[tokio::test]
async fn each_guard_alone_keeps_a_pod_without_a_link_from_the_nodes_service() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let pod = UnlinkedPod::start(podmeta, namespace).await?;
        ensure!(pod.responses_with(&[]).await? == 3, "without guards, the pod does not reach the service");
        ensure!(pod.responses_with(&[Guard::Programs]).await? == 0, "the programs alone do not suffice");
        // Packets that bypass the node's network stack pass neither rules nor tables.
        let expected = if podmeta.cluster.bypasses_host_stack() { 3 } else { 0 };
        for guard in [Guard::Rules, Guard::Table] {
            let responses = pod.responses_with(&[guard]).await?;
            ensure!(responses == expected, "{guard:?} alone: {responses} responses, expected {expected}");
        }
        pod.wait_until_complete().await
    })
    .await
}
