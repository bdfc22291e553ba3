//! Guard 3: a program of traffic control at the egress of each uplink. It drops traffic to the service addresses that does not
//! come from a socket of the node or of an exempt pod. It also sees packets that pass by routing rules and nftables, such as those of a network
//! plugin with an eBPF datapath.
//!
//! The program is attached by a link of tcx, which needs Linux 6.6 with `CONFIG_NET_XGRESS`. The links and the array of cgroups are pinned in a bpf
//! filesystem, so the guard stays while no process of podmeta runs:
//!
//! ```text
//! /run/podmeta/bpf/cgroups           the array of cgroups
//! /run/podmeta/bpf/uplink-INDEX      the link of the interface INDEX
//! ```

mod assembler;
pub mod cgroups;
mod entries;
mod pins;
mod program;
mod routes;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;

use crate::netns::Netns;
use crate::route_socket::{RouteSocket, errno};
use crate::service;
use crate::sys::bpf::{self, ProgramTag};

pub use pins::mount;

/// Default path of the bpf filesystem with the pins.
pub const PINS_PATH: &str = "/run/podmeta/bpf";

/// Name of the default path in the directory of podmeta's state.
pub const PINS_DIR: &str = "bpf";

/// The guard of one node.
#[derive(Debug)]
pub struct UplinkGuard {
    pins: PathBuf,
    program: ProgramCache,
    tcx: Tcx,
}

/// The program of this version, once it has been loaded. It is loaded once: the kernel writes each load to the audit log.
#[derive(Debug, Default)]
struct ProgramCache(Option<LoadedProgram>);

#[derive(Debug)]
struct LoadedProgram {
    program: OwnedFd,
    tag: ProgramTag,
    /// Kernel ID of the program's array of cgroups.
    cgroups: u32,
}

/// Support of tcx by the kernel. It cannot change while the process runs.
#[derive(Debug, Default)]
struct Tcx {
    is_unsupported: bool,
}

/// Program of one uplink, compared with that of this version.
enum UplinkState {
    /// The program of this version is attached.
    Current,
    /// Another version is attached by this link.
    Outdated(OwnedFd),
    /// No program is attached.
    Missing,
}

impl UplinkGuard {
    /// Creates a guard with the pins at a path.
    #[must_use]
    pub fn new(pins: PathBuf) -> Self {
        Self { pins, program: ProgramCache::default(), tcx: Tcx::default() }
    }

    /// Attaches the program to all uplinks of a namespace that lack it, and replaces a program of another version. Returns the
    /// number of attached and replaced programs. Idempotent.
    ///
    /// An interface that is no uplink now keeps the program until it is deleted: its route can return at any time.
    ///
    /// # Errors
    /// If no bpf filesystem is mounted at the path of the pins, or the kernel rejects the program. A failure for one uplink
    /// does not keep the others from being guarded.
    pub async fn ensure(&mut self, host: &Netns) -> Result<usize> {
        pins::check(&self.pins)?;
        let socket = RouteSocket::open(host).context("cannot open a netlink socket")?;
        let uplinks = routes::uplinks(&socket, &service::addresses()).await.context("cannot list the routes")?;
        let results = uplinks.iter().map(|uplink| {
            self.ensure_uplink(host, *uplink).with_context(|| format!("cannot guard the uplink with index {uplink}"))
        });
        let results = results.collect::<Vec<_>>();
        remove_deleted(&socket, &self.pins, &uplinks).await?;
        results.into_iter().map(|result| result.map(usize::from)).sum()
    }

    /// Attaches or replaces the program of one uplink. Returns true if it was missing or outdated.
    fn ensure_uplink(&mut self, host: &Netns, uplink: u32) -> Result<bool> {
        let cgroups = pins::ensure_cgroups(&self.pins)?;
        let id = bpf::map_id(cgroups.as_fd()).context("cannot read the ID of the array of cgroups")?;
        let loaded = self.program.get(id, || load(cgroups.as_fd()))?;
        match state(&self.pins, uplink, loaded.tag)? {
            UplinkState::Current => Ok(false),
            UplinkState::Outdated(link) => {
                let replaced = bpf::replace_program(link.as_fd(), loaded.program.as_fd());
                replaced.map(|()| true).context("cannot replace the program of another version")
            }
            UplinkState::Missing => {
                // The kernel looks up the interface in the namespace of the thread.
                let attach = || host.run(|| bpf::attach_first(loaded.program.as_fd(), uplink));
                let Some(link) = self.tcx.attach(attach)? else { return Ok(false) };
                bpf::pin(link.as_fd(), &pins::of_uplink(&self.pins, uplink)).context("cannot pin the program")?;
                Ok(true)
            }
        }
    }
}

impl ProgramCache {
    /// Returns the program for the array of cgroups with a kernel ID. Loads it unless it is loaded.
    fn get(&mut self, cgroups: u32, load: impl FnOnce() -> Result<(OwnedFd, ProgramTag)>) -> Result<&LoadedProgram> {
        let loaded = match self.0.take() {
            Some(loaded) if loaded.cgroups == cgroups => loaded,
            _ => load().map(|(program, tag)| LoadedProgram { program, tag, cgroups })?,
        };
        Ok(self.0.insert(loaded))
    }
}

impl Tcx {
    /// Attaches a program. Returns its link, or `None` if the interface was deleted meanwhile. Does not call `attach` if the
    /// kernel has rejected a link of tcx before.
    fn attach(&mut self, attach: impl FnOnce() -> io::Result<OwnedFd>) -> Result<Option<OwnedFd>> {
        if !self.is_unsupported {
            match attach() {
                Ok(link) => return Ok(Some(link)),
                Err(error) => match error.raw_os_error() {
                    Some(nix::libc::ENODEV) => return Ok(None),
                    Some(nix::libc::EINVAL) => self.is_unsupported = true,
                    _ => return Err(error).context("cannot attach the program"),
                },
            }
        }
        bail!("the kernel has no tcx; use Linux 6.6 or newer with CONFIG_NET_XGRESS")
    }
}

