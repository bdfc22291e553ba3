//! A node of the cluster under test: commands on it and restarts of its programs.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::config::{AuthInfo, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Client, Config};
use podmeta_cluster::kubernetes::node;
use podmeta_cluster::layout::{ClusterName, MachineName, NodeId};
use podmeta_cluster::machine::init::STATE_MOUNT;
use podmeta_cluster::machine::{MachineService, RunningMachine, command_output};
use podmeta_cluster::programs::KUBERNETES_MODULE;
use tokio::process::Command;

/// Way in which tests run commands on nodes.
#[derive(Clone, Debug)]
pub(crate) enum NodeAccess {
    /// Nodes are namespaces of this host, created by `cluster up` for the named cluster.
    Namespaces(ClusterName),
    /// Nodes are containers of kind.
    Docker,
    /// Not available. Tests that need it fail.
    None,
}

/// A node of the cluster under test.
pub(crate) struct TestNode {
    client: Client,
    access: NodeAccess,
    /// The node's name in the API server.
    pub(crate) name: String,
}

impl TestNode {
    pub(super) fn new(client: Client, access: NodeAccess, name: String) -> Self {
        Self { client, access, name }
    }

    /// Runs a shell script on the node and returns its stdout.
    pub(crate) async fn sh(&self, script: &str) -> Result<String> {
        let output = match &self.access {
            NodeAccess::Namespaces(cluster) => {
                let mut command = Command::from(self.machine(cluster)?.command("/bin/sh")?);
                command.args(["-euc", script]).current_dir("/").output().await?
            }
            NodeAccess::Docker => docker(&["exec", &self.name, "sh", "-euc", script]).await?,
            NodeAccess::None => bail!("{}", self.no_access()),
        };
        command_output(&output).with_context(|| format!("on node {}", self.name))
    }

    /// Kills the kubelet, starts it, and waits until the new kubelet reports the node as Ready.
    pub(crate) async fn restart_kubelet(&self) -> Result<()> {
        let before = self.last_heartbeat().await?;
        match &self.access {
            NodeAccess::Namespaces(cluster) => {
                let machine = self.machine(cluster)?;
                machine.kill_service("kubelet")?;
                machine.start_service(&self.service(cluster, "kubelet")?)?;
            }
            NodeAccess::Docker => drop(self.sh("systemctl restart kubelet").await?),
            NodeAccess::None => bail!("{}", self.no_access()),
        }
        let nodes = Api::<Node>::all(self.client.clone());
        let ready =
            |node: Option<&Node>| node.and_then(ready_heartbeat).is_some_and(|(ready, at)| ready && at > before);
        let condition = await_condition(nodes, &self.name, ready);
        let timeout = tokio::time::timeout(Duration::from_secs(60), condition).await;
        timeout.with_context(|| format!("node {} is not Ready after a kubelet restart", self.name))??;
        Ok(())
    }

    /// Returns the configuration of a client with the credentials of the node's kubelet instead of the administrator's.
    pub(crate) async fn kubelet_config(&self, administrator: Config) -> Result<Config> {
        let auth_info = match &self.access {
            NodeAccess::Namespaces(_) => {
                let kubeconfig = self.sh(&format!("cat {STATE_MOUNT}/kubelet.kubeconfig")).await?;
                let users = Kubeconfig::from_yaml(&kubeconfig)?.auth_infos;
                let user = users.into_iter().next().and_then(|user| user.auth_info);
                user.context("the kubelet's kubeconfig has no user")?
            }
            NodeAccess::Docker => {
                let pem = self.sh("base64 -w0 /var/lib/kubelet/pki/kubelet-client-current.pem").await?;
                AuthInfo {
                    client_certificate_data: Some(pem.clone()),
                    client_key_data: Some(pem.into()),
                    ..AuthInfo::default()
                }
            }
            NodeAccess::None => bail!("{}", self.no_access()),
        };
        let mut config = administrator;
        config.auth_info = auth_info;
        Ok(config)
    }

    /// Kills a program of the node. `cluster up`, or elsewhere the kubelet, starts it again.
    pub(crate) async fn kill(&self, program: &str) -> Result<()> {
        match &self.access {
            NodeAccess::Namespaces(cluster) => self.machine(cluster)?.kill_service(program),
            NodeAccess::Docker => self.sh(&format!("kill $(pidof {program})")).await.map(drop),
            NodeAccess::None => bail!("{}", self.no_access()),
        }
    }

    /// Starts a program of the node unless it runs. It can end later.
    pub(crate) async fn start(&self, program: &'static str) -> Result<()> {
        match &self.access {
            NodeAccess::Namespaces(cluster) => {
                let machine = self.machine(cluster)?;
                if machine.is_running(program)? {
                    return Ok(());
                }
                let service = self.service(cluster, program)?;
                tokio::task::spawn_blocking(move || machine.start_service(&service)).await?
            }
            // systemd and the kubelet start them again.
            NodeAccess::Docker => Ok(()),
            NodeAccess::None => bail!("{}", self.no_access()),
        }
    }

    /// Returns the programs that run on a node of `cluster up` all the time. Elsewhere, the node itself starts them again.
    pub(crate) fn programs(&self) -> &'static [&'static str] {
        match &self.access {
            NodeAccess::Namespaces(_) => &["containerd", "kubelet", "kube-proxy", "cluster"],
            NodeAccess::Docker | NodeAccess::None => &[],
        }
    }

    async fn last_heartbeat(&self) -> Result<jiff::Timestamp> {
        let node = Api::<Node>::all(self.client.clone()).get(&self.name).await?;
        ready_heartbeat(&node).map(|(_, at)| at).with_context(|| format!("node {} has no Ready condition", self.name))
    }

    fn id(&self) -> Result<NodeId> {
        self.name.rsplit('-').next().unwrap_or_default().parse()
    }

    fn machine(&self, cluster: &ClusterName) -> Result<RunningMachine> {
        let machine = RunningMachine::find(cluster, MachineName::Node(self.id()?))?;
        machine.with_context(|| format!("the machine of node {} does not run", self.name))
    }

    fn service(&self, cluster: &ClusterName, name: &str) -> Result<MachineService> {
        let programs = KUBERNETES_MODULE.build()?;
        let services = node::services(cluster, self.id()?, &programs, None)?;
        let mut services = services.into_iter().chain([node::container_runtime()?]);
        services.find(|service| service.name == name).with_context(|| format!("a node has no {name}"))
    }

    fn no_access(&self) -> String {
        format!("no access to node {}: this test needs `cluster up` or kind", self.name)
    }
}

/// Returns whether the node is Ready, and the time of that condition's last heartbeat.
fn ready_heartbeat(node: &Node) -> Option<(bool, jiff::Timestamp)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status == "True", ready.last_heartbeat_time.as_ref()?.0))
}

async fn docker(arguments: &[&str]) -> Result<Output> {
    let output = Command::new("docker").args(arguments).output().await.context("cannot run docker")?;
    ensure!(output.status.code() != Some(125), "docker: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
