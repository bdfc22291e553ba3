//! Pods on the host network that are redirected to the node's link, without any guard.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::getpid;
use podmeta_link::host_pods::identity::{HostClient, HostPodFinder, HostQuery};
use podmeta_link::host_pods::{self, HostPods, HostPodsRepairs, OtherPods, UnredirectedPods};
use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};
use podmeta_metadata::names::PodUid;

use crate::bpf_pins::Pins;
use crate::cgroup_root::CgroupRoot;
use crate::host_network::request_in;
use crate::kit::{Agent, block_until, listener, request, run};
use crate::node::{REAL, Topology};

pub(crate) const UIDS: [&str; 2] = ["0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001", "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0002"];

pub(crate) fn uid(n: usize) -> PodUid {
    PodUid::try_from(UIDS[n]).unwrap()
}

/// A node with a pod that has its own network, and with an agent that responds with the pod of each connection.
pub(crate) struct Node {
    pub(crate) topology: Topology,
    pub(crate) agent: Agent,
    pub(crate) pins: Pins,
    pub(crate) cgroups: CgroupRoot,
    pub(crate) pods: HostPods,
}

impl Node {
    pub(crate) async fn new() -> Self {
        let node = Self::without_server().await;
        serve(listen(&node.agent), node.finder());
        node
    }

    /// Creates a node whose agent does not listen.
    pub(crate) async fn without_server() -> Self {
        let (topology, agent) = (Topology::new(1), Agent::new().await);
        let (pins, cgroups) = (Pins::new(), CgroupRoot::with_pods());
        let pods = HostPods::new(pins.path.clone(), cgroups.0.clone());
        Self { topology, agent, pins, cgroups, pods }
    }

    pub(crate) fn finder(&self) -> HostPodFinder {
        HostPodFinder::new(open(&self.topology.node), self.cgroups.0.clone())
    }

    pub(crate) async fn ensure(&mut self, exempt: &[PodUid]) -> anyhow::Result<HostPodsRepairs> {
        let exempt = UnredirectedPods { pods: exempt.iter().cloned().collect(), others: OtherPods::Redirect };
        self.pods.ensure(&self.topology.node, &self.agent.netns, LinkRange::default(), &exempt).await
    }

    /// Returns the cgroup of a container of pod `n`.
    pub(crate) fn container(&self, n: usize) -> PathBuf {
        let path = self.cgroups.pod(&uid(n)).join("container");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Returns the response to a process on the host network.
    pub(crate) fn request_in(&self, cgroup: &Path, address: IpAddr) -> String {
        request_in(cgroup, &self.topology.node, address)
    }
}

/// Opens a namespace a second time.
pub(crate) fn open(netns: &Netns) -> Netns {
    Netns::open(format!("/proc/{}/fd/{}", getpid(), netns.as_fd().as_raw_fd()).as_ref()).unwrap()
}

/// Listens in the agent namespace.
pub(crate) fn listen(agent: &Agent) -> TcpListener {
    agent.netns.run(|| listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap()
}

/// Responds to each connection with its pod.
pub(crate) fn serve(listener: TcpListener, finder: HostPodFinder) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            let (client, service) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
            let text = match finder.find(&HostQuery { client: canonical(client), service: canonical(service) }) {
                Ok(HostClient::Pod(pod)) => pod.to_string(),
                Ok(HostClient::Nobody(reason)) => format!("nobody: {reason}"),
                Err(error) => format!("error: {error:#}"),
            };
            drop(stream.write_all(text.as_bytes()));
        }
    });
}

/// Returns all spellings of the service addresses: with an AF_INET6 socket, IPv4 addresses are mapped.
pub(crate) fn spellings() -> Vec<IpAddr> {
    let mapped = service::ipv4().into_iter().map(|address| address.to_ipv6_mapped().into());
    service::addresses().into_iter().chain(mapped).collect()
}

