//! podmeta as its users have it: the chart, installed by helm with this checkout's image.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use podmeta_cluster::programs::HELM_MODULE;
use podmeta_crds::metadatapolicy::MetadataPolicy;
use podmeta_crds::metadataprofile::{MetadataProfile, MetadataProfileStatus};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{Cluster, Namespace, Ran, within};

/// The ServiceAccount of the node agents.
pub(crate) const AGENT: &str = "podmeta-agent";

/// The chart of this checkout.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/podmeta");

/// Where podmeta is installed.
pub(super) const SYSTEM: &str = "podmeta-system";

/// Finds an agent's process on a node, from which it can be looked at without the API server.
const FIND_AGENT: &str = r#"for process in /proc/[0-9]*; do
  case "$(tr '\0' ' ' 2>/dev/null < "$process/cmdline")" in
    "/podmeta-node-agent serve "*) echo "${process#/proc/}"; exit;;
  esac
done
exit 1"#;

/// Lets tests come as far as the operator's port with what they stole, on clusters where policies are enforced.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tests}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/component: operator}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {podmeta.test/suite: podmeta}}}], ports: [{port: 8443}]}]
";

/// Tests run in one process, and share what is installed.
static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// podmeta, on a cluster.
pub(crate) struct Podmeta {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// Its own namespace.
    pub(crate) system: Namespace,
}

impl Podmeta {
    /// podmeta, installed if this process has not done so yet. An earlier one goes first: its image may be an older one.
    pub(crate) async fn install(cluster: &Cluster) -> Result<Self> {
        let system = Namespace { client: cluster.client.clone(), name: SYSTEM.to_owned() };
        INSTALLED
            .get_or_try_init(async || {
                helm(cluster, &["uninstall", "podmeta", "--ignore-not-found", "--wait"]).await?;
                let image = "image.repository=podmeta.test/podmeta,image.tag=dev,image.pullPolicy=Never";
                let set = ["--set", image, "--set", "agent.askSocket=true", "--set", "agent.log=info\\,access=debug"];
                let install = ["install", "podmeta", CHART, "--create-namespace", "--wait", "--timeout", "120s"];
                helm(cluster, &[&install[..], &set].concat()).await?;
                system.apply(OPEN).await
            })
            .await?;
        Ok(Self { cluster: cluster.clone(), system })
    }

    /// Takes away what lets tests come as far as the operator's port. [`Podmeta::open`] must follow, whatever happens between.
    pub(crate) async fn close(&self) -> Result<()> {
        self.system.api::<NetworkPolicy>().delete("tests", &DeleteParams::default()).await?;
        Ok(())
    }

    /// Lets tests come as far as the operator's port.
    pub(crate) async fn open(&self) -> Result<()> {
        self.system.apply(OPEN).await
    }

    /// The process of the agent on a node, as the node counts.
    pub(crate) async fn agent_process(&self, node: &str) -> Result<String> {
        let process = self.cluster.node_named(node).sh(FIND_AGENT).await;
        Ok(process.with_context(|| format!("no agent runs on {node}"))?.trim().to_owned())
    }

    /// The agent's pod on a node.
    pub(crate) async fn agent_on(&self, node: &str) -> Result<String> {
        let here = ListParams::default()
            .labels("app.kubernetes.io/component=agent")
            .fields(&format!("spec.nodeName={node},status.phase=Running"));
        let agents = self.system.api::<Pod>().list(&here).await?;
        let alive = agents.iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
        alive.map(|pod| pod.name_any()).with_context(|| format!("no agent runs on {node}"))
    }

    /// Asks the agent of a node as a pod: with arguments of `podmeta-node-agent ask`.
    pub(crate) async fn ask(&self, node: &str, arguments: &[&str]) -> Result<Ran> {
        let agent = self.agent_on(node).await?;
        let command = [&["/podmeta-node-agent", "ask"], arguments].concat();
        self.system.exec_in(&agent, "serve", &command).await
    }

    /// What a pod gets, once it gets it.
    pub(crate) async fn answer(&self, node: &str, arguments: &[&str]) -> Result<String> {
        within(Duration::from_secs(30), "the agent answers", async || {
            let ran = self.ask(node, arguments).await?;
            ensure!(ran.succeeded, "{arguments:?}: {}{}", ran.stderr, ran.stdout);
            Ok(ran.stdout)
        })
        .await
    }

    /// The status of a profile, once it is so.
    pub(crate) async fn status(
        &self,
        namespace: &Namespace,
        profile: &str,
        what: &str,
        so: impl Fn(&MetadataProfileStatus) -> bool,
    ) -> Result<MetadataProfileStatus> {
        let profiles: Api<MetadataProfile> = namespace.api();
        within(Duration::from_secs(40), what, async || {
            let status = profiles.get(profile).await?.status.unwrap_or_default();
            ensure!(so(&status), "MetadataProfile {profile} says: {}", serde_json::to_string(&status)?);
            Ok(status)
        })
        .await
    }

    /// Upgrades to the same chart with other values, and waits until it runs.
    pub(crate) async fn upgrade(&self, values: &[&str]) -> Result<()> {
        let upgrade = ["upgrade", "podmeta", CHART, "--reuse-values", "--wait", "--timeout", "120s"];
        helm(&self.cluster, &[&upgrade[..], values].concat()).await.map(drop)
    }

    /// Changes how many replicas the operator has; does not wait until they are there.
    pub(crate) async fn scale_operator(&self, replicas: u8) -> Result<()> {
        let scale = json!({"spec": {"replicas": replicas}});
        let deployments = self.system.api::<Deployment>();
        deployments.patch_scale("podmeta-operator", &PatchParams::default(), &Patch::Merge(&scale)).await?;
        Ok(())
    }

    /// Deletes a profile.
    pub(crate) async fn delete_profile(&self, namespace: &Namespace, name: &str) -> Result<()> {
        namespace.api::<MetadataProfile>().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes a policy, which no namespace takes with it.
    pub(crate) async fn delete_policy(&self, name: &str) -> Result<()> {
        let policies: Api<MetadataPolicy> = Api::all(self.cluster.client.clone());
        policies.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

async fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let program = tokio::task::spawn_blocking(|| HELM_MODULE.build()).await??.join("helm");
    let mut helm = Command::new(program);
    helm.arg("--kubeconfig").arg(&cluster.kubeconfig).args(["--namespace", SYSTEM]).args(arguments);
    let output = helm.output().await.context("cannot run helm")?;
    podmeta_cluster::machine::text(&output).with_context(|| format!("helm {}", arguments.join(" ")))
}

/// A condition of a status.
pub(crate) fn condition<'s>(status: &'s MetadataProfileStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}
