//! podmeta, installed with helm from the chart of this checkout and the image `podmeta.test/podmeta:dev`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use podmeta_crds::metadatapolicy::MetadataPolicy;
use podmeta_crds::metadataprofile::MetadataProfile;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::helm::{CHART, SYSTEM_NAMESPACE, helm};
use super::{ExecOutput, TestCluster, TestNamespace, eventually};

/// The account of the chart's settings, which signed documents have.
pub(crate) const CLUSTER_ACCOUNT: &str = "111122223333";
/// The region of the chart's settings, which signed documents have.
pub(crate) const CLUSTER_REGION: &str = "eu-north-1";
/// The ServiceAccount of the node agents.
pub(crate) const AGENT_ACCOUNT: &str = "podmeta-agent";
/// Label selector of the node agents' pods.
pub(crate) const AGENT_LABEL: &str = "app.kubernetes.io/component=agent";
/// Label selector of the operator's pods.
pub(crate) const OPERATOR_LABEL: &str = "app.kubernetes.io/component=operator";
/// The command that queries an agent through its debug socket, in the agent's container.
pub(crate) const QUERY_COMMAND: [&str; 2] = ["/podmeta-node-agent", "query"];
/// Timeout until the pods of a changed DaemonSet or Deployment are available.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(120);

/// Start of the command line of the node agent.
pub(crate) const AGENT_COMMAND: &str = "/podmeta-node-agent serve ";
/// Start of the command line of the link daemon.
pub(crate) const LINK_COMMAND: &str = "/podmeta-link run ";
/// Start of the command line of the operator.
pub(crate) const OPERATOR_COMMAND: &str = "/podmeta-operator run ";

/// Prints the process IDs of the command lines that start with `$command`.
const FIND_PROCESSES_SCRIPT: &str = r#"for process in /proc/[0-9]*; do
  case "$(tr '\0' ' ' 2>/dev/null < "$process/cmdline")" in
    "$command"*) echo "${process#/proc/}";;
  esac
done"#;

/// Allows pods of test namespaces to connect to the operator's port.
const TEST_INGRESS_POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tests}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/component: operator}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {podmeta.test/suite: podmeta}}}], ports: [{port: 8443}]}]
";

/// The installation, which all tests share: they run in one process.
static INSTALLATION: Mutex<Installation> = Mutex::const_new(Installation::Unknown);

/// State of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installation {
    /// No test of this process has changed it. An earlier release may be installed, and its image may be older.
    Unknown,
    Installed,
    Absent,
}

/// podmeta on the cluster under test.
pub(crate) struct Podmeta {
    /// The cluster under test.
    pub(crate) cluster: TestCluster,
    /// The namespace `podmeta-system`.
    pub(crate) system: TestNamespace,
}

impl Podmeta {
    /// Installs podmeta, unless this process has installed it. Uninstalls an earlier release first.
    pub(crate) async fn install(cluster: &TestCluster) -> Result<Self> {
        let mut installation = INSTALLATION.lock().await;
        let system = TestNamespace { client: cluster.client.clone(), name: SYSTEM_NAMESPACE.to_owned() };
        if *installation == Installation::Unknown {
            uninstall(cluster).await?;
        }
        if *installation != Installation::Installed {
            *installation = Installation::Unknown;
            let image = "image.repository=podmeta.test/podmeta,image.tag=dev,image.pullPolicy=Never";
            let values = ["--set", image, "--set", "agent.debugSocket=true", "--set", "agent.log=info\\,access=debug"];
            let cluster_values = format!("cluster.accountId={CLUSTER_ACCOUNT},cluster.region={CLUSTER_REGION}");
            let install = ["install", "podmeta", CHART, "--create-namespace", "--wait", "--timeout", "120s"];
            let values = [&values[..], &["--set-string", &cluster_values]].concat();
            helm(cluster, &[&install[..], &values].concat()).await?;
            system.apply(TEST_INGRESS_POLICY).await?;
            *installation = Installation::Installed;
        }
        Ok(Self { cluster: cluster.clone(), system })
    }

