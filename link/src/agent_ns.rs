//! The agent namespace: a pinned network namespace that owns the service addresses. All links end in it.

mod filter;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use rtnetlink::packet_route::address::AddressHeaderFlags;

use crate::netns::Netns;
use crate::route_socket::{RouteSocket, unless_exists};
use crate::service;

/// Default path of the pinned namespace.
pub const PINNED_PATH: &str = "/run/netns/podmeta";

/// Interface index of the loopback interface. Source: the kernel creates it first in each namespace.
const LOOPBACK: u32 = 1;

/// Maximum number of attempts to remove the pin. Another process can pin a namespace between unmount and removal.
const REMOVE_ATTEMPTS: usize = 10;

/// Settings of the namespace, under `/proc/sys/net`, in the order of their writes. `default` holds for interfaces that are
/// created later.
pub const SETTINGS: [(&str, &str); 21] = [
    // First: the kernel changes `accept_redirects` with it. Source: `inet_forward_change` in net/ipv4/devinet.c.
    ("ipv4/ip_forward", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    // A packet with the address of another link is dropped.
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    // The kernel can copy these from the host, where kube-proxy and network plugins set them.
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv4/conf/default/route_localnet", "0"),
    ("ipv4/conf/all/accept_local", "0"),
    ("ipv4/conf/default/accept_local", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv4/conf/all/proxy_arp", "0"),
    ("ipv4/conf/default/proxy_arp", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // Connections in the accept queue of a closed listener move to the next process's listener.
    ("ipv4/tcp_migrate_req", "1"),
    // Connections that wait to be accepted. All pods share the queues of the agent's listeners.
    ("core/somaxconn", "32768"),
    // An agent without capabilities may listen on port 80.
    ("ipv4/ip_unprivileged_port_start", "80"),
];

/// Opens the agent namespace. Creates, pins and configures it if it is missing. Idempotent.
///
/// # Errors
/// If the namespace cannot be created or configured. The message names the step.
pub async fn ensure(path: &Path) -> Result<Netns> {
    let netns = match Netns::open(path) {
        Ok(netns) => netns,
        Err(_) => create(path)?,
    };
    configure(&netns).await?;
    Ok(netns)
}

/// Opens the agent namespace and configures it. Does not create it: only a process with the node's own mounts can pin it so
/// that others see it.
///
/// # Errors
/// If the namespace is not pinned, or cannot be configured.
pub async fn open_pinned(path: &Path) -> Result<Netns> {
    let netns = Netns::open(path);
    let netns = netns.with_context(|| {
        format!("the agent namespace {} is not pinned; the CNI plugin pins it with the next new pod", path.display())
    })?;
    configure(&netns).await?;
    Ok(netns)
}

async fn configure(netns: &Netns) -> Result<()> {
    netns.run(write_settings).context("cannot write the settings of the agent namespace")?;
    filter::ensure(netns).context("cannot write the filter of the agent namespace")?;
    let route = RouteSocket::open(netns).context("cannot open a netlink socket in the agent namespace")?;
    route.set_up(LOOPBACK).await.context("cannot set the loopback interface of the agent namespace up")?;
    for address in service::addresses() {
        if address.is_ipv6() && !has_ipv6(netns)? {
            continue;
        }
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = route.address().add(LOOPBACK, address, length);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        unless_exists(request.execute().await)
            .with_context(|| format!("cannot add {address} to the agent namespace"))?;
    }
    Ok(())
}

/// Removes the pin of the agent namespace. The namespace ends with its last process and socket, and all links with it.
/// Retries if another process mounts the namespace at the same time.
///
/// # Errors
/// If the file cannot be unmounted or removed.
pub fn remove(path: &Path) -> Result<()> {
    for _ in 1..REMOVE_ATTEMPTS {
        match remove_once(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            result => return result.with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    remove_once(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Unmounts and removes the file. The error is `EBUSY` if it is still, or again, a mount point.
fn remove_once(path: &Path) -> io::Result<()> {
    match nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates and pins the namespace. A file that is not a namespace, such as one from before a reboot, becomes its mount point.
/// A lock on the file admits one process at a time. Only root can open the file.
fn create(path: &Path) -> Result<Netns> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    loop {
        let file = open_private(path);
        let file = file.with_context(|| format!("cannot open {} to lock it", path.display()))?;
        let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        let locked = locked.with_context(|| format!("cannot lock {}", path.display()))?;
        if let Ok(netns) = Netns::open(path) {
            return Ok(netns);
        }
        // The file was removed or replaced while this process waited for the lock.
        if !is_at(&locked, path) {
            continue;
        }
        let netns = Netns::create().context("cannot create a network namespace")?;
        match netns.pin(&locked) {
            // The file was removed while this process created the namespace. Try again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_at(&locked, path) => {}
            pinned => {
                pinned.with_context(|| format!("cannot pin the agent namespace at {}", path.display()))?;
                return Ok(netns);
            }
        }
    }
}

/// Opens a file. Creates it if it is missing, for root only.
fn open_private(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(File::from(open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
}

/// Returns true if this file is at this path.
fn is_at(file: &File, path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
    let opened = file.metadata().map(|opened| (opened.dev(), opened.ino()));
    found.ok().zip(opened.ok()).is_some_and(|(found, opened)| found == opened)
}

/// Writes the settings of the calling thread's namespace. Settings of IPv6 are skipped if the kernel has no IPv6.
fn write_settings() -> io::Result<()> {
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(name);
        match std::fs::read_to_string(&path) {
            Ok(current) if current.trim() == value => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("ipv6/") => {}
            _ => std::fs::write(&path, value)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
        }
    }
    Ok(())
}

/// Returns true if new interfaces of the namespace have IPv6.
///
/// # Errors
/// If the namespace cannot be entered.
pub(crate) fn has_ipv6(netns: &Netns) -> io::Result<bool> {
    netns.run(|| match std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6") {
        Ok(disabled) => Ok(disabled.trim() == "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    })
}
