//! Stops and starts the API server, and restores its clients afterwards.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use podmeta_cluster::kubernetes::control_plane;
use podmeta_cluster::layout::{ClusterName, HostLink, MachineName};
use podmeta_cluster::machine::{RunningMachine, command_output};
use podmeta_cluster::programs::KUBERNETES_MODULE;
use tokio::process::Command;

use super::cluster::{TestCluster, is_schedulable};
use super::eventually;
use super::node::{NodeAccess, TestNode};

/// The static pod manifest of the API server in clusters made with kubeadm, such as those of kind.
const API_SERVER_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// Path of that manifest while the API server is stopped.
const STOPPED_MANIFEST: &str = "/etc/kubernetes/kube-apiserver.yaml";

impl TestCluster {
    /// Stops the API server. The caller must call [`TestCluster::start_api_server`] afterwards, also on errors.
    pub(crate) async fn stop_api_server(&self) -> Result<()> {
        match &self.access {
            NodeAccess::Namespaces(name) => control_plane_machine(name)?.kill_service("kube-apiserver"),
            // The kubelet stops the static pod when its manifest is removed.
            NodeAccess::Docker => {
                self.control_plane_node()?.sh(&format!("mv {API_SERVER_MANIFEST} {STOPPED_MANIFEST}")).await.map(drop)
            }
            NodeAccess::None => bail!("no access to the API server: this test needs `cluster up` or kind"),
        }
    }

    /// Starts the API server and waits until it responds.
    pub(crate) async fn start_api_server(&self) -> Result<()> {
        match &self.access {
            NodeAccess::Namespaces(name) => self.cluster_up(name).await.context("cannot start the API server"),
            NodeAccess::Docker => {
                self.control_plane_node()?.sh(&format!("mv {STOPPED_MANIFEST} {API_SERVER_MANIFEST}")).await?;
                eventually(Duration::from_secs(120), "the API server responds", async || {
                    Ok(self.client.apiserver_version().await.map(drop)?)
                })
                .await
            }
            NodeAccess::None => Ok(()),
        }
    }

    /// Starts only the API server, and waits until it responds. Unlike [`TestCluster::start_api_server`], starts nothing else
    /// of the cluster that does not run.
    pub(crate) async fn start_only_api_server(&self) -> Result<()> {
        let NodeAccess::Namespaces(name) = &self.access else { return self.start_api_server().await };
        let services = control_plane::etcd_and_api_server(&KUBERNETES_MODULE.build()?, self.host_link()?);
        let api_server = services.iter().find(|service| service.name == "kube-apiserver");
        control_plane_machine(name)?.start_service(api_server.context("no API server")?)?;
        eventually(Duration::from_secs(60), "the API server responds", async || {
            Ok(self.client.apiserver_version().await.map(drop)?)
        })
        .await
    }

    /// Returns the link between the host and the cluster of `cluster up`, from the API server's address.
    fn host_link(&self) -> Result<HostLink> {
        let config = self.config();
        let address: Ipv4Addr = config.cluster_url.host().context("the API server has no address")?.parse()?;
        let [_, _, number, _] = address.octets();
        Ok(HostLink(number))
    }

    /// Restarts the clients of the API server after an outage: controllers, scheduler, kube-proxy and kubelets.
    ///
    /// They reconnect without a restart, but only after one to three minutes. Tests that follow would fail until then:
    /// nodes are not schedulable and Services have endpoints of deleted pods.
    pub(crate) async fn restart_api_clients(&self) -> Result<()> {
        if let NodeAccess::Namespaces(name) = &self.access {
            let machine = control_plane_machine(name)?;
            // With kubeadm these exit and restart when they cannot renew their Leases.
            ["kube-controller-manager", "kube-scheduler"]
                .iter()
                .try_for_each(|program| machine.kill_service(program))?;
        }
        for name in &self.nodes {
            self.node_by_name(name).kill("kube-proxy").await?;
        }
        if let NodeAccess::Namespaces(name) = &self.access {
            self.cluster_up(name).await.context("cannot restart the controllers")?;
        }
        let nodes = Api::<Node>::all(self.client.clone());
        for name in &self.nodes {
            self.node_by_name(name).restart_kubelet().await?;
            eventually(Duration::from_secs(60), "the node is schedulable", async || {
                ensure!(is_schedulable(&nodes.get(name).await?), "node {name} has a NoSchedule taint");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Runs `cluster up`, which starts every service that does not run.
    async fn cluster_up(&self, name: &ClusterName) -> Result<()> {
        let mut up = Command::new(env!("CARGO_BIN_EXE_cluster"));
        let nodes = self.nodes.len().to_string();
        let output = up.args(["up", "--name", &name.to_string(), "--nodes", &nodes]).output().await?;
        command_output(&output).map(drop)
    }

    fn control_plane_node(&self) -> Result<TestNode> {
        let name = self.control_plane.as_ref().context("no node has the role control-plane")?;
        Ok(self.node_by_name(name))
    }
}

fn control_plane_machine(cluster: &ClusterName) -> Result<RunningMachine> {
    RunningMachine::find(cluster, MachineName::ControlPlane)?.context("the control plane does not run")
}
