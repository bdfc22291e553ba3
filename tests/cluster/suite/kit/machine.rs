//! A node as a machine: what a test does to it that Kubernetes would not.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::Api;
use kube::runtime::wait::await_condition;
use podmeta_cluster::layout::{self, ClusterName};
use podmeta_cluster::machine::{Running, Service};
use podmeta_cluster::programs::KUBERNETES_MODULE;
use tokio::process::Command;

/// How the nodes are got at.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// They are namespaces of this machine, of the cluster of this name.
    Namespaces(ClusterName),
    /// They are kind's containers.
    Docker,
    /// Not at all: tests that need it fail.
    None,
}

/// A node.
pub(crate) struct Machine {
    client: Client,
    access: Access,
    /// The node's name in the cluster.
    pub(crate) name: String,
}

impl Machine {
    pub(super) fn new(client: Client, access: Access, name: String) -> Self {
        Self { client, access, name }
    }

    /// Runs a shell script on the node, and returns what it printed.
    pub(crate) async fn sh(&self, script: &str) -> Result<String> {
        let output = match &self.access {
            Access::Namespaces(cluster) => {
                let mut command = Command::from(self.running(cluster)?.command("/bin/sh")?);
                command.args(["-euc", script]).current_dir("/").output().await?
            }
            Access::Docker => docker(&["exec", &self.name, "sh", "-euc", script]).await?,
            Access::None => bail!("the nodes of this cluster cannot be got at: this test needs `cluster up` or kind"),
        };
        podmeta_cluster::machine::text(&output).with_context(|| format!("on node {}", self.name))
    }

    /// Kills the kubelet, starts it again and waits until the node is Ready because of the new one.
    pub(crate) async fn restart_kubelet(&self) -> Result<()> {
        let before = self.heartbeat().await?;
        match &self.access {
            Access::Namespaces(cluster) => {
                let running = self.running(cluster)?;
                running.kill_service("kubelet")?;
                running.start_service(&self.service(cluster, "kubelet")?)?;
            }
            Access::Docker => drop(self.sh("systemctl restart kubelet").await?),
            Access::None => {
                bail!("the kubelet of {} cannot be got at: this test needs `cluster up` or kind", self.name)
            }
        }
        let nodes = Api::<Node>::all(self.client.clone());
        let ready = |node: Option<&Node>| node.and_then(heartbeat).is_some_and(|(ready, at)| ready && at > before);
        let waited = await_condition(nodes, &self.name, ready);
        tokio::time::timeout(Duration::from_secs(60), waited).await.context("the node is not Ready again")??;
        Ok(())
    }

    /// Kills a program of the node that is started again: by `cluster up` on a node that it made, elsewhere by the kubelet.
    pub(crate) async fn kill(&self, program: &str) -> Result<()> {
        match &self.access {
            Access::Namespaces(cluster) => self.running(cluster)?.kill_service(program),
            Access::Docker => self.sh(&format!("kill $(pidof {program})")).await.map(drop),
            Access::None => bail!("{program} of {} cannot be got at: this test needs `cluster up` or kind", self.name),
        }
    }

    async fn heartbeat(&self) -> Result<jiff::Timestamp> {
        let node = Api::<Node>::all(self.client.clone()).get(&self.name).await?;
        heartbeat(&node).map(|(_, at)| at).with_context(|| format!("node {} was never heard of", self.name))
    }

    fn letter(&self) -> Result<layout::Node> {
        self.name.rsplit('-').next().unwrap_or_default().parse()
    }

    fn running(&self, cluster: &ClusterName) -> Result<Running> {
        let running = Running::find(cluster, layout::Machine::Node(self.letter()?))?;
        running.with_context(|| format!("node {} does not run", self.name))
    }

    fn service(&self, cluster: &ClusterName, name: &str) -> Result<Service> {
        let programs = KUBERNETES_MODULE.build()?;
        let services = podmeta_cluster::node::services(cluster, self.letter()?, &programs)?;
        services.into_iter().find(|service| service.name == name).with_context(|| format!("a node has no {name}"))
    }
}

/// Whether a node is Ready, and since when its kubelet says so.
fn heartbeat(node: &Node) -> Option<(bool, jiff::Timestamp)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status == "True", ready.last_heartbeat_time.as_ref()?.0))
}

async fn docker(arguments: &[&str]) -> Result<Output> {
    let output = Command::new("docker").args(arguments).output().await.context("cannot run docker")?;
    ensure!(output.status.code() != Some(125), "docker: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
