//! Brings a cluster up. Every part makes what is missing and leaves what is there, so that it may be killed at any moment
//! and run again.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::images::{self, Known};
use crate::kubectl::Kubectl;
use crate::layout::{ASKED_PORT, ClusterName, HostLink, Machine, Node};
use crate::machine::{Running, Service};
use crate::pki::Authority;
use crate::processes::until;
use crate::programs::{COREDNS_MODULE, KUBERNETES_MODULE};
use crate::steps::step;
use crate::{control_plane, down, lock, needs, node, pki, probe};

const DNS: &str = include_str!("../manifests/coredns.yaml");
const NETWORK_POLICIES: &str = include_str!("../manifests/network-policies.yaml");
/// How long Kubernetes may take for one step on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Is there on a machine whose node is its own in the API server.
const REGISTERED: &str = "/run/registered";

struct Machines {
    control_plane: Running,
    nodes: Vec<(Node, Running)>,
}

/// Makes a cluster, or what of it is missing, and waits until pods on every node reach one another.
///
/// # Errors
/// What could not be done. Logs and events are kept, and the error says where.
pub fn up(cluster: &ClusterName, count: u8) -> Result<()> {
    let plugins = needs::check()?;
    let programs = KUBERNETES_MODULE.build()?;
    COREDNS_MODULE.build()?;
    let _lock = lock::take()?;
    let kubectl = Kubectl::new(&programs, cluster);
    let started = Instant::now();
    let made = make(cluster, count, &programs, &plugins, &kubectl);
    if let Err(why) = made {
        let kept = evidence(cluster, &kubectl);
        return Err(why.context(format!("cluster {cluster} is not up; its logs and events are in {}", kept.display())));
    }
    println!("cluster {cluster} is up after {:.1} s", started.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", cluster.state().join("kubeconfig").display());
    Ok(())
}

fn make(cluster: &ClusterName, count: u8, programs: &Path, plugins: &Path, kubectl: &Kubectl) -> Result<()> {
    forget_before_reboot(cluster)?;
    let all: Vec<Node> = Node::first(count.max(existing(cluster))).collect();
    let archives = step("images", || {
        [Known::Pause, Known::Coredns, Known::Client].into_iter().map(Known::archive).collect::<Result<Vec<PathBuf>>>()
    })?;
    let machines = step("machines", || machines(cluster, &all))?;
    let link = step("network", || network(cluster, &machines))?;
    step("certificates and settings", || configure(cluster, &machines, link, plugins))?;
    step("control plane and images", || {
        std::thread::scope(|scope| {
            let images = scope.spawn(|| each(&machines.nodes, |_, running| load(running, &archives)));
            let control_plane = start_control_plane(&machines.control_plane, programs, link, kubectl);
            joined(images).and(control_plane)
        })
    })?;
    step("nodes", || {
        each(&machines.nodes, |node, running| {
            let registered = running.path(REGISTERED);
            if !registered.exists() {
                // What the API server knows of this node is of a machine that is no more.
                forget(kubectl, &node.name(cluster))?;
                fs::write(registered, "")?; // before the kubelet starts: it registers once
            }
            start(running, &node::services(cluster, node, programs)?)?;
            let name = format!("node/{}", node.name(cluster));
            let exists = || kubectl.run(&["get", &name]).is_ok();
            ensure!(until(PATIENCE, exists), "{name} did not register");
            kubectl.run(&["wait", "--for=condition=Ready", &name, "--timeout=120s"]).map(drop)
        })
    })?;
    step("pods reach one another", || probe::reach(kubectl, all.len()))
}

/// A restart of this machine ends a cluster in the middle of what it did; what is left of it is of no use.
fn forget_before_reboot(cluster: &ClusterName) -> Result<()> {
    let (kept, now) = (cluster.state().join("boot-id"), fs::read_to_string("/proc/sys/kernel/random/boot_id")?);
    if cluster.state().exists() && fs::read_to_string(&kept).is_ok_and(|kept| kept != now) {
        println!("this machine was restarted: cluster {cluster} is made anew");
        down::discard(cluster)?;
    }
    pki::write(&kept, &now)
}

/// Has a node register anew, and its pods made anew.
fn forget(kubectl: &Kubectl, node: &str) -> Result<()> {
    let here = format!("spec.nodeName={node}");
    kubectl.run(&["delete", "node", node, "--ignore-not-found"])?;
    kubectl
        .run(&["delete", "pods", "--all-namespaces", "--field-selector", &here, "--force", "--grace-period=0"])
        .map(drop)
}

/// How many nodes a cluster has already.
fn existing(cluster: &ClusterName) -> u8 {
    let folders = fs::read_dir(cluster.state().join("machines")).into_iter().flatten().flatten();
    let nodes = folders.filter(|folder| folder.file_name().to_str().is_some_and(|name| name.parse::<Node>().is_ok()));
    u8::try_from(nodes.count()).unwrap_or(u8::MAX)
}

fn machines(cluster: &ClusterName, nodes: &[Node]) -> Result<Machines> {
    let control_plane = Running::start(cluster, Machine::ControlPlane)?;
    let start = |node: &Node| Ok((*node, Running::start(cluster, Machine::Node(*node))?));
    Ok(Machines { control_plane, nodes: nodes.iter().map(start).collect::<Result<_>>()? })
}

fn network(cluster: &ClusterName, machines: &Machines) -> Result<HostLink> {
    let link = crate::links::fabric(cluster, &machines.control_plane)?;
    let all: Vec<Node> = machines.nodes.iter().map(|(node, _)| *node).collect();
    for (node, running) in &machines.nodes {
        crate::links::node(*node, running, &machines.control_plane, &all)?;
    }
    Ok(link)
}

fn configure(cluster: &ClusterName, machines: &Machines, link: HostLink, plugins: &Path) -> Result<()> {
    let authority = Authority::open(&cluster.state().join("pki"))?;
    control_plane::configure(cluster, &machines.control_plane, &authority, link)?;
    for (node, running) in &machines.nodes {
        node::configure(cluster, *node, running, &authority, plugins)?;
    }
    Ok(())
}

fn start_control_plane(machine: &Running, programs: &Path, link: HostLink, kubectl: &Kubectl) -> Result<()> {
    machine.start_service(&real_imds()?)?;
    start(machine, &control_plane::api_server(programs, link))?;
    let ready = || kubectl.run(&["get", "--raw", "/readyz"]).is_ok();
    ensure!(until(PATIENCE, ready), "the API server is not ready after {} s", PATIENCE.as_secs());
    start(machine, &control_plane::controllers(programs))?;
    let asked = SocketAddr::new(link.cluster().into(), ASKED_PORT);
    let listens = || TcpStream::connect_timeout(&asked, Duration::from_secs(1)).is_ok();
    ensure!(until(PATIENCE, listens), "what stands for the real metadata service does not listen at {asked}");
    kubectl.apply(NETWORK_POLICIES)?;
    kubectl.apply(DNS)
}

/// Starts a node's container runtime and gives it the images.
fn load(machine: &Running, archives: &[PathBuf]) -> Result<()> {
    machine.start_service(&node::container_runtime()?)?;
    let ready = || images::list(machine).is_ok();
    ensure!(until(PATIENCE, ready), "containerd is not ready after {} s", PATIENCE.as_secs());
    archives.iter().try_for_each(|archive| images::load(archive, machine))
}

/// What stands where the clouds' metadata services stand is this program too.
fn real_imds() -> Result<Service> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(Service { name: "cluster", program, arguments: vec!["real-imds".to_owned()] })
}

/// Does something for every node at once.
fn each(nodes: &[(Node, Running)], work: impl Fn(Node, &Running) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let started = nodes.iter().map(|(node, running)| (node, scope.spawn(move || work(*node, running))));
        let started: Vec<_> = started.collect();
        started.into_iter().try_for_each(|(node, thread)| joined(thread).with_context(|| format!("node {node}")))
    })
}

/// What a thread came to; its panic is ours.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn start(machine: &Running, services: &[Service]) -> Result<()> {
    services.iter().try_for_each(|service| machine.start_service(service))
}

/// Writes down what is known about a cluster that did not come up.
fn evidence(cluster: &ClusterName, kubectl: &Kubectl) -> PathBuf {
    let folder = cluster.state().join("logs");
    let questions: [(&str, &[&str]); 3] = [
        ("events.txt", &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"]),
        ("pods.yaml", &["get", "pods", "--all-namespaces", "--output=yaml"]),
        ("nodes.txt", &["describe", "nodes"]),
    ];
    for (file, question) in questions {
        let answer = kubectl.run(question).unwrap_or_else(|why| format!("{why:#}\n"));
        // What cannot be written is not there to be read; the cause is what matters.
        drop(fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(file), answer)));
    }
    folder
}