    /// Uninstalls podmeta, unless this process has uninstalled it. No other test may run. Returns what helm printed.
    pub(crate) async fn uninstall(cluster: &TestCluster) -> Result<String> {
        let mut installation = INSTALLATION.lock().await;
        if *installation == Installation::Absent {
            return Ok(String::new());
        }
        *installation = Installation::Unknown;
        let printed = uninstall(cluster).await?;
        *installation = Installation::Absent;
        Ok(printed)
    }

    /// Runs `body`, which installs or uninstalls podmeta itself. The next installation replaces what it leaves. No other test
    /// may run.
    pub(crate) async fn with_own_installation(body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        *INSTALLATION.lock().await = Installation::Unknown;
        body().await
    }

    /// Upgrades to the same chart with other values, and waits until the new pods are ready.
    pub(crate) async fn upgrade(&self, values: &[&str]) -> Result<()> {
        let upgrade = ["upgrade", "podmeta", CHART, "--reuse-values", "--wait", "--timeout", "120s"];
        helm(&self.cluster, &[&upgrade[..], values].concat()).await.map(drop)
    }

    /// Allows pods of test namespaces to connect to the operator.
    pub(crate) async fn allow_test_ingress(&self) -> Result<()> {
        self.system.apply(TEST_INGRESS_POLICY).await
    }

    /// Leaves only the chart's NetworkPolicies. The caller must call [`Podmeta::allow_test_ingress`] afterwards, also on
    /// errors.
    pub(crate) async fn deny_test_ingress(&self) -> Result<()> {
        self.system.api::<NetworkPolicy>().delete("tests", &DeleteParams::default()).await?;
        Ok(())
    }

    /// Returns the name of the agent's pod on a node.
    pub(crate) async fn agent_on(&self, node: &str) -> Result<String> {
        let params =
            ListParams::default().labels(AGENT_LABEL).fields(&format!("spec.nodeName={node},status.phase=Running"));
        let agents = self.system.api::<Pod>().list(&params).await?;
        let active = agents.iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
        active.map(|pod| pod.name_any()).with_context(|| format!("no agent runs on node {node}"))
    }

    /// Returns the process ID of the agent on a node, in the node's PID namespace.
    pub(crate) async fn agent_process(&self, node: &str) -> Result<String> {
        let processes = self.processes(node, AGENT_COMMAND).await?;
        processes.into_iter().next().with_context(|| format!("no agent runs on node {node}"))
    }

