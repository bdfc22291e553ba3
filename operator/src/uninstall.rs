//! Removes podmeta from the nodes before its release is uninstalled. The chart runs it as a `pre-delete` hook.
//!
//! 1. Deletes the DaemonSet `RELEASE-agent` and the Deployment `RELEASE-operator`, and waits until their pods have ended.
//! 2. Changes the DaemonSet `RELEASE-link` so that its pods uninstall podmeta from their nodes.
//! 3. Deletes the condition `podmeta.dev/Guarded` of all nodes: after step 1 no program updates it.
//! 4. Waits until all pods of this DaemonSet are ready: a pod becomes ready when its node is clean.
//! 5. Logs the names of the other nodes: podmeta may be left on them.
//!
//! Each step has a time limit. A repeated run continues where the last one ended.

mod link_daemon_set;
mod node_conditions;
mod progress;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, DeleteParams, ListParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use podmeta_service::log;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing_subscriber::EnvFilter;

use crate::cluster::ApiTimeout;
use crate::cluster::own_objects::retry_while_unavailable;
use crate::text::format_object;
use progress::UninstallProgress;

/// Interval at which the pods are listed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout of one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of attempts to change a DaemonSet whose status changes at the same time.
const MAX_WRITE_ATTEMPTS: usize = 5;

/// Message about nodes without a pod of the link DaemonSet.
const OTHER_NODES: &str = "these nodes have no pod of the link DaemonSet and are not cleaned; if podmeta was installed on \
                           them before, run `podmeta-link uninstall` on them";

/// Removes podmeta from all nodes: the chart's pre-delete hook.
#[derive(Clone, Debug, clap::Args)]
pub struct UninstallArgs {
    /// Name of the Helm release.
    #[arg(long)]
    pub release: String,

    /// Namespace of the release.
    #[arg(long)]
    pub namespace: String,

    /// Time limit, such as 2m. Waiting for the node agents and the operator takes at most half of it.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

/// Runs the uninstallation with the configuration of the pod or of `KUBECONFIG`.
///
/// # Errors
/// If the API server cannot be used, or a node is not reached in time. The message names the nodes.
pub fn main(args: &UninstallArgs) -> Result<()> {
    let _log = log::init(EnvFilter::new("kube_client::client=off,info"));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::try_default().await;
        run(client.context("cannot find an API server: run this in a pod, or set KUBECONFIG")?, args).await
    })
}

async fn run(client: Client, args: &UninstallArgs) -> Result<()> {
    let nodes = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let uninstaller = Uninstaller {
        daemon_sets: Api::namespaced(client.clone(), &args.namespace),
        deployments: Api::namespaced(client.clone(), &args.namespace),
        pods: Api::namespaced(client.clone(), &args.namespace),
        nodes: Api::all(client),
        release: args.release.clone(),
        namespace: args.namespace.clone(),
    };
    let start = Instant::now();
    let deadline = start + args.timeout;
    let deleted = timeout_at(deadline, uninstaller.delete_agents_and_operator()).await;
    deleted.context("timeout: the node agents and the operator are not deleted")??;
    uninstaller.wait_for_agents_and_operator(start + args.timeout / 2).await;
    let switched = timeout_at(deadline, uninstaller.switch_links()).await;
    if !switched.context("timeout: the link daemons are not uninstalling")?? {
        tracing::info!("the release has no link DaemonSet; nothing to remove from nodes");
        node_conditions::delete(&nodes).await;
        return Ok(());
    }
    let mut progress = UninstallProgress::default();
    let waits = uninstaller.wait_for_links(&mut progress, deadline);
    let ((), waited) = tokio::join!(node_conditions::delete(&nodes), waits);
    uninstaller.name_other_nodes(&progress).await;
    waited
}

struct Uninstaller {
    daemon_sets: Api<DaemonSet>,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    nodes: Api<Node>,
    release: String,
    namespace: String,
}

impl Uninstaller {
    async fn delete_agents_and_operator(&self) -> Result<()> {
        delete(&self.daemon_sets, &self.namespace, &format!("{}-agent", self.release)).await?;
        delete(&self.deployments, &self.namespace, &format!("{}-operator", self.release)).await
    }

