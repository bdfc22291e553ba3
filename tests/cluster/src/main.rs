//! `cluster`: creates and deletes Kubernetes clusters for tests.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum as _};
use podmeta_cluster::commands::{down, lock, remove_node, status, up};
use podmeta_cluster::images::{TestImage, containerd};
use podmeta_cluster::layout::{ClusterName, MAX_NODES, MachineName, NodeId};
use podmeta_cluster::machine::{RunningMachine, init};
use podmeta_cluster::network::datapath::Datapath;
use podmeta_cluster::network::{cni, imds_stub, network_policy};
use podmeta_cluster::prerequisites;
use podmeta_cluster::programs::{CONTAINERD_MODULE, COREDNS_MODULE, HELM_MODULE, KUBERNETES_MODULE};

/// Creates Kubernetes clusters for tests, from namespaces on this host. Needs root.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct ClusterCli {
    #[command(subcommand)]
    command: ClusterCommand,
    /// Name of the cluster: 1 to 11 of a-z, 0-9 and -. Clusters with different names can run at the same time.
    #[arg(long, global = true, default_value = "podmeta")]
    name: ClusterName,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Create a cluster, or start what does not run of an existing one.
    Up {
        /// Number of nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
        nodes: u8,
        /// CNI plugin of the nodes. Default: that of the existing cluster, or bridge.
        #[arg(long)]
        cni: Option<Datapath>,
        /// Taints of the nodes that this command adds, such as `podmeta.dev/not-ready=:NoSchedule`.
        #[arg(long)]
        register_with_taints: Option<String>,
    },
    /// Delete the cluster with all its data.
    Down,
    /// Delete the last node with its pods and data.
    RemoveNode {
        /// The node, such as c.
        node: NodeId,
    },
    /// Print the services, nodes and pods of the cluster.
    Status,
    /// Import images into every node.
    LoadImage {
        /// pause, coredns, client, podmeta, or the path of an OCI image archive.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Print the required Debian packages that are not installed.
    MissingPackages,
    /// Build all programs (Kubernetes, kubectl, containerd, runc, helm, CoreDNS) and print a PATH that contains them.
    BuildPrograms,
    /// Print the values of `up --cni`, the default first.
    Datapaths,
    /// Build an image and print the path of its archive.
    ImageArchive {
        /// The image.
        image: TestImage,
    },
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Run a shell or a command on a node (a, b, ...) or on control-plane.
    Shell {
        /// The machine.
        machine: MachineName,
        /// The command.
        #[arg(last = true, default_value = "/bin/sh")]
        command: Vec<String>,
    },
    #[command(hide = true)]
    Machine { machine: MachineName },
    #[command(hide = true)]
    Init { machine: MachineName },
    #[command(hide = true)]
    ImdsStub,
    #[command(hide = true)]
    CniPlugin,
    #[command(hide = true)]
    NetworkPolicies { kubeconfig: PathBuf, node: String },
}

fn main() -> ExitCode {
    match run(ClusterCli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(ClusterCli { command, name }: ClusterCli) -> Result<()> {
    match command {
        ClusterCommand::MissingPackages => {
            println!("{}", prerequisites::missing_packages().join(" "));
            Ok(())
        }
        ClusterCommand::Up { nodes, cni, register_with_taints } => {
            up::up(&name, nodes, cni, register_with_taints.as_deref())
        }
        ClusterCommand::Down => down::down(&name),
        ClusterCommand::RemoveNode { node } => remove_node::remove_node(&name, node),
        ClusterCommand::Status => prerequisites::require_root().and_then(|()| status::status(&name)),
        ClusterCommand::LoadImage { images } => load_images(&name, &images),
        ClusterCommand::BuildPrograms => {
            let modules = [KUBERNETES_MODULE, CONTAINERD_MODULE, HELM_MODULE, COREDNS_MODULE];
            let dirs = modules.map(|module| module.build());
            let dirs = dirs.into_iter().map(|dir| Ok(dir?.display().to_string())).collect::<Result<Vec<_>>>()?;
            println!("export PATH={}:$PATH", dirs.join(":"));
            Ok(())
        }
        ClusterCommand::Datapaths => {
            Datapath::value_variants().iter().for_each(|datapath| println!("{datapath}"));
            Ok(())
        }
        ClusterCommand::ImageArchive { image } => {
            println!("{}", image.ensure_archive()?.display());
            Ok(())
        }
        ClusterCommand::Kubeconfig => {
            println!("{}", name.state_dir().join("kubeconfig").display());
            Ok(())
        }
        ClusterCommand::Shell { machine, command } => shell(&name, machine, &command),
        ClusterCommand::Machine { machine } => init::unshare_machine(&name, machine),
        ClusterCommand::Init { machine } => init::run(&name, machine),
        ClusterCommand::CniPlugin => cni::run(),
        ClusterCommand::ImdsStub => runtime()?.block_on(imds_stub::serve()),
        ClusterCommand::NetworkPolicies { kubeconfig, node } => {
            runtime()?.block_on(network_policy::enforce(&kubeconfig, &node))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot create the tokio runtime")
}

fn load_images(cluster: &ClusterName, images: &[String]) -> Result<()> {
    prerequisites::require_root()?;
    let _lock = lock::acquire()?;
    let archives = images.iter().map(|image| match TestImage::from_str(image, false) {
        Ok(known) => known.ensure_archive(),
        Err(_) => Ok(PathBuf::from(image)),
    });
    let archives = archives.collect::<Result<Vec<_>>>()?;
    let find = |node| RunningMachine::find(cluster, MachineName::Node(node)).transpose();
    let nodes = NodeId::first(MAX_NODES).filter_map(find).collect::<Result<Vec<_>>>()?;
    anyhow::ensure!(
        !nodes.is_empty(),
        "no node of cluster {cluster} runs: start it with `cluster up --name {cluster}`"
    );
    for node in &nodes {
        archives.iter().try_for_each(|archive| containerd::import(archive, node))?;
    }
    Ok(())
}

fn shell(cluster: &ClusterName, machine: MachineName, command: &[String]) -> Result<()> {
    prerequisites::require_root()?;
    let running = RunningMachine::find(cluster, machine)?.with_context(|| {
        format!("machine {machine} of cluster {cluster} does not run: start it with `cluster up --name {cluster}`")
    })?;
    let (program, arguments) = command.split_first().context("the command is empty")?;
    Err(running.command(program)?.args(arguments).current_dir("/").exec()).context("cannot run nsenter")
}