    /// Returns the process IDs of one of podmeta's programs on a node, without the API server. They are those of the node's PID
    /// namespace.
    pub(crate) async fn processes(&self, node: &str, command: &str) -> Result<Vec<String>> {
        let script = format!("command='{command}'\n{FIND_PROCESSES_SCRIPT}");
        let printed = self.cluster.node_by_name(node).sh(&script).await?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Applies a strategic patch to the pod template of a DaemonSet, and waits until all pods are updated and available.
    pub(crate) async fn roll_out_daemon_set(&self, name: &str, template: &Value) -> Result<()> {
        let sets = self.system.api::<DaemonSet>();
        let patch = Patch::Strategic(json!({"spec": {"template": template}}));
        let generation = sets.patch(name, &PatchParams::default(), &patch).await?.metadata.generation;
        eventually(ROLLOUT_TIMEOUT, "the DaemonSet is updated", async || {
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

    /// Applies a strategic patch to the pod template of a Deployment, and waits until only updated pods exist and are available.
    pub(crate) async fn roll_out_deployment(&self, name: &str, template: &Value) -> Result<()> {
        let deployments = self.system.api::<Deployment>();
        let patch = Patch::Strategic(json!({"spec": {"template": template}}));
        let patched = deployments.patch(name, &PatchParams::default(), &patch).await?;
        let (generation, replicas) = (patched.metadata.generation, patched.spec.and_then(|spec| spec.replicas));
        eventually(ROLLOUT_TIMEOUT, "the Deployment is updated", async || {
            let status = deployments.get(name).await?.status.context("the Deployment has no status")?;
            let is_updated = status.observed_generation == generation
                && [status.replicas, status.updated_replicas, status.available_replicas] == [replicas; 3];
            ensure!(is_updated, "{status:?}");
            Ok(())
        })
        .await
    }

    /// Queries the agent of a node through its debug socket, with arguments of the query command.
    pub(crate) async fn query(&self, node: &str, arguments: &[&str]) -> Result<ExecOutput> {
        let agent = self.agent_on(node).await?;
        self.system.exec_in(&agent, "serve", &[&QUERY_COMMAND, arguments].concat()).await
    }

    /// Queries the agent of a node until it succeeds, for at most 30 seconds. Returns the response body.
    pub(crate) async fn query_until_ok(&self, node: &str, arguments: &[&str]) -> Result<String> {
        eventually(Duration::from_secs(30), "the agent returns 200", async || {
            let output = self.query(node, arguments).await?;
            ensure!(output.succeeded, "{arguments:?}: {}{}", output.stderr, output.stdout);
            Ok(output.stdout)
        })
        .await
    }

    /// Lists podmeta's pods with a label.
    pub(crate) async fn pods(&self, label: &str) -> Result<Vec<Pod>> {
        Ok(self.system.api::<Pod>().list(&ListParams::default().labels(label)).await?.items)
    }

    /// Waits until both operator pods and the agent of each node are ready. Returns operator pods and agent pods.
    pub(crate) async fn wait_until_ready(&self) -> Result<(Vec<Pod>, Vec<Pod>)> {
        eventually(Duration::from_secs(90), "both operators and all agents are ready", async || {
            let (operators, agents) = (self.pods(OPERATOR_LABEL).await?, self.pods(AGENT_LABEL).await?);
            let ready = operators.iter().chain(&agents).filter(|pod| is_ready(pod)).count();
            let (all, nodes) = (operators.len() + agents.len(), self.cluster.node_names().len());
            ensure!(ready == all && all == 2 + nodes, "{ready} of {all} pods are ready");
            Ok((operators, agents))
        })
        .await
    }

    /// Runs `body` while no operator pod exists. Restores two replicas afterwards, also on errors.
    pub(crate) async fn without_operator(&self, body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        self.scale_operator(0).await?;
        let stopped = eventually(Duration::from_secs(60), "no operator pod exists", async || {
            ensure!(self.pods(OPERATOR_LABEL).await?.is_empty(), "an operator pod exists");
            Ok(())
        });
        let result = match stopped.await {
            Ok(()) => body().await,
            Err(error) => Err(error),
        };
        self.scale_operator(2).await?;
        result
    }

    async fn scale_operator(&self, replicas: u8) -> Result<()> {
        let scale = json!({"spec": {"replicas": replicas}});
        let deployments = self.system.api::<Deployment>();
        deployments.patch_scale("podmeta-operator", &PatchParams::default(), &Patch::Merge(&scale)).await?;
        Ok(())
    }

    /// Deletes a profile.
    pub(crate) async fn delete_profile(&self, namespace: &TestNamespace, name: &str) -> Result<()> {
        namespace.api::<MetadataProfile>().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes a policy. Policies are cluster-scoped, so they outlive the test namespace.
    pub(crate) async fn delete_policy(&self, name: &str) -> Result<()> {
        let policies: Api<MetadataPolicy> = Api::all(self.cluster.client.clone());
        policies.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Uninstalls the release, if there is one. Returns what helm printed.
async fn uninstall(cluster: &TestCluster) -> Result<String> {
    helm(cluster, &["uninstall", "podmeta", "--ignore-not-found", "--wait"]).await
}