#[tokio::test]
async fn pod_on_the_host_network_reaches_the_agent_with_its_own_identity() {
    let mut node = Node::new().await;
    let pods = [node.container(0), node.container(1)];
    for address in spellings() {
        assert_eq!(node.request_in(&pods[0], address), REAL, "{address}: before");
    }
    assert_eq!(node.ensure(&[]).await.unwrap(), HostPodsRepairs { link: true, programs: 2, ended_connections: 0 });
    assert_eq!(node.ensure(&[]).await.unwrap(), HostPodsRepairs::default(), "the second check");
    for address in spellings() {
        for (n, cgroup) in pods.iter().enumerate() {
            assert_eq!(node.request_in(cgroup, address), UIDS[n], "{address}");
        }
    }
    let nested = pods[1].join("nested");
    std::fs::create_dir(&nested).unwrap();
    assert_eq!(node.request_in(&nested, service::addresses()[0]), UIDS[1]);
}

#[tokio::test]
async fn node_uses_the_address_of_its_link_for_no_other_destination() {
    let mut node = Node::new().await;
    let host = &node.topology.node;
    // Interfaces without an address of their own, as some network plugins make them.
    run(host, "ip link add cali0 up type veth");
    run(host, "ip route add 10.9.0.1/32 dev cali0 scope link");
    run(host, "ip route add fda9:ff::1/128 dev cali0");
    let sources = || ["10.9.0.1", "fda9:ff::1"].map(|address| run(host, &format!("ip route get {address}")));
    let before = sources();
    node.pods.ensure(host, &node.agent.netns, LinkRange::default(), &UnredirectedPods::default()).await.unwrap();
    assert_eq!(sources(), before);
}

#[tokio::test]
async fn process_of_no_pod_and_pod_in_another_namespace_are_not_redirected() {
    let mut node = Node::new().await;
    let (pod, other) = (node.container(0), node.cgroups.0.join("system.slice"));
    std::fs::create_dir(&other).unwrap();
    node.ensure(&[]).await.unwrap();
    for address in spellings() {
        assert_eq!(node.request_in(&other, address), REAL, "{address}: a cgroup outside pods");
        assert_eq!(request(&node.topology.node, address).unwrap(), REAL, "{address}: the root cgroup");
        assert_eq!(request_in(&pod, &node.topology.pods[0], address), REAL, "{address}: a pod with its own network");
    }
}

#[tokio::test]
async fn exempt_pod_is_not_redirected_while_it_is_exempt() {
    let mut node = Node::new().await;
    let pods = [node.container(0), node.container(1)];
    node.ensure(&[uid(0)]).await.unwrap();
    for address in spellings() {
        assert_eq!(node.request_in(&pods[0], address), REAL, "{address}");
        assert_eq!(node.request_in(&pods[1], address), UIDS[1], "{address}");
    }
    node.ensure(&[uid(1)]).await.unwrap();
    for address in spellings() {
        assert_eq!(node.request_in(&pods[0], address), UIDS[0], "{address}");
        assert_eq!(node.request_in(&pods[1], address), REAL, "{address}");
    }
}

#[tokio::test]
async fn programs_and_exemptions_stay_without_a_process_and_are_adopted() {
    let mut node = Node::new().await;
    let pods = [node.container(0), node.container(1)];
    node.ensure(&[uid(1)]).await.unwrap();
    node.pods = HostPods::new(node.pins.path.clone(), node.cgroups.0.clone());
    let address = service::addresses()[0];
    assert_eq!(
        (node.request_in(&pods[0], address).as_str(), node.request_in(&pods[1], address).as_str()),
        (UIDS[0], REAL)
    );
    assert_eq!(node.ensure(&[uid(1)]).await.unwrap(), HostPodsRepairs::default());
    // No agent has reported the pods that it leaves to the node yet.
    let unknown = UnredirectedPods { others: OtherPods::Keep, ..UnredirectedPods::default() };
    node.pods.ensure(&node.topology.node, &node.agent.netns, LinkRange::default(), &unknown).await.unwrap();
    assert_eq!(
        (node.request_in(&pods[0], address).as_str(), node.request_in(&pods[1], address).as_str()),
        (UIDS[0], REAL)
    );
    node.ensure(&[]).await.unwrap();
    assert_eq!(node.request_in(&pods[1], address), UIDS[1]);
}

#[tokio::test]
async fn cgroup_of_pods_that_was_created_again_gets_the_programs() {
    let mut node = Node::new().await;
    node.ensure(&[]).await.unwrap();
    let root = node.cgroups.0.join("kubepods");
    std::fs::remove_dir(&root).unwrap();
    let missing = node.ensure(&[]).await.unwrap_err();
    assert!(format!("{missing:#}").contains("default cgroup root"), "{missing:#}");
    let pod = node.container(0);
    assert_eq!(node.ensure(&[]).await.unwrap(), HostPodsRepairs { programs: 2, ..HostPodsRepairs::default() });
    assert_eq!(node.request_in(&pod, service::addresses()[0]), UIDS[0]);
}

