//! Owners of clients' sockets, which the daemon reads in the namespaces of pods.

use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::{Uid, setfsuid};
use podmeta_link::findings::SharedFindings;
use podmeta_link::netns::Netns;
use podmeta_link::owner::OwnerFinder;
use podmeta_link::pod_link;
use podmeta_link::protocol::{SocketOwner, SocketQuery};
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};
use podmeta_metadata::node_finding::NodeFindingKind;
use socket2::{Domain, SockRef, Socket, Type};

use crate::capabilities;
use crate::kit::{Agent, alias, listener, pod, run};
use crate::runtime::{FakeRuntime, FakeSandbox};

/// Timeout of one connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pods with links, and a finder of the owners of their sockets.
struct Node {
    pods: Vec<Netns>,
    listener: TcpListener,
    runtime: Arc<Mutex<FakeRuntime>>,
    runtime_socket: PathBuf,
    findings: Arc<SharedFindings>,
    finder: OwnerFinder,
    _agent: Agent,
}

impl Node {
    async fn new(pods: usize) -> Self {
        let agent = Agent::new().await;
        let listener = agent.netns.run(|| listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap();
        let pods = (0..pods).map(|_| pod()).collect::<Vec<_>>();
        for (n, pod) in pods.iter().enumerate() {
            pod_link::ensure(&agent.netns, pod, &alias(n), LinkRange::default()).await.unwrap();
        }
        let sandboxes = pods.iter().enumerate().map(|(n, pod)| FakeSandbox {
            netns: Some(format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd()).into()),
            ..FakeSandbox::host(n)
        });
        let runtime = FakeRuntime { sandboxes: sandboxes.collect(), ..FakeRuntime::default() };
        let runtime_socket = agent.path.with_file_name("runtime.sock");
        let runtime = runtime.serve(&runtime_socket);
        let findings = Arc::<SharedFindings>::default();
        let finder = OwnerFinder::new(runtime_socket.clone(), Arc::clone(&findings));
        Self { pods, listener, runtime, runtime_socket, findings, finder, _agent: agent }
    }

    /// Returns the owner of a client's socket in pod `n`. The finder has the capabilities of the daemon.
    fn find(&self, n: usize, addresses: [SocketAddr; 2]) -> anyhow::Result<SocketOwner> {
        let [client, service] = addresses;
        let (pod, sandbox) = (alias(n).pod, alias(n).sandbox);
        let find = || {
            capabilities::limit_thread();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(self.finder.find(SocketQuery { pod, sandbox, client, service }))
        };
        std::thread::scope(|scope| scope.spawn(find).join().unwrap())
    }

    /// Returns the user that owns a client's socket in pod `n`, or `None` if it has no owner.
    fn user(&self, n: usize, addresses: [SocketAddr; 2]) -> Option<u32> {
        match self.find(n, addresses).unwrap() {
            SocketOwner::User(user) => Some(user),
            SocketOwner::Nobody(_) => None,
        }
    }

    /// Connects pod `n` to a service, as a user of the node, with a socket that `prepare` has changed. Returns both ends of
    /// the connection.
    fn connect(
        &self,
        n: usize,
        user: u32,
        service: IpAddr,
        prepare: impl FnOnce(&Socket) + Send,
    ) -> (TcpStream, TcpStream) {
        let connect = || {
            // Of this thread only. The thread ends afterwards.
            setfsuid(Uid::from_raw(user));
            let address = SocketAddr::from((service, SERVICE_PORT));
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            prepare(&socket);
            socket.connect_timeout(&address.into(), TIMEOUT)?;
            Ok(TcpStream::from(socket))
        };
        let client = self.pods[n].run(connect).unwrap();
        (client, self.listener.accept().unwrap().0)
    }
}

/// Returns the addresses of the client and of the service as the agent sees them.
fn addresses(accepted: &TcpStream) -> [SocketAddr; 2] {
    [accepted.peer_addr().unwrap(), accepted.local_addr().unwrap()]
}

fn unchanged(_: &Socket) {}

#[tokio::test]
async fn owner_of_a_socket_is_its_user_at_every_service_address() {
    let node = Node::new(1).await;
    for service in service::addresses() {
        for user in [0, 33, 1000] {
            let (_client, accepted) = node.connect(0, user, service, unchanged);
            assert_eq!(node.user(0, addresses(&accepted)), Some(user), "{service}");
        }
    }
    let calls = node.runtime.lock().unwrap().status_calls.clone();
    assert_eq!(calls["sandbox0"], 1, "the sandbox is read once");
}

#[tokio::test]
async fn ipv6_socket_with_mapped_addresses_has_an_owner() {
    let node = Node::new(1).await;
    for service in service::ipv4() {
        let connect = || {
            setfsuid(Uid::from_raw(1000));
            TcpStream::connect_timeout(&SocketAddr::from((service.to_ipv6_mapped(), SERVICE_PORT)), TIMEOUT)
        };
        let client = node.pods[0].run(connect).unwrap();
        assert!(client.local_addr().unwrap().is_ipv6());
        let accepted = node.listener.accept().unwrap().0;
        assert_eq!(node.user(0, addresses(&accepted)), Some(1000), "{service}");
    }
}