/// Loads the program for an array of cgroups.
fn load(cgroups: BorrowedFd<'_>) -> Result<(OwnedFd, ProgramTag)> {
    let instructions = program::program(cgroups.as_raw_fd(), &service::ipv4(), &service::ipv6());
    let program = bpf::load_classifier(&instructions).context("the kernel rejects the program")?;
    let tag = bpf::program_tag(program.as_fd()).context("cannot read the tag of the program")?;
    Ok((program, tag))
}

/// Detaches all programs, and removes pins and filesystem. Succeeds if there are none.
///
/// # Errors
/// If a program cannot be detached, or the filesystem cannot be removed.
pub fn remove(pins: &Path) -> Result<()> {
    detach_all(pins)?;
    pins::unmount(pins).with_context(|| format!("cannot remove {}", pins.display()))
}

/// Detaches all programs: the guard was turned off. Succeeds if there are none.
///
/// # Errors
/// If a program cannot be detached.
pub fn detach_all(pins: &Path) -> Result<()> {
    if pins::is_mounted(pins) { remove_all(pins) } else { Ok(()) }
}

/// Returns the finding about a failure of the guard.
#[must_use]
pub fn finding(error: &anyhow::Error) -> String {
    format!("{error:#}; pods whose traffic bypasses the node's network stack can reach the node's metadata service")
}

/// Returns the state of an uplink. Removes a pin whose interface was deleted, or whose link was detached.
fn state(pins: &Path, uplink: u32, tag: ProgramTag) -> Result<UplinkState> {
    let path = pins::of_uplink(pins, uplink);
    let link = match bpf::open_pinned(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(UplinkState::Missing),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let info = bpf::link_info(link.as_fd()).with_context(|| format!("cannot read {}", path.display()))?;
    if info.interface != uplink {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        return Ok(UplinkState::Missing);
    }
    let attached = bpf::open_program(info.program).and_then(|program| bpf::program_tag(program.as_fd()));
    Ok(if attached.is_ok_and(|attached| attached == tag) { UplinkState::Current } else { UplinkState::Outdated(link) })
}

/// Removes the pins of interfaces that do not exist in the namespace of a socket. `uplinks` are known to exist.
async fn remove_deleted(socket: &RouteSocket, pins: &Path, uplinks: &BTreeSet<u32>) -> Result<()> {
    let links = pins::links(pins).with_context(|| format!("cannot read {}", pins.display()))?;
    for (interface, path) in links.into_iter().filter(|(interface, _)| !uplinks.contains(interface)) {
        let exists = exists(socket, interface).await;
        if !exists.with_context(|| format!("cannot read the interface with index {interface}"))? {
            remove_link(&path)?;
        }
    }
    Ok(())
}

/// Returns true if an interface exists in the namespace of a socket.
async fn exists(socket: &RouteSocket, interface: u32) -> Result<bool, rtnetlink::Error> {
    match socket.link().get().match_index(interface).execute().try_next().await {
        Ok(link) => Ok(link.is_some()),
        Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Detaches and removes all links.
fn remove_all(pins: &Path) -> Result<()> {
    let links = pins::links(pins).with_context(|| format!("cannot read {}", pins.display()))?;
    links.into_iter().try_for_each(|(_, path)| remove_link(&path))
}

/// Detaches and removes a link. Its interface may have been deleted.
fn remove_link(path: &Path) -> Result<()> {
    let link = bpf::open_pinned(path).with_context(|| format!("cannot open {}", path.display()))?;
    match bpf::detach(link.as_fd()) {
        // The interface was deleted.
        Err(error) if error.raw_os_error() != Some(nix::libc::ENODEV) => {
            Err(error).with_context(|| format!("cannot detach {}", path.display()))
        }
        _ => std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn program_is_loaded_once_for_an_array() {
        let mut cache = ProgramCache::default();
        let loads = Cell::new(0);
        let load = || {
            loads.set(loads.get() + 1);
            Ok((descriptor(), [0; 8]))
        };
        for (cgroups, expected) in [(7, 1), (7, 1), (8, 2), (8, 2)] {
            assert_eq!(cache.get(cgroups, load).unwrap().cgroups, cgroups);
            assert_eq!(loads.get(), expected, "{cgroups}");
        }
    }

    #[test]
    fn kernel_without_tcx_is_an_error_and_is_not_tried_again() {
        let mut tcx = Tcx::default();
        let rejected = tcx.attach(|| Err(io::Error::from_raw_os_error(nix::libc::EINVAL))).unwrap_err();
        assert!(rejected.to_string().contains("Linux 6.6 or newer with CONFIG_NET_XGRESS"), "{rejected}");
        let again = tcx.attach(|| panic!("attaches again")).unwrap_err();
        assert_eq!(again.to_string(), rejected.to_string());
    }

    #[test]
    fn deleted_interface_or_another_error_does_not_end_the_attempts() {
        let mut tcx = Tcx::default();
        assert!(tcx.attach(|| Err(io::Error::from_raw_os_error(nix::libc::ENODEV))).unwrap().is_none());
        tcx.attach(|| Err(io::Error::from_raw_os_error(nix::libc::ENOMEM))).unwrap_err();
        assert!(tcx.attach(|| Ok(descriptor())).unwrap().is_some());
    }
}
