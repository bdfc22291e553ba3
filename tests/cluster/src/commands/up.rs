//! The command `cluster up`. Each step creates what is missing and keeps what exists, so that an interrupted command can be
//! repeated.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::progress::run_step;
use super::{datapath, down, lock};
use crate::images::{TestImage, containerd};
use crate::kubernetes::kubectl::Kubectl;
use crate::kubernetes::pki::{self, ClusterCa};
use crate::kubernetes::{connectivity, control_plane, node};
use crate::layout::{ClusterName, HostLink, IMDS_STUB_COUNTS_PORT, MachineName, NodeId};
use crate::machine::processes::poll_until;
use crate::machine::{MachineService, RunningMachine};
use crate::network::datapath::Datapath;
use crate::network::links;
use crate::prerequisites;
use crate::programs::{CONTAINERD_MODULE, COREDNS_MODULE, KUBERNETES_MODULE};

const COREDNS_MANIFEST: &str = include_str!("../../manifests/coredns.yaml");
const NETWORK_POLICIES_MANIFEST: &str = include_str!("../../manifests/network-policies.yaml");
/// Timeout of one step of Kubernetes on a slow host.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// Marker file of a machine that registered its Node object. Without it, an existing Node object belongs to a deleted machine
/// of the same name.
const REGISTERED_FILE: &str = "/run/registered";

struct ClusterMachines {
    control_plane: RunningMachine,
    nodes: Vec<(NodeId, RunningMachine)>,
}

/// Creates the missing parts of a cluster, and waits until pods on all nodes reach each other. New nodes register with `taints`,
/// which has the form of the kubelet's flag `--register-with-taints`.
///
/// # Errors
/// If the cluster exists with another datapath. If a step fails: the error then names the directory with logs and events.
pub fn up(cluster: &ClusterName, nodes: u8, cni: Option<Datapath>, taints: Option<&str>) -> Result<()> {
    let plugins = prerequisites::check()?;
    let programs = KUBERNETES_MODULE.build()?;
    CONTAINERD_MODULE.build()?;
    COREDNS_MODULE.build()?;
    let _lock = lock::acquire()?;
    let kubectl = Kubectl::new(&programs, cluster);
    let started = Instant::now();
    delete_after_reboot(cluster)?;
    let datapath = datapath::select(cluster, cni)?;
    if let Err(error) = create(cluster, nodes, datapath, taints, &programs, &plugins, &kubectl) {
        let dir = write_diagnostics(cluster, &kubectl);
        return Err(error.context(format!("cannot create cluster {cluster}; logs and events: {}", dir.display())));
    }
    println!("cluster {cluster} is ready after {:.1} s", started.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", cluster.state_dir().join("kubeconfig").display());
    Ok(())
}

fn create(
    cluster: &ClusterName,
    nodes: u8,
    datapath: Datapath,
    taints: Option<&str>,
    programs: &Path,
    plugins: &Path,
    kubectl: &Kubectl,
) -> Result<()> {
    let all: Vec<NodeId> = NodeId::first(nodes.max(existing_nodes(cluster))).collect();
    let archives = run_step("images", || {
        let images = [TestImage::Pause, TestImage::Coredns, TestImage::Client];
        images.into_iter().map(TestImage::ensure_archive).collect::<Result<Vec<PathBuf>>>()
    })?;
    let machines = run_step("machines", || start_machines(cluster, &all))?;
    let link = run_step("network", || connect(cluster, &machines, datapath))?;
    run_step("certificates and configuration", || configure(cluster, &machines, link, datapath, plugins))?;
    run_step("control plane and images", || {
        std::thread::scope(|scope| {
            let images = scope.spawn(|| for_each_node(&machines.nodes, |_, machine| import(machine, &archives)));
            let control_plane = start_control_plane(&machines.control_plane, programs, link, kubectl);
            join(images).and(control_plane)
        })
    })?;
    run_step("nodes", || {
        for_each_node(&machines.nodes, |node, machine| start_node(cluster, node, machine, taints, programs, kubectl))
    })?;
    run_step("connectivity between pods", || connectivity::check(kubectl, all.len()))
}

/// Deletes a cluster that ran before the last boot of this host: its processes ended at an arbitrary point.
fn delete_after_reboot(cluster: &ClusterName) -> Result<()> {
    let file = cluster.state_dir().join("boot-id");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    if cluster.state_dir().exists() && fs::read_to_string(&file).is_ok_and(|saved| saved != boot_id) {
        println!("the host was restarted: creating cluster {cluster} again");
        down::delete(cluster)?;
    }
    pki::write_private(&file, &boot_id)
}

/// Returns how many nodes the cluster already has.
pub(super) fn existing_nodes(cluster: &ClusterName) -> u8 {
    let dirs = fs::read_dir(cluster.state_dir().join("machines")).into_iter().flatten().flatten();
    let nodes = dirs.filter(|dir| dir.file_name().to_str().is_some_and(|name| name.parse::<NodeId>().is_ok()));
    u8::try_from(nodes.count()).unwrap_or(u8::MAX)
}

fn start_machines(cluster: &ClusterName, nodes: &[NodeId]) -> Result<ClusterMachines> {
    let control_plane = RunningMachine::start(cluster, MachineName::ControlPlane)?;
    let start = |node: &NodeId| Ok((*node, RunningMachine::start(cluster, MachineName::Node(*node))?));
    Ok(ClusterMachines { control_plane, nodes: nodes.iter().map(start).collect::<Result<_>>()? })
}

fn connect(cluster: &ClusterName, machines: &ClusterMachines, datapath: Datapath) -> Result<HostLink> {
    let link = links::set_up_fabric(cluster, &machines.control_plane)?;
    let all: Vec<NodeId> = machines.nodes.iter().map(|(node, _)| *node).collect();
    for (node, machine) in &machines.nodes {
        links::connect_node(*node, machine, &machines.control_plane, &all, datapath)?;
    }
    Ok(link)
}

fn configure(
    cluster: &ClusterName,
    machines: &ClusterMachines,
    link: HostLink,
    datapath: Datapath,
    plugins: &Path,
) -> Result<()> {
    let ca = ClusterCa::open(&cluster.state_dir().join("pki"))?;
    control_plane::configure(cluster, &machines.control_plane, &ca, link)?;
    for (node, machine) in &machines.nodes {
        node::configure(cluster, *node, machine, &ca, datapath, plugins)?;
    }
    Ok(())
}

fn start_control_plane(machine: &RunningMachine, programs: &Path, link: HostLink, kubectl: &Kubectl) -> Result<()> {
    machine.start_service(&imds_stub()?)?;
    start_services(machine, &control_plane::etcd_and_api_server(programs, link))?;
    let is_ready = || kubectl.run(&["get", "--raw", "/readyz"]).is_ok();
    ensure!(poll_until(STEP_TIMEOUT, is_ready), "the API server is not ready after {} s", STEP_TIMEOUT.as_secs());
    start_services(machine, &control_plane::controllers(programs))?;
    let address = SocketAddr::new(link.cluster().into(), IMDS_STUB_COUNTS_PORT);
    let is_listening = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    ensure!(poll_until(STEP_TIMEOUT, is_listening), "the IMDS stub does not listen on {address}");
    kubectl.apply(NETWORK_POLICIES_MANIFEST)?;
    kubectl.apply(COREDNS_MANIFEST)
}

/// Returns the service of the IMDS stub, which is a command of this program.
fn imds_stub() -> Result<MachineService> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    Ok(MachineService { name: "cluster", program, arguments: vec!["imds-stub".to_owned()] })
}