#[tokio::test]
async fn socket_that_is_bound_to_the_interface_has_an_owner() {
    let node = Node::new(1).await;
    for service in service::addresses() {
        let bind = |socket: &Socket| socket.bind_device(Some(b"imds0")).unwrap();
        let (_client, accepted) = node.connect(0, 1000, service, bind);
        assert_eq!(node.user(0, addresses(&accepted)), Some(1000), "{service}");
    }
}

#[tokio::test]
async fn socket_whose_sending_has_ended_keeps_its_owner() {
    let node = Node::new(1).await;
    let (client, mut accepted) = node.connect(0, 1000, service::addresses()[0], unchanged);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    assert_eq!(node.user(0, addresses(&accepted)), Some(1000));
}

/// A process could otherwise close its socket after its request, and count as root.
#[tokio::test]
async fn closed_socket_has_no_owner() {
    let node = Node::new(1).await;
    for service in service::addresses() {
        let (client, mut accepted) = node.connect(0, 1000, service, unchanged);
        drop(client);
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
        assert_eq!(node.user(0, addresses(&accepted)), None, "{service}");
    }
}

#[tokio::test]
async fn listener_at_the_address_of_a_client_is_not_its_socket() {
    let node = Node::new(1).await;
    for service in service::addresses() {
        let (client, mut accepted) = node.connect(0, 1000, service, unchanged);
        let [address, service] = addresses(&accepted);
        // Ends the connection without a state in which the kernel keeps it.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(accepted.read(&mut [0]).is_err());
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let _listener = node.pods[0].run(|| listener(address)).unwrap();
        assert_eq!(node.user(0, [address, service]), None, "{service}");
    }
}

#[tokio::test]
async fn socket_of_another_namespace_with_the_same_addresses_is_not_found() {
    let node = Node::new(2).await;
    for service in service::addresses() {
        let (_client, accepted) = node.connect(0, 1000, service, unchanged);
        let addresses = addresses(&accepted);
        assert_eq!(node.user(1, addresses), None, "{service}: pod 1 has no such socket");
        // The second pod connects to itself, with the addresses and the port of the first one.
        let [client, service] = addresses.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        for address in [client, service] {
            let suffix = if address.is_ipv4() { "/32 dev lo" } else { "/128 dev lo nodad" };
            run(&node.pods[1], &format!("ip addr replace {}{suffix}", address.ip()));
        }
        let connect = || {
            let own = listener(service)?;
            setfsuid(Uid::from_raw(33));
            let socket = Socket::new(Domain::for_address(client), Type::STREAM, None)?;
            socket.bind(&client.into())?;
            socket.connect_timeout(&service.into(), TIMEOUT)?;
            Ok((TcpStream::from(socket), own.accept()?))
        };
        let _connection = node.pods[1].run(connect).unwrap();
        assert_eq!(node.user(0, addresses), Some(1000), "{service}");
        assert_eq!(node.user(1, addresses), Some(33), "{service}");
    }
}

#[tokio::test]
async fn user_of_a_user_namespace_has_the_id_of_the_pod() {
    let node = Node::new(1).await;
    node.runtime.lock().unwrap().sandboxes[0].users = Some(vec![(100_000, 0, 65_536)]);
    for (user, in_pod) in [(100_033, Some(33)), (100_000, Some(0)), (33, None), (0, None), (165_536, None)] {
        let (_client, accepted) = node.connect(0, user, service::addresses()[0], unchanged);
        assert_eq!(node.user(0, addresses(&accepted)), in_pod, "{user}");
    }
    assert_eq!(node.findings.snapshot().len(), 0);
}

#[tokio::test]
async fn pod_whose_user_ids_are_unknown_has_no_owners_and_is_a_finding() {
    let node = Node::new(1).await;
    node.runtime.lock().unwrap().sandboxes[0].users = Some(Vec::new());
    let (_client, accepted) = node.connect(0, 100_033, service::addresses()[0], unchanged);
    assert_eq!(node.user(0, addresses(&accepted)), None);
    let findings = node.findings.snapshot();
    assert!(findings[&NodeFindingKind::UserIds].contains("shop/pod0"), "{findings:?}");
}

#[tokio::test]
async fn sandbox_of_another_pod_or_without_a_namespace_is_an_error() {
    let mut node = Node::new(1).await;
    let (_client, accepted) = node.connect(0, 0, service::addresses()[0], unchanged);
    let mut error = |change: fn(&mut FakeSandbox)| {
        node.finder = OwnerFinder::new(node.runtime_socket.clone(), Arc::clone(&node.findings));
        let sandbox = node.runtime.lock().unwrap().sandboxes[0].clone();
        change(&mut node.runtime.lock().unwrap().sandboxes[0]);
        let error = node.find(0, addresses(&accepted)).unwrap_err();
        node.runtime.lock().unwrap().sandboxes[0] = sandbox;
        format!("{error:#}")
    };
    let other = error(|sandbox| sandbox.uid = "uid-9".to_owned());
    assert!(other.contains("belongs to another pod"), "{other}");
    let host = error(|sandbox| sandbox.netns = None);
    assert!(host.contains("network of the node"), "{host}");
    let ended = error(|sandbox| sandbox.netns = Some("/nonexistent".into()));
    assert!(ended.contains("cannot open the namespace /nonexistent"), "{ended}");
}
