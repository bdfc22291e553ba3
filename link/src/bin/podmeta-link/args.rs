//! The command line.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use podmeta_link::checks::SharedChecks;
use podmeta_link::cni::conflist::LinkSettings;
use podmeta_link::cni::request::OnFailure;
use podmeta_link::counters::Counters;
use podmeta_link::cri::AgentPods;
use podmeta_link::daemon::DaemonConfig;
use podmeta_link::findings::SharedFindings;
use podmeta_link::guard::uplink;
use podmeta_link::host_pods::NodePods;
use podmeta_link::host_pods::identity::HostPodFinder;
use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::socket::LinkSocketConfig;
use podmeta_link::{agent_ns, protocol};

/// Makes the links of a node's pods to the node agent, and the guards of the node.
#[derive(Parser)]
#[command(version)]
pub(crate) struct LinkCli {
    #[command(subcommand)]
    pub(crate) command: LinkCommand,
    /// Log filter, such as info or info,podmeta_link=debug.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
}

#[derive(Subcommand)]
pub(crate) enum LinkCommand {
    /// Add the guards, pin the agent namespace and copy the CNI plugin. Needs a privileged container.
    Install(InstallArgs),
    /// Check guards, CNI configuration and links, and repair them, until stopped.
    Run(RunArgs),
    /// Exit with 0 if `run` has completed its first pass.
    Ready(ReadyArgs),
    /// Wait until the link daemon has ended, and remove CNI configuration, links, agent namespace, guards and state from
    /// the node. Remove the plugin too, unless pods that were started with it still exist: runtimes start it again when
    /// such a pod ends.
    Uninstall(LinkUninstallArgs),
}

#[derive(Args)]
pub(crate) struct NamespaceArgs {
    /// Path of the pinned agent namespace.
    #[arg(long, default_value = agent_ns::PINNED_PATH, value_name = "PATH")]
    pub(crate) agent_namespace: PathBuf,
}

#[derive(Args)]
pub(crate) struct GuardArgs {
    /// Drop the traffic of pods to the node's metadata service on uplinks too, with an eBPF program. Without this flag,
    /// `install` detaches the programs.
    #[arg(long)]
    pub(crate) uplink_guard: bool,
    /// Path of the bpf filesystem with the programs of the uplink guard and of pods on the host network.
    #[arg(long, default_value = uplink::PINS_PATH, value_name = "PATH")]
    pub(crate) guard_pins: PathBuf,
    /// Redirect requests of pods on the host network to the node agent, with eBPF programs. Without this flag, `install`
    /// detaches the programs.
    #[arg(long)]
    pub(crate) redirect_host_network: bool,
}

#[derive(Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    /// Directory of CNI configurations.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub(crate) cni_config_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct PluginDirArgs {
    /// Directory of CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub(crate) cni_bin_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    #[command(flatten)]
    pub(crate) guard: GuardArgs,
    #[command(flatten)]
    pub(crate) plugins: PluginDirArgs,
    /// Path of the program podmeta-cni.
    #[arg(long, default_value = "/usr/local/bin/podmeta-cni", value_name = "PATH")]
    pub(crate) plugin: PathBuf,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) guard: GuardArgs,
    #[command(flatten)]
    pub(crate) ready: ReadyArgs,
    /// Socket of the container runtime.
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
    pub(crate) runtime_socket: PathBuf,
    /// Directory where cgroup v2 is mounted, or its parent if the node also has v1.
    #[arg(long, default_value = "/sys/fs/cgroup", value_name = "DIR")]
    pub(crate) cgroup_root: PathBuf,
    /// Namespaces whose pods on the host network may reach the node's own metadata service, separated by commas.
    #[arg(long, default_value = "kube-system", value_delimiter = ',', value_name = "NAMES")]
    pub(crate) node_metadata_namespaces: Vec<String>,
    /// Range of the links' addresses.
    #[arg(long, default_value_t = LinkRange::default(), value_name = "PREFIX")]
    pub(crate) link_range: LinkRange,
    /// Effect on a pod whose link cannot be made or is not active within 10 s.
    #[arg(long, default_value = "fail", value_name = "ACTION")]
    on_failure: OnFailureArg,
    /// Socket for the node agent.
    #[arg(long, default_value = protocol::SOCKET_PATH, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Name of the Helm release whose node agents may use the socket.
    #[arg(long, value_name = "NAME")]
    pub(crate) release: String,
    /// Namespace of the release.
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) release_namespace: String,
}

#[derive(Args)]
pub(crate) struct ReadyArgs {
    /// File that exists once `run` has completed its first pass.
    #[arg(long, default_value = "/run/podmeta/link/ready", value_name = "PATH")]
    pub(crate) ready_file: PathBuf,
}

#[derive(Args)]
pub(crate) struct LinkUninstallArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) plugins: PluginDirArgs,
    /// Directory of libcni's cache. Its entries name the pods that were started with the plugin.
    #[arg(long, default_value = "/var/lib/cni", value_name = "DIR")]
    pub(crate) cni_cache_dir: PathBuf,
    /// Directory of podmeta's state.
    #[arg(long, default_value = "/run/podmeta", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Afterwards, write this file and wait until stopped, as a pod of a DaemonSet must.
    #[arg(long, value_name = "PATH")]
    pub(crate) stay: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnFailureArg {
    /// The pod does not start; the runtime retries.
    Fail,
    /// The pod starts. Without a link, it reaches no metadata service until the link daemon makes the link. With a link
    /// that is not active yet, its first requests can time out.
    Start,
}

impl RunArgs {
    /// Returns the configuration of the socket for the node agent.
    pub(crate) fn socket_config(
        &self,
        counters: Arc<Counters>,
        findings: Arc<SharedFindings>,
        checks: Arc<SharedChecks>,
        node_pods: Arc<NodePods>,
    ) -> Result<LinkSocketConfig> {
        let finder = || {
            let host = Netns::current().context("cannot open the node's network namespace")?;
            Ok::<_, anyhow::Error>(Arc::new(HostPodFinder::new(host, self.cgroup_root.clone())))
        };
        Ok(LinkSocketConfig {
            path: self.socket.clone(),
            agent_namespace: self.node.namespace.agent_namespace.clone(),
            runtime_socket: self.runtime_socket.clone(),
            agent_pods: AgentPods { namespace: self.release_namespace.clone(), release: self.release.clone() },
            counters,
            findings,
            checks,
            host_pods: self.guard.redirect_host_network.then(finder).transpose()?,
            node_pods,
        })
    }

    /// Returns the configuration of the daemon.
    pub(crate) fn config(self, node_pods: Arc<NodePods>) -> DaemonConfig {
        let on_failure = match self.on_failure {
            OnFailureArg::Fail => OnFailure::Fail,
            OnFailureArg::Start => OnFailure::Start,
        };
        DaemonConfig {
            agent_namespace: self.node.namespace.agent_namespace,
            guard_pins: self.guard.uplink_guard.then(|| self.guard.guard_pins.clone()),
            host_pods_pins: self.guard.redirect_host_network.then_some(self.guard.guard_pins),
            node_pods,
            cgroup_root: self.cgroup_root,
            node_metadata_namespaces: self.node_metadata_namespaces,
            cni_config_dir: self.node.cni_config_dir,
            runtime_socket: self.runtime_socket,
            settings: LinkSettings { link_range: self.link_range, on_failure },
        }
    }
}