/// Starts containerd on a node and imports the images.
fn import(machine: &RunningMachine, archives: &[PathBuf]) -> Result<()> {
    machine.start_service(&node::container_runtime()?)?;
    let is_ready = || containerd::list(machine).is_ok();
    ensure!(poll_until(STEP_TIMEOUT, is_ready), "containerd is not ready after {} s", STEP_TIMEOUT.as_secs());
    archives.iter().try_for_each(|archive| containerd::import(archive, machine))
}

/// Starts the services of a node and waits until it is Ready.
fn start_node(
    cluster: &ClusterName,
    node: NodeId,
    machine: &RunningMachine,
    taints: Option<&str>,
    programs: &Path,
    kubectl: &Kubectl,
) -> Result<()> {
    let name = node.name(cluster);
    let registered = machine.path(REGISTERED_FILE);
    if !registered.exists() {
        // A Node object of this name belongs to a machine that was deleted.
        delete_node_and_pods(kubectl, &name)?;
        // Before the kubelet starts, because it registers only once.
        fs::write(registered, "")?;
    }
    start_services(machine, &node::services(cluster, node, programs, taints)?)?;
    let resource = format!("node/{name}");
    let exists = || kubectl.run(&["get", &resource]).is_ok();
    ensure!(poll_until(STEP_TIMEOUT, exists), "the kubelet did not register {resource}");
    kubectl.run(&["wait", "--for=condition=Ready", &resource, "--timeout=120s"]).map(drop)
}

/// Deletes a Node object and its pods, so that the kubelet registers again and controllers create new pods.
pub(super) fn delete_node_and_pods(kubectl: &Kubectl, node: &str) -> Result<()> {
    let selector = format!("spec.nodeName={node}");
    kubectl.run(&["delete", "node", node, "--ignore-not-found"])?;
    kubectl
        .run(&["delete", "pods", "--all-namespaces", "--field-selector", &selector, "--force", "--grace-period=0"])
        .map(drop)
}

fn start_services(machine: &RunningMachine, services: &[MachineService]) -> Result<()> {
    services.iter().try_for_each(|service| machine.start_service(service))
}

/// Runs `work` for all nodes in parallel.
fn for_each_node(
    nodes: &[(NodeId, RunningMachine)],
    work: impl Fn(NodeId, &RunningMachine) -> Result<()> + Sync,
) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads = nodes.iter().map(|(node, machine)| (node, scope.spawn(move || work(*node, machine))));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|(node, thread)| join(thread).with_context(|| format!("node {node}")))
    })
}

/// Returns the result of a thread, or resumes its panic.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Writes events, pods and nodes of a failed cluster to its log directory, and returns the directory.
fn write_diagnostics(cluster: &ClusterName, kubectl: &Kubectl) -> PathBuf {
    let dir = cluster.state_dir().join("logs");
    let queries: [(&str, &[&str]); 3] = [
        ("events.txt", &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"]),
        ("pods.yaml", &["get", "pods", "--all-namespaces", "--output=yaml"]),
        ("nodes.txt", &["describe", "nodes"]),
    ];
    for (file, query) in queries {
        let output = kubectl.run(query).unwrap_or_else(|error| format!("{error:#}\n"));
        // The error of `up` matters more than that of a write.
        drop(fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(file), output)));
    }
    dir
}