#[tokio::test]
async fn removal_detaches_the_programs_and_removes_link_routes_and_pins() {
    let mut node = Node::new().await;
    let pod = node.container(0);
    let host = &node.topology.node;
    let routes = || run(host, "ip route show table all") + &run(host, "ip -6 route show table all");
    let before = (routes(), run(host, "ip -o link"));
    let exempt = UnredirectedPods::default();
    node.pods.ensure(host, &node.agent.netns, LinkRange::default(), &exempt).await.unwrap();
    assert_ne!(routes(), before.0);
    for _ in 0..2 {
        host_pods::remove(&node.pins.path, host).await.unwrap();
        assert_eq!((routes(), run(host, "ip -o link")), before);
        let pins =
            std::fs::read_dir(&node.pins.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(pins.filter(|name| name.starts_with("connect")).count(), 0);
    }
    for address in spellings() {
        assert_eq!(node.request_in(&pod, address), REAL, "{address}");
    }
}

/// A process that ends between two steps must leave a pinned link: the kernel detaches one that is not pinned.
#[tokio::test]
async fn program_is_replaced_without_a_time_at_which_no_link_is_pinned() {
    let mut node = Node::new().await;
    node.ensure(&[]).await.unwrap();
    let deletions = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    deletions.add_watch(&node.pins.path, AddWatchFlags::IN_DELETE).unwrap();
    std::fs::remove_file(node.pins.path.join("connect-exempt")).unwrap();
    assert_eq!(node.ensure(&[]).await.unwrap(), HostPodsRepairs { programs: 2, ..HostPodsRepairs::default() });
    let deleted = deletions.read_events().unwrap().into_iter().filter_map(|event| event.name).collect::<Vec<_>>();
    assert_eq!(deleted, ["connect-exempt"]);
    assert_eq!(node.request_in(&node.container(0), service::addresses()[0]), UIDS[0]);
}

/// A process in a cgroup with an open connection, killed on drop.
struct Client(Child);

impl Client {
    fn connect(cgroup: &Path, host: &Netns, address: IpAddr) -> Self {
        let script = r#"echo $$ > "$0/cgroup.procs" && exec bash -c "exec 3<>/dev/tcp/$1/80 && read"#;
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}\"")]).arg(cgroup).arg(address.to_string()).stdin(Stdio::piped());
        Self(host.run(|| command.spawn()).unwrap())
    }

    /// Returns true if the connection is open.
    fn is_connected(&self, host: &Netns) -> bool {
        run(host, "ss -Htnp").contains(&format!("pid={},", self.0.id()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn open_connections_of_redirected_pods_end_when_the_programs_are_attached() {
    let mut node = Node::new().await;
    let (pod, exempt, other) = (node.container(0), node.container(1), node.cgroups.0.join("system.slice"));
    std::fs::create_dir(&other).unwrap();
    let host = open(&node.topology.node);
    let connect = |cgroup: &PathBuf| {
        let clients = spellings().into_iter().map(|address| Client::connect(cgroup, &host, address));
        let clients = clients.collect::<Vec<_>>();
        block_until("the connections", || clients.iter().all(|client| client.is_connected(&host)));
        clients
    };
    let (of_pod, of_exempt, of_node) = (connect(&pod), connect(&exempt), connect(&other));
    let count = |clients: &[Client]| clients.iter().filter(|client| client.is_connected(&host)).count();
    let repairs = node.ensure(&[uid(1)]).await.unwrap();
    assert_eq!(repairs.ended_connections, of_pod.len());
    assert_eq!((count(&of_pod), count(&of_exempt), count(&of_node)), (0, of_exempt.len(), of_node.len()));
    let redirected = connect(&pod);
    let repairs = node.ensure(&[]).await.unwrap();
    assert_eq!(repairs.ended_connections, of_exempt.len(), "a pod that is exempt no more");
    assert_eq!((count(&redirected), count(&of_exempt), count(&of_node)), (redirected.len(), 0, of_node.len()));
    drop((of_pod, of_exempt, of_node, redirected));
}