    /// Waits until no pod of a node agent or operator exists. One that stays on an unreachable node does not stop the
    /// uninstallation of the other nodes.
    async fn wait_for_agents_and_operator(&self, deadline: Instant) {
        loop {
            let pods = self.list_pods("in (agent,operator)").await;
            match &pods {
                Ok(pods) if pods.is_empty() => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot list node agents and operators; retrying");
                }
            }
            if Instant::now() + POLL_INTERVAL > deadline {
                let nodes = progress::nodes(pods.as_deref().unwrap_or_default()).collect::<Vec<_>>().join(", ");
                tracing::warn!(nodes, "node agents or operators have not ended in time; continuing the uninstallation");
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Makes the link daemons uninstall. Returns false if the DaemonSet does not exist.
    async fn switch_links(&self) -> Result<bool> {
        let name = self.link_name();
        let switch = || async {
            for _ in 0..MAX_WRITE_ATTEMPTS {
                let current = self.daemon_sets.get_opt(&name).await;
                let Some(mut links) = current.with_context(|| format!("cannot read DaemonSet {name}"))? else {
                    return Ok(false);
                };
                link_daemon_set::switch_to_uninstalling(&mut links).with_context(|| format!("DaemonSet {name}"))?;
                match self.daemon_sets.replace(&name, &PostParams::default(), &links).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    result => {
                        return result.map(|_| true).with_context(|| format!("cannot change DaemonSet {name}"));
                    }
                }
            }
            bail!("cannot change DaemonSet {name}: it changed in {MAX_WRITE_ATTEMPTS} attempts")
        };
        let switched = retry_while_unavailable(&format!("change DaemonSet {name}"), switch).await?;
        if switched {
            tracing::info!(
                object_kind = "DaemonSet",
                object = format_object(Some(&self.namespace), &name),
                "changed the link DaemonSet: its pods now remove podmeta from their nodes"
            );
        }
        Ok(switched)
    }

    /// Waits until each node of the link DaemonSet is clean.
    ///
    /// # Errors
    /// If a node is not clean at the deadline.
    async fn wait_for_links(&self, progress: &mut UninstallProgress, deadline: Instant) -> Result<()> {
        loop {
            match timeout(POLL_TIMEOUT, self.observe_links(progress)).await.unwrap_or(Ok(())) {
                Ok(()) if progress.is_complete() => {
                    tracing::info!(
                        count = progress.clean_nodes(),
                        "removed podmeta from all nodes of the link DaemonSet"
                    );
                    return Ok(());
                }
                Ok(()) => {}
                Err(error) => tracing::warn!(
                    object_kind = "DaemonSet",
                    object = format_object(Some(&self.namespace), &self.link_name()),
                    error = format!("{error:#}"),
                    "cannot read the link DaemonSet or its pods; retrying until the deadline"
                ),
            }
            if Instant::now() + POLL_INTERVAL > deadline {
                bail!("podmeta is not removed from {}", progress.remaining());
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn observe_links(&self, progress: &mut UninstallProgress) -> Result<()> {
        let links = self.daemon_sets.get(&self.link_name()).await?;
        let pods = self.list_pods("= link").await?;
        progress.observe(&links, &pods);
        Ok(())
    }

    /// Logs the names of the nodes without a pod of the link DaemonSet, for example because `link.nodeSelector` has changed.
    /// The API server does not know whether podmeta ran on them before.
    async fn name_other_nodes(&self, progress: &UninstallProgress) {
        match self.list_linux_nodes().await {
            Ok(nodes) => {
                let nodes = progress.other_nodes(nodes).join(", ");
                if !nodes.is_empty() {
                    tracing::warn!(nodes, "{OTHER_NODES}");
                }
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "cannot list the nodes; those without a link daemon are not named: check nodes without a pod of the link \
                 DaemonSet by hand"
            ),
        }
    }

    async fn list_linux_nodes(&self) -> Result<Vec<String>> {
        let params = ListParams::default().labels("kubernetes.io/os=linux");
        let list = timeout(POLL_TIMEOUT, self.nodes.list_metadata(&params));
        let list = list.await.map_err(|_| ApiTimeout)??;
        Ok(list.iter().map(ResourceExt::name_any).collect())
    }

    /// Lists the pods of the release whose component meets a condition of a label selector.
    async fn list_pods(&self, component: &str) -> Result<Vec<Pod>> {
        let release = &self.release;
        let labels = format!("app.kubernetes.io/instance={release},app.kubernetes.io/component {component}");
        let params = ListParams::default().labels(&labels);
        let list = timeout(POLL_TIMEOUT, self.pods.list(&params));
        Ok(list.await.map_err(|_| ApiTimeout)??.items)
    }

    fn link_name(&self) -> String {
        format!("{}-link", self.release)
    }
}

/// Deletes a workload, and its pods with it. Succeeds if it does not exist.
async fn delete<K>(api: &Api<K>, namespace: &str, name: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let kind = K::kind(&());
    let delete = || async {
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| format!("cannot delete {kind} {name}")),
        }
    };
    retry_while_unavailable(&format!("delete {kind} {name}"), delete).await?;
    tracing::info!(object_kind = %kind, object = format_object(Some(namespace), name), "deleted the {kind}");
    Ok(())
}
