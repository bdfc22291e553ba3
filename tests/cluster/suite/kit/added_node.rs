//! A node that joins the cluster under test, and is removed again.

use anyhow::{Context as _, Result, bail};
use podmeta_cluster::layout::{ClusterName, NodeId};
use podmeta_cluster::machine::command_output;
use tokio::process::Command;

use super::cluster::TestCluster;
use super::node::NodeAccess;

/// A node with the letter after the last one of the cluster. The caller must remove it, also on errors.
pub(crate) struct AddedNode {
    cluster: ClusterName,
    id: NodeId,
    /// Number of nodes with this one.
    count: u8,
    /// The node's name in the API server.
    pub(crate) name: String,
}

impl AddedNode {
    /// Returns the node, which does not exist yet.
    pub(crate) fn new(cluster: &TestCluster) -> Result<Self> {
        let NodeAccess::Namespaces(name) = &cluster.access else {
            bail!("cannot add nodes: this test needs `cluster up`")
        };
        let count = u8::try_from(cluster.nodes.len() + 1)?;
        let id = NodeId::first(count).last().context("the cluster has no nodes")?;
        Ok(Self { cluster: name.clone(), id, count, name: id.name(name) })
    }

    /// Starts the node. It registers with `taints`, and has the image of podmeta after that.
    pub(crate) async fn join(&self, taints: &str) -> Result<()> {
        self.run(&["up", "--nodes", &self.count.to_string(), "--register-with-taints", taints]).await?;
        self.run(&["load-image", "podmeta"]).await
    }

    /// Removes the node.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.run(&["remove-node", &self.id.to_string()]).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
        let output = command.args(arguments).args(["--name", &self.cluster.to_string()]).output().await?;
        command_output(&output).with_context(|| format!("cluster {}", arguments.join(" "))).map(drop)
    }
}
