//! Namespaces, commands in them, and connections between them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use podmeta_link::agent_ns;
use podmeta_link::alias::{Alias, SandboxId};
use podmeta_link::netns::Netns;
use podmeta_link::service::SERVICE_PORT;
use podmeta_metadata::names::PodUid;
use socket2::{Domain, SockRef, Socket, Type};

/// Timeout of one connection. A dropped packet ends a test after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An agent namespace at a path of its own, removed on drop.
pub(crate) struct Agent {
    pub(crate) netns: Netns,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Agent {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("podmeta");
        let netns = agent_ns::ensure(&path).await.unwrap();
        Self { netns, path, _directory: directory }
    }

    /// Returns the number of packets that the limit of new connections has dropped.
    pub(crate) fn dropped_connections(&self) -> u64 {
        self.dropped("@rates")
    }

    /// Returns the number of IPv6 packets that were dropped because their source is not the address of a link.
    pub(crate) fn dropped_unknown_sources(&self) -> u64 {
        self.dropped("ip6 saddr")
    }

    /// Returns the number of IPv6 packets that were dropped because their source belongs to another link.
    pub(crate) fn dropped_foreign_sources(&self) -> u64 {
        self.dropped("fib saddr")
    }

    /// Returns the number of IP fragments that were dropped, IPv4 first.
    pub(crate) fn dropped_fragments(&self) -> [u64; 2] {
        [self.dropped("frag-off"), self.dropped("frag exists")]
    }

    /// Returns the packet counter of the filter's rule that contains a text.
    fn dropped(&self, rule: &str) -> u64 {
        let rules = run(&self.netns, "nft list chain inet podmeta_agent arriving");
        let rule = rules.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("no {rule} in {rules}"));
        rule.split("packets ").last().unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    /// Accepts one connection at a time on all addresses. Sends the index of the interface at which it arrived to the client.
    pub(crate) fn serve(&self) {
        let listener = self.netns.run(|| listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let interface = SockRef::from(&stream).multicast_if_v6().unwrap();
                drop(stream.write_all(interface.to_string().as_bytes()));
            }
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        agent_ns::remove(&self.path).unwrap();
    }
}

/// Listens on an address. An IPv6 listener serves IPv4 too.
pub(crate) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Connects from a namespace and reads until the server closes the connection.
pub(crate) fn request(from: &Netns, address: IpAddr) -> io::Result<String> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&(address, SERVICE_PORT).into(), CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Starts this many connections at the same time.
pub(crate) fn connect_many(from: &Netns, address: IpAddr, count: usize) -> Vec<Socket> {
    let address = SocketAddr::from((address, SERVICE_PORT));
    let connect = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    from.run(|| std::iter::repeat_with(connect).take(count).collect()).unwrap()
}

/// Waits until a condition is met. Other tasks of the test run meanwhile.
pub(crate) async fn wait_until(condition: &str, is_met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_met() {
        assert!(Instant::now() < deadline, "{condition}: not within 10 s");
        tokio::task::yield_now().await;
    }
}

/// Waits until a condition is met. Blocks the thread.
pub(crate) fn block_until(condition: &str, is_met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_met() {
        assert!(Instant::now() < deadline, "{condition}: not within 10 s");
        std::thread::yield_now();
    }
}

/// Runs a command line in a namespace.
pub(crate) fn run(netns: &Netns, line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = netns.run(|| Command::new(words.next().unwrap()).args(words).output()).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a table of nftables without counts.
pub(crate) fn table(netns: &Netns, name: &str) -> String {
    run(netns, &format!("nft -s list table inet {name}"))
}

/// Runs commands of nftables in a namespace.
pub(crate) fn nft(netns: &Netns, commands: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), commands).unwrap();
    run(netns, &format!("nft -f {}", file.path().display()));
}

/// Creates a pod's namespace. Its IPv6 addresses are usable immediately, without duplicate address detection.
pub(crate) fn pod() -> Netns {
    let pod = Netns::create().unwrap();
    run(&pod, "sysctl -qw net.ipv6.conf.default.accept_dad=0");
    run(&pod, "ip link set lo up");
    pod
}

/// Creates a pod with a primary interface, pinned in the agent's directory.
pub(crate) fn pinned_pod(agent: &Agent, name: &str) -> (Netns, PinnedPath) {
    let pod = pod();
    run(&pod, "ip link add eth0 address 02:42:ac:11:00:02 type veth peer name peer0");
    run(&pod, "ip addr add 10.244.1.7/24 dev eth0");
    run(&pod, "ip addr add fd00:244::7/64 dev eth0 nodad");
    run(&pod, "ip link set eth0 up");
    let path = agent.path.with_file_name(name);
    pod.pin(&File::create(&path).unwrap()).unwrap();
    (pod, PinnedPath(path))
}

/// Path of a pinned namespace, unmounted on drop.
pub(crate) struct PinnedPath(pub(crate) PathBuf);

impl Drop for PinnedPath {
    fn drop(&mut self) {
        agent_ns::remove(&self.0).unwrap();
    }
}

/// Returns the alias of pod `n`.
pub(crate) fn alias(n: usize) -> Alias {
    Alias {
        pod: PodUid::try_from(format!("uid-{n}")).unwrap(),
        sandbox: SandboxId::try_from(format!("sandbox{n}").as_str()).unwrap(),
        mac: None,
        ipv4: None,
        ipv6: None,
    }
}

/// Returns the index of the interface whose alias names pod `n`.
pub(crate) fn interface_of(agent: &Agent, n: usize) -> String {
    let links = run(&agent.netns, "ip -o link show");
    let line = links.lines().find(|line| line.contains(&format!("uid=uid-{n} "))).unwrap();
    line.split(':').next().unwrap().to_owned()
}
