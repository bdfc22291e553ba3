//! The cluster under test: that of `cluster up`, or the one that `KUBECONFIG` names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use clap::ValueEnum as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use podmeta_cluster::commands::datapath;
use podmeta_cluster::layout::{ClusterName, IMDS_STUB_COUNTS_PORT};
use podmeta_cluster::machine::command_output;
use podmeta_cluster::network::datapath::Datapath;
use tokio::process::Command;

use super::node::{NodeAccess, TestNode};

/// The cluster under test.
#[derive(Clone)]
pub(crate) struct TestCluster {
    /// A client with the administrator's rights.
    pub(crate) client: Client,
    config: Config,
    /// The administrator's kubeconfig file.
    pub(crate) kubeconfig: PathBuf,
    /// Access of the tests to the nodes.
    pub(super) access: NodeAccess,
    /// Datapath of the pods: that of `cluster up`, or the one that `PODMETA_DATAPATH` names. `None` if it is unknown.
    datapath: Option<Datapath>,
    /// Sorted names of the schedulable nodes. Node `a` of a test is the first.
    pub(super) nodes: Vec<String>,
    /// The node that runs the control plane, if a node runs it.
    pub(super) control_plane: Option<String>,
    /// URL of the request counts of the IMDS stub.
    imds_stub: Option<String>,
}

impl TestCluster {
    /// Connects to the cluster that `KUBECONFIG` names. Without it, to the one that `cluster up` created and
    /// `PODMETA_CLUSTER` names. Default: `podmeta`.
    pub(crate) async fn connect() -> Result<Self> {
        let name: ClusterName = std::env::var("PODMETA_CLUSTER").as_deref().unwrap_or("podmeta").parse()?;
        let path = std::env::var_os("KUBECONFIG").map_or_else(|| name.state_dir().join("kubeconfig"), PathBuf::from);
        let advice = "create a cluster with `make cluster`, or set KUBECONFIG";
        let config =
            Kubeconfig::read_from(&path).with_context(|| format!("cannot read {}: {advice}", path.display()))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let server = config.cluster_url.host().unwrap_or_default().to_owned();
        let client = Client::try_from(config.clone())?;
        let list = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
        let nodes = list.with_context(|| format!("the API server at {server} does not respond: {advice}"))?.items;
        let provider = nodes.first().and_then(|node| node.spec.as_ref()?.provider_id.clone()).unwrap_or_default();
        let access = if let Some(name) = local_cluster(&path) {
            NodeAccess::Namespaces(name)
        } else if provider.starts_with("kind://") {
            NodeAccess::Docker
        } else {
            NodeAccess::None
        };
        let datapath = match &access {
            NodeAccess::Namespaces(name) => datapath::read(name)?,
            NodeAccess::Docker | NodeAccess::None => datapath_of_environment()?,
        };
        let imds_stub = match (std::env::var("PODMETA_IMDS_STUB"), &access) {
            (Ok(url), _) => Some(url),
            (Err(_), NodeAccess::Namespaces(_)) => Some(format!("http://{server}:{IMDS_STUB_COUNTS_PORT}/requests")),
            (Err(_), NodeAccess::Docker | NodeAccess::None) => None,
        };
        let is_control_plane = |node: &&Node| node.labels().contains_key("node-role.kubernetes.io/control-plane");
        let control_plane = nodes.iter().find(is_control_plane).map(ResourceExt::name_any);
        let mut nodes: Vec<_> = nodes.iter().filter(|node| is_schedulable(node)).map(ResourceExt::name_any).collect();
        nodes.sort();
        Ok(Self { client, config, kubeconfig: path, access, datapath, nodes, control_plane, imds_stub })
    }

    /// Returns a node by its letter: `a` is the first.
    pub(crate) fn node(&self, letter: &str) -> Result<TestNode> {
        let index = usize::from(letter.bytes().next().unwrap_or_default().wrapping_sub(b'a'));
        let name = self.nodes.get(index);
        let name =
            name.with_context(|| format!("there is no node {letter}: the cluster has {} nodes", self.nodes.len()))?;
        Ok(self.node_by_name(name))
    }

    /// Returns a node by its name in the API server.
    pub(crate) fn node_by_name(&self, name: &str) -> TestNode {
        TestNode::new(self.client.clone(), self.access.clone(), name.to_owned())
    }

    /// Returns the names of all schedulable nodes.
    pub(crate) fn node_names(&self) -> &[String] {
        &self.nodes
    }

    /// True if packets of pods to the clouds' metadata addresses pass neither routing rules nor nftables of their node.
    pub(crate) fn bypasses_host_stack(&self) -> bool {
        self.datapath.is_some_and(Datapath::bypasses_host_stack)
    }

    /// Returns a copy of the administrator's client configuration.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// Returns the number of requests that the IMDS stub got, by source address.
    pub(crate) async fn imds_stub_request_counts(&self) -> Result<BTreeMap<IpAddr, u64>> {
        let Some(url) = &self.imds_stub else {
            bail!("no IMDS stub: set PODMETA_IMDS_STUB to the URL of its request counts")
        };
        let output = Command::new("curl").args(["-sSf", "--max-time", "5", url]).output().await?;
        let text = command_output(&output).with_context(|| format!("{url} does not respond"))?;
        Ok(serde_json::from_str(&text)?)
    }
}

fn datapath_of_environment() -> Result<Option<Datapath>> {
    let Ok(name) = std::env::var("PODMETA_DATAPATH") else { return Ok(None) };
    Datapath::from_str(&name, false).map(Some).map_err(Error::msg).context("PODMETA_DATAPATH is not valid")
}

/// Returns the name of the cluster of `cluster up` that a kubeconfig belongs to.
fn local_cluster(kubeconfig: &Path) -> Option<ClusterName> {
    let name: ClusterName = kubeconfig.parent()?.file_name()?.to_str()?.parse().ok()?;
    (name.state_dir().join("kubeconfig") == kubeconfig).then_some(name)
}

pub(super) fn is_schedulable(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_none_or(|taints| taints.iter().all(|taint| taint.effect != "NoSchedule"))
}
