//! Runs a command that sees the real metadata addresses: in a user and network namespace of its own, whose loopback has
//! them. The listeners are made there and passed out, so that the agent serves them from where it is.
//!
//! The child is this program again ([`InNamespace`]), because only a process without threads may enter a user namespace.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::Family;
use rtnetlink::packet_route::address::AddressHeaderFlags;

use crate::sys::{receive_fds, send_fds};

/// Returns the service addresses of all dialects, in the order in which their listeners are passed. IPv6 is last, because
/// a kernel without IPv6 leaves it out.
fn services() -> Vec<(Dialect, IpAddr)> {
    let addresses = |dialect: Dialect| dialect.protocol().selection().addresses.iter().map(move |at| (dialect, *at));
    let mut services = Dialect::ALL.into_iter().flat_map(addresses).collect::<Vec<_>>();
    services.sort_by_key(|(_, address)| address.is_ipv6());
    services
}

/// A listener on one of the services' addresses.
pub type Listening = (Dialect, Family, TcpListener);

/// A command that waits in its namespace to be let go.
#[derive(Debug)]
pub struct Waiting {
    /// The process that will become the command.
    pub child: Child,
    socket: UnixStream,
    /// What listens in the namespace.
    pub listeners: Vec<Listening>,
}

/// Starts a command in a namespace of its own; it does not run before [`Waiting::go`].
///
/// # Errors
/// If the kernel gives no such namespace, or this program cannot be started again.
pub fn prepare(command: &[OsString], environment: &[(&str, OsString)]) -> Result<Waiting> {
    let folder = PrivateFolder::new()?;
    let path = folder.0.join("socket");
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let mut again = Command::new(program);
    again.arg("in-namespace").arg("--socket").arg(&path).arg("--").args(command);
    again.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = again.spawn().context("cannot start this program again")?;
    match accept(&listener, &mut child) {
        Ok((socket, listeners)) => Ok(Waiting { child, socket, listeners }),
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
    }
}

/// Waits for the child to hand over its listeners, or to end.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<(UnixStream, Vec<Listening>)> {
    listener.set_nonblocking(true)?;
    let socket = loop {
        match listener.accept() {
            Ok((socket, _)) => break socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot hear from the namespace"),
        }
        if child.try_wait()?.is_some() {
            bail!("the namespace could not be made");
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    socket.set_nonblocking(false)?;
    let fds = receive_fds(&socket).context("the namespace could not be made")?;
    let listeners = services().into_iter().zip(fds).map(|((dialect, address), fd)| {
        let family = if address.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
        (dialect, family, TcpListener::from(fd))
    });
    Ok((socket, listeners.collect()))
}

impl Waiting {
    /// Lets the command run.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn go(mut self) -> Result<Child> {
        self.socket.write_all(&[1]).context("the command is gone")?;
        Ok(self.child)
    }
}

/// A folder that nobody else can enter, removed when it is dropped.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new() -> Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).ok().context("the system gives no random bytes")?;
        let path = std::env::temp_dir().join(format!("podmeta-{:016x}", u64::from_ne_bytes(random)));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The child's side: makes the namespace, hands the listeners over, and becomes the command.
#[derive(Debug, clap::Args)]
pub struct InNamespace {
    /// Where to hand the listeners over.
    #[arg(long)]
    socket: PathBuf,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a function gives that does not come back.
#[derive(Debug)]
pub enum Never {}

impl InNamespace {
    /// Becomes the command.
    ///
    /// # Errors
    /// If any step on the way fails; the message says which.
    pub fn run(self) -> Result<Never> {
        let mut socket = UnixStream::connect(&self.socket).context("the agent is gone")?;
        enter()?;
        // Whatever ends the agent ends the command: nobody would answer it any more.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).context("cannot be tied to the agent")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let addresses = runtime.block_on(give_addresses()).context("cannot give the namespace its addresses")?;
        drop(runtime);
        let listeners = listen(&addresses)?;
        let fds = listeners.iter().map(|listener| listener.as_fd()).collect::<Vec<_>>();
        send_fds(&socket, &fds).context("the agent is gone")?;
        drop(listeners);
        let mut byte = [0];
        socket.read_exact(&mut byte).context("the agent is gone")?;
        drop(socket);
        let (program, arguments) = self.command.split_first().context("there is no command")?;
        let error = Command::new(program).args(arguments).exec();
        Err(error).with_context(|| format!("cannot run {}", Path::new(program).display()))
    }
}

/// Enters a new user and network namespace, as the same user.
fn enter() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context(
        "the kernel gives no user namespace; allow them (sysctl kernel.unprivileged_userns_clone=1, or \
         kernel.apparmor_restrict_unprivileged_userns=0), or use the loopback ports without --pod",
    )?;
    let write = |file: &str, text: String| std::fs::write(file, text).with_context(|| format!("cannot write {file}"));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Gives the loopback its own addresses, by being up, and the services': those that it has now.
async fn give_addresses() -> Result<Vec<IpAddr>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let loopback = handle.link().get().match_name("lo".to_owned()).execute().try_next().await?;
    let index = loopback.context("there is no loopback")?.header.index;
    handle.link().set(rtnetlink::LinkUnspec::new_with_index(index).up().build()).execute().await?;
    let mut given = Vec::new();
    for (_, address) in services() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut add = handle.address().add(index, address, bits);
        // Usable at once, without asking the network for a double first.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        match add.execute().await {
            Ok(()) => given.push(address),
            // A kernel without IPv6 still has the other two.
            Err(error) if address.is_ipv6() => eprintln!("warning: no {address} for the command: {error}"),
            Err(error) => return Err(error).with_context(|| format!("cannot add {address}")),
        }
    }
    Ok(given)
}

fn listen(addresses: &[IpAddr]) -> Result<Vec<TcpListener>> {
    let listen = |address: &IpAddr| {
        TcpListener::bind(SocketAddr::new(*address, 80)).with_context(|| format!("cannot listen on {address}"))
    };
    addresses.iter().map(listen).collect()
}
