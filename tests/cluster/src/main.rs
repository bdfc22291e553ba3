//! `cluster`: makes a real Kubernetes for tests, and takes it away.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum as _};
use podmeta_cluster::images::{self, Known};
use podmeta_cluster::layout::{ClusterName, MAX_NODES, Machine, Node};
use podmeta_cluster::machine::Running;
use podmeta_cluster::programs::{COREDNS_MODULE, HELM_MODULE, KUBERNETES_MODULE};
use podmeta_cluster::{down, init, lock, needs, network_policy, real_imds, status, up};

/// A real Kubernetes for tests, made of namespaces on this machine. It needs root.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Which cluster: 1 to 11 of a-z, 0-9 and -. Clusters of different names run side by side.
    #[arg(long, global = true, default_value = "podmeta")]
    name: ClusterName,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster, or what of it is missing.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
        nodes: u8,
    },
    /// Take the cluster away, with everything in it.
    Down,
    /// Print what of the cluster runs.
    Status,
    /// Import images into every node: pause, coredns, client, podmeta, or an OCI archive.
    LoadImage {
        /// What to import.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Print the Debian packages that a cluster needs and that are missing.
    Missing,
    /// Build kubectl, helm and everything else that is built from Go modules, and print the PATH to find them by.
    Programs,
    /// Put an image together, and print where its archive is.
    Archive {
        /// Which image.
        image: Known,
    },
    /// Print where the administrator's kubeconfig is.
    Kubeconfig,
    /// Run a shell, or a command, on a node (a, b, ...) or on control-plane.
    Shell {
        /// Which machine.
        machine: Machine,
        /// What to run.
        #[arg(last = true, default_value = "/bin/sh")]
        command: Vec<String>,
    },
    #[command(hide = true)]
    Machine { machine: Machine },
    #[command(hide = true)]
    Init { machine: Machine },
    #[command(hide = true)]
    RealImds,
    #[command(hide = true)]
    NetworkPolicies { kubeconfig: PathBuf, node: String },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { command, name }: Arguments) -> Result<()> {
    match command {
        Command::Missing => {
            println!("{}", needs::missing().join(" "));
            Ok(())
        }
        Command::Up { nodes } => up::up(&name, nodes),
        Command::Down => down::down(&name),
        Command::Status => needs::root().and_then(|()| status::status(&name)),
        Command::LoadImage { images } => load(&name, &images),
        Command::Programs => {
            let folders = [KUBERNETES_MODULE, HELM_MODULE, COREDNS_MODULE].map(|module| module.build());
            let folders =
                folders.into_iter().map(|folder| Ok(folder?.display().to_string())).collect::<Result<Vec<_>>>()?;
            println!("export PATH={}:$PATH", folders.join(":"));
            Ok(())
        }
        Command::Archive { image } => {
            println!("{}", image.archive()?.display());
            Ok(())
        }
        Command::Kubeconfig => {
            println!("{}", name.state().join("kubeconfig").display());
            Ok(())
        }
        Command::Shell { machine, command } => shell(&name, machine, &command),
        Command::Machine { machine } => init::unshare_machine(&name, machine),
        Command::Init { machine } => init::run(&name, machine),
        Command::RealImds => runtime()?.block_on(real_imds::serve()),
        Command::NetworkPolicies { kubeconfig, node } => {
            runtime()?.block_on(network_policy::enforce(&kubeconfig, &node))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot make a runtime")
}

fn load(cluster: &ClusterName, images: &[String]) -> Result<()> {
    needs::root()?;
    let _lock = lock::take()?;
    let archives = images.iter().map(|image| match Known::from_str(image, false) {
        Ok(known) => known.archive(),
        Err(_) => Ok(PathBuf::from(image)),
    });
    let archives = archives.collect::<Result<Vec<_>>>()?;
    let running = Node::first(MAX_NODES).filter_map(|node| Running::find(cluster, Machine::Node(node)).transpose());
    let running = running.collect::<Result<Vec<_>>>()?;
    anyhow::ensure!(!running.is_empty(), "cluster {cluster} has no nodes: make it with `cluster up --name {cluster}`");
    for node in &running {
        archives.iter().try_for_each(|archive| images::load(archive, node))?;
    }
    Ok(())
}

fn shell(cluster: &ClusterName, machine: Machine, command: &[String]) -> Result<()> {
    needs::root()?;
    let none =
        || format!("machine {machine} of cluster {cluster} does not run: make it with `cluster up --name {cluster}`");
    let running = Running::find(cluster, machine)?.with_context(none)?;
    let (program, arguments) = command.split_first().context("there is nothing to run")?;
    Err(running.command(program)?.args(arguments).current_dir("/").exec()).context("cannot run nsenter")
}
