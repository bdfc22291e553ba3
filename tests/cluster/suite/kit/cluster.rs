//! The cluster that the tests run on: the one of `cluster up`, or any that `KUBECONFIG` leads to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use podmeta_cluster::layout::{self, ASKED_PORT, ClusterName};
use podmeta_cluster::machine::Running;
use tokio::process::Command;

use super::machine::{Access, Machine};

/// Where kubeadm, and with it kind, keeps the API server's manifest, and where it is while the API server is stopped.
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
const AWAY: &str = "/etc/kubernetes/kube-apiserver.yaml";

/// A cluster, and what the tests may do to it.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The administrator's client.
    pub(crate) client: Client,
    config: Config,
    /// The file that leads to it.
    pub(crate) kubeconfig: PathBuf,
    /// How its nodes are got at.
    access: Access,
    /// The nodes' names, in their order: node `a` of a test is the first.
    nodes: Vec<String>,
    /// The node that the control plane runs on, if it runs on one.
    control_plane: Option<String>,
    asked: Option<String>,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`; without that, the one that `cluster up` made and `PODMETA_CLUSTER` names.
    pub(crate) async fn connect() -> Result<Self> {
        let name: ClusterName = std::env::var("PODMETA_CLUSTER").as_deref().unwrap_or("podmeta").parse()?;
        let path = std::env::var_os("KUBECONFIG").map_or_else(|| name.state().join("kubeconfig"), PathBuf::from);
        let advice = "make a cluster with `make cluster`, or set KUBECONFIG";
        let config =
            Kubeconfig::read_from(&path).with_context(|| format!("there is no {}: {advice}", path.display()))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let server = config.cluster_url.host().unwrap_or_default().to_owned();
        let client = Client::try_from(config.clone())?;
        let list = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
        let nodes = list.with_context(|| format!("the API server at {server} does not answer: {advice}"))?.items;
        let provider = nodes.first().and_then(|node| node.spec.as_ref()?.provider_id.clone()).unwrap_or_default();
        let access = if let Some(name) = made_here(&path) {
            Access::Namespaces(name)
        } else if provider.starts_with("kind://") {
            Access::Docker
        } else {
            Access::None
        };
        let asked = match (std::env::var("PODMETA_REAL_IMDS"), &access) {
            (Ok(url), _) => Some(url),
            (Err(_), Access::Namespaces(_)) => Some(format!("http://{server}:{ASKED_PORT}/asked")),
            (Err(_), Access::Docker | Access::None) => None,
        };
        let leads = |node: &&Node| node.labels().contains_key("node-role.kubernetes.io/control-plane");
        let control_plane = nodes.iter().find(leads).map(ResourceExt::name_any);
        let mut nodes: Vec<_> = nodes.iter().filter(|node| schedulable(node)).map(ResourceExt::name_any).collect();
        nodes.sort();
        Ok(Self { client, config, kubeconfig: path, access, nodes, control_plane, asked })
    }

    /// A node by its letter: `a` is the first.
    pub(crate) fn node(&self, letter: &str) -> Result<Machine> {
        let place = usize::from(letter.bytes().next().unwrap_or_default().wrapping_sub(b'a'));
        let name = self.nodes.get(place);
        let name =
            name.with_context(|| format!("there is no node {letter}: the cluster has {} nodes", self.nodes.len()))?;
        Ok(self.node_named(name))
    }

    /// Stops the API server. [`Cluster::start_api_server`] must follow, whatever happens between.
    pub(crate) async fn stop_api_server(&self) -> Result<()> {
        match &self.access {
            Access::Namespaces(name) => {
                let running = Running::find(name, layout::Machine::ControlPlane)?;
                running.context("the control plane does not run")?.kill_service("kube-apiserver")
            }
            // Its kubelet runs it as long as there is a manifest.
            Access::Docker => self.control_plane()?.sh(&format!("mv {MANIFEST} {AWAY}")).await.map(drop),
            Access::None => bail!("the API server cannot be got at: this test needs `cluster up` or kind"),
        }
    }

    /// Starts the API server again, and waits until it answers.
    pub(crate) async fn start_api_server(&self) -> Result<()> {
        match &self.access {
            Access::Namespaces(name) => self.up(name).await.context("the API server does not start again"),
            Access::Docker => {
                self.control_plane()?.sh(&format!("mv {AWAY} {MANIFEST}")).await?;
                super::within(Duration::from_secs(120), "the API server answers", async || {
                    Ok(self.client.apiserver_version().await.map(drop)?)
                })
                .await
            }
            Access::None => Ok(()),
        }
    }

    /// Makes the cluster what it was before the API server was away. All that watches it comes to it by itself, but after one
    /// to three minutes, in which tests that follow would fail: nodes take no pods, and Services lead to pods that are gone.
    pub(crate) async fn wake(&self) -> Result<()> {
        if let Access::Namespaces(name) = &self.access {
            let running =
                Running::find(name, layout::Machine::ControlPlane)?.context("the control plane does not run")?;
            // Elsewhere these end, and are started again, when they cannot renew their Leases.
            ["kube-controller-manager", "kube-scheduler"].iter().try_for_each(|one| running.kill_service(one))?;
        }
        for name in &self.nodes {
            self.node_named(name).kill("kube-proxy").await?;
        }
        if let Access::Namespaces(name) = &self.access {
            self.up(name).await.context("the controllers do not start again")?;
        }
        let nodes = Api::<Node>::all(self.client.clone());
        for name in &self.nodes {
            self.node_named(name).restart_kubelet().await?;
            super::within(Duration::from_secs(60), "the node takes pods", async || {
                ensure!(schedulable(&nodes.get(name).await?), "node {name} takes none");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Starts what of the cluster does not run.
    async fn up(&self, name: &ClusterName) -> Result<()> {
        let mut up = Command::new(env!("CARGO_BIN_EXE_cluster"));
        let nodes = self.nodes.len().to_string();
        let output = up.args(["up", "--name", &name.to_string(), "--nodes", &nodes]).output().await?;
        podmeta_cluster::machine::text(&output).map(drop)
    }

    /// A node by its whole name.
    pub(crate) fn node_named(&self, name: &str) -> Machine {
        Machine::new(self.client.clone(), self.access.clone(), name.to_owned())
    }

    fn control_plane(&self) -> Result<Machine> {
        let name = self.control_plane.as_ref().context("no node has the role control-plane")?;
        Ok(self.node_named(name))
    }

    /// The administrator's settings, to be changed for somebody else.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// The names of all nodes that take pods.
    pub(crate) fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// How often the real metadata service was asked, by address.
    pub(crate) async fn real_imds_asked(&self) -> Result<BTreeMap<IpAddr, u64>> {
        let Some(url) = &self.asked else {
            bail!("nothing counts who asks the real metadata service: set PODMETA_REAL_IMDS to the URL of its counts")
        };
        let output = Command::new("curl").args(["-sSf", "--max-time", "5", url]).output().await?;
        let text = podmeta_cluster::machine::text(&output).with_context(|| format!("{url} does not answer"))?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// The cluster of `cluster up` whose kubeconfig this is.
fn made_here(kubeconfig: &Path) -> Option<ClusterName> {
    let name: ClusterName = kubeconfig.parent()?.file_name()?.to_str()?.parse().ok()?;
    (name.state().join("kubeconfig") == kubeconfig).then_some(name)
}

fn schedulable(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_none_or(|taints| taints.iter().all(|taint| taint.effect != "NoSchedule"))
}
