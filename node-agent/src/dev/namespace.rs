//! Runs a command in its own user and network namespace, whose loopback interface has the real service addresses. The
//! listeners are created in the namespace and passed to the agent, which serves them from outside.
//!
//! The child is this program again ([`InNamespaceArgs`]), because only a process with one thread may enter a user
//! namespace.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use podmeta_link::sys::{receive_line, send_line};
use podmeta_metadata::dialect::Dialect;
use rtnetlink::packet_route::address::AddressHeaderFlags;

use crate::private_file;

/// Port of the metadata services.
const SERVICE_PORT: u16 = 80;

/// Maximum wait for the kernel to add the route to a service address.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between two checks of the child, or of a route.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Returns the service addresses of all dialects, in the order in which their listeners are passed. IPv6 is last,
/// because a kernel without IPv6 leaves it out.
fn services() -> Vec<(Dialect, IpAddr)> {
    let addresses = |dialect: Dialect| dialect.protocol().selection().addresses.iter().map(move |at| (dialect, *at));
    let mut services = Dialect::ALL.into_iter().flat_map(addresses).collect::<Vec<_>>();
    services.sort_by_key(|(_, address)| address.is_ipv6());
    services
}

/// A command that waits in its namespace to be started.
#[derive(Debug)]
pub(super) struct PreparedCommand {
    /// The process that becomes the command.
    pub(super) child: Child,
    socket: UnixStream,
    /// The listeners on the service addresses of the namespace.
    pub(super) listeners: Vec<(Dialect, TcpListener)>,
}

/// Prepares a command in a namespace. It runs after [`PreparedCommand::start`].
///
/// # Errors
/// If the namespace cannot be created, or this program cannot be started again.
pub(super) fn prepare(command: &[OsString], environment: &[(&str, OsString)]) -> Result<PreparedCommand> {
    let directory = TempDir::new()?;
    let path = directory.0.join("socket");
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let mut child = Command::new(program);
    child.arg("in-namespace").arg("--socket").arg(&path).arg("--").args(command);
    child.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = child.spawn().context("cannot start this program again")?;
    match receive_listeners(&listener, &mut child) {
        Ok((socket, listeners)) => Ok(PreparedCommand { child, socket, listeners }),
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
    }
}

/// Waits until the child passes its listeners or exits.
fn receive_listeners(listener: &UnixListener, child: &mut Child) -> Result<(UnixStream, Vec<(Dialect, TcpListener)>)> {
    listener.set_nonblocking(true)?;
    let socket = loop {
        match listener.accept() {
            Ok((socket, _)) => break socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot accept the connection from the namespace"),
        }
        if child.try_wait()?.is_some() {
            bail!("cannot create the namespace");
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    socket.set_nonblocking(false)?;
    let (_, fds) = receive_line(&socket).context("cannot create the namespace")?;
    let listeners = services().into_iter().zip(fds).map(|((dialect, _), fd)| (dialect, TcpListener::from(fd)));
    Ok((socket, listeners.collect()))
}

impl PreparedCommand {
    /// Starts the command.
    ///
    /// # Errors
    /// If the process has exited.
    pub(super) fn start(mut self) -> Result<Child> {
        self.socket.write_all(&[1]).context("the command has exited before it was started")?;
        Ok(self.child)
    }
}

/// A private directory that is removed on drop.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).ok().context("cannot get random bytes")?;
        let path = std::env::temp_dir().join(format!("podmeta-{:016x}", u64::from_ne_bytes(random)));
        private_file::create_new_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The child process: creates the namespace, passes the listeners, and becomes the command.
#[derive(Debug, clap::Args)]
pub struct InNamespaceArgs {
    /// Socket to pass the listeners through.
    #[arg(long)]
    socket: PathBuf,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The type of a function that does not return.
#[derive(Debug)]
pub enum Never {}

impl InNamespaceArgs {
    /// Creates the namespace, passes its listeners to the agent, and replaces this process with the command. It returns
    /// only if that fails.
    ///
    /// # Errors
    /// If a step fails. The message names the step.
    pub fn run(self) -> Result<Never> {
        const AGENT_EXITED: &str = "the agent has exited";
        let mut socket = UnixStream::connect(&self.socket).context(AGENT_EXITED)?;
        enter_namespace()?;
        // The command ends with the agent, which serves it.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
            .context("cannot set the parent death signal")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let addresses = runtime.block_on(add_addresses()).context("cannot add the service addresses")?;
        drop(runtime);
        wait_for_routes(&addresses)?;
        let listeners = listen(&addresses)?;
        let fds = listeners.iter().map(|listener| listener.as_fd()).collect::<Vec<_>>();
        send_line(&socket, "", &fds).context(AGENT_EXITED)?;
        drop(listeners);
        let mut byte = [0];
        socket.read_exact(&mut byte).context(AGENT_EXITED)?;
        drop(socket);
        let (program, arguments) = self.command.split_first().context("there is no command")?;
        let error = Command::new(program).args(arguments).exec();
        Err(error).with_context(|| format!("cannot run {}", Path::new(program).display()))
    }
}

/// Enters a new user and network namespace as the same user.
fn enter_namespace() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context(
        "the kernel does not allow user namespaces; allow them (sysctl kernel.unprivileged_userns_clone=1, or \
         kernel.apparmor_restrict_unprivileged_userns=0), or use the loopback ports without --pod",
    )?;
    let write = |file: &str, text: String| std::fs::write(file, text).with_context(|| format!("cannot write {file}"));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Sets the loopback interface up and adds the service addresses. Returns the addresses that were added.
async fn add_addresses() -> Result<Vec<IpAddr>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let loopback = handle.link().get().match_name("lo".to_owned()).execute().try_next().await?;
    let index = loopback.context("there is no loopback interface")?.header.index;
    handle.link().set(rtnetlink::LinkUnspec::new_with_index(index).up().build()).execute().await?;
    let mut added = Vec::new();
    for (_, address) in services() {
        let prefix_length = if address.is_ipv4() { 32 } else { 128 };
        let mut add = handle.address().add(index, address, prefix_length);
        // Without duplicate address detection the address is usable immediately.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        match add.execute().await {
            Ok(()) => added.push(address),
            // A kernel without IPv6 still has the IPv4 addresses.
            Err(error) if address.is_ipv6() => eprintln!("warning: cannot add {address}: {error}"),
            Err(error) => return Err(error).with_context(|| format!("cannot add {address}")),
        }
    }
    Ok(added)
}

/// Waits until every address has a route. The kernel adds the route of an IPv6 address some time after the address; a
/// command that connects before that gets `ENETUNREACH`.
fn wait_for_routes(addresses: &[IpAddr]) -> Result<()> {
    let started = Instant::now();
    for address in addresses {
        // Connecting a UDP socket only looks up the route.
        while let Err(error) = connect_udp(*address) {
            if started.elapsed() > ROUTE_TIMEOUT {
                return Err(error).with_context(|| format!("there is no route to {address}"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    Ok(())
}

fn connect_udp(address: IpAddr) -> io::Result<()> {
    let local: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((local, 0))?.connect((address, SERVICE_PORT))
}

fn listen(addresses: &[IpAddr]) -> Result<Vec<TcpListener>> {
    let listen = |address: &IpAddr| {
        let bound = TcpListener::bind(SocketAddr::new(*address, SERVICE_PORT));
        bound.with_context(|| format!("cannot listen on {address}"))
    };
    addresses.iter().map(listen).collect()
}
