//! Guard 3: a program of traffic control at the egress of each interface by which packets can leave the node. It drops traffic to
//! the service addresses that does not come from a socket of the node or of an exempt pod. It also sees packets that bypass routing
//! rules and nftables, such as those of a network plugin with an eBPF datapath.
//!
//! Kernels before Linux 6.6 have no tcx. There, the program is a filter of the qdisc clsact. The map
//! and the bpf links of tcx are pinned in a bpf filesystem. A filter belongs to its interface. So the
//! guard stays while no process of podmeta runs:
//!
//! ```text
//! /run/podmeta/bpf/cgroup-ids        the map of cgroups
//! /run/podmeta/bpf/uplink-INDEX      the bpf link of the program at the interface INDEX
//! ```

pub mod cgroups;
mod clsact;
mod entries;
mod interfaces;
mod loaded;
mod pins;
mod program;
pub mod repair;
mod routes;
mod tcx;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::netns::Netns;
use crate::pinned_link;
use crate::route_socket::RouteSocket;
use crate::service;

pub(crate) use pins::check as check_pins;
pub use pins::mount;

/// Default path of the bpf filesystem with the pins.
pub const PINS_PATH: &str = "/run/podmeta/bpf";

/// Name of the directory with the pins below the directory of podmeta's state. [`PINS_PATH`] ends with it.
pub const PINS_DIR: &str = "bpf";

/// Minimum interval of reads of the routing tables. A node can have a million routes.
const ROUTES_INTERVAL: Duration = Duration::from_secs(60);

/// The guard of one node.
#[derive(Debug)]
pub struct UplinkGuard {
    pins: PathBuf,
    hook: Hook,
    program: loaded::ProgramCache,
    /// Interfaces that had the program after their last successful check.
    guarded: BTreeSet<u32>,
    /// Interfaces of routes to a service address.
    routed: BTreeSet<u32>,
    /// Time of the last read of the routing tables.
    routes_read: Option<Instant>,
}

/// Hook of an interface that runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tcx, or clsact if the kernel has no tcx.
    Best,
    /// clsact, as on a kernel without tcx.
    Clsact,
}

/// Number of interfaces that got the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachedPrograms {
    /// Interfaces that this process has not guarded before.
    pub new: usize,
    /// Interfaces guarded before, where the program was removed, replaced, or no longer ran first.
    pub repaired: usize,
}

/// Error of a check, which can have succeeded for some interfaces.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub struct UplinkCheckError {
    error: anyhow::Error,
    /// Interfaces that got the program.
    pub attached: AttachedPrograms,
}

impl From<anyhow::Error> for UplinkCheckError {
    fn from(error: anyhow::Error) -> Self {
        Self { error, attached: AttachedPrograms::default() }
    }
}

/// Result of a check of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramState {
    /// The program of this version was attached already.
    Unchanged,
    /// The program was attached, or has replaced one of another version.
    Attached,
    InterfaceDeleted,
}

impl UplinkGuard {
    /// Creates a guard with the pins at a path.
    #[must_use]
    pub fn new(pins: PathBuf) -> Self {
        Self::with_hook(pins, Hook::Best)
    }

    /// Creates a guard that uses a hook.
    #[must_use]
    pub fn with_hook(pins: PathBuf, hook: Hook) -> Self {
        Self {
            pins,
            hook,
            program: loaded::ProgramCache::default(),
            guarded: BTreeSet::new(),
            routed: BTreeSet::new(),
            routes_read: None,
        }
    }

    /// Attaches the program to each unguarded interface by which packets can leave the namespace `host`.
    /// Replaces a program of another version. Idempotent.
    ///
    /// An interface keeps the program when its routes are deleted: they can return at any time.
    ///
    /// # Errors
    /// If no bpf filesystem is mounted at the path of the pins, the kernel rejects the program, or a later step fails. The check
    /// continues after a failure for one interface, a failure to read the routes, or a failure to remove an old link.
    pub async fn ensure(&mut self, host: &Netns) -> Result<AttachedPrograms, UplinkCheckError> {
        pins::check(&self.pins)?;
        let cgroups = pins::ensure_cgroups(&self.pins)?;
        let socket = RouteSocket::open(host).context("cannot open a netlink socket")?;
        let found = interfaces::list(&socket).await.context("cannot list the interfaces")?;
        let mut errors = Vec::from_iter(self.read_routes(&socket).await.err());
        self.routed.retain(|interface| found.all.contains(interface));
        let interfaces = found.uplinks.union(&self.routed).copied().collect::<BTreeSet<_>>();
        let program = self.program.get(host, cgroups.as_fd())?;
        let (pins, hook) = (&self.pins, self.hook);
        let mut check_by_tcx = || {
            let check = |interface: &u32| (*interface, tcx::ensure(pins, program, *interface));
            let is_tcx = hook == Hook::Best && tcx::is_supported();
            Ok(is_tcx.then(|| (interfaces.iter().map(check).collect::<Vec<_>>(), remove_deleted(pins, &found.all))))
        };
        // The kernel looks up an interface in the namespace of the thread.
        let by_tcx = host.run(&mut check_by_tcx).context("cannot enter the node's network namespace")?;
        let results = match by_tcx {
            Some((results, removed)) => {
                errors.extend(removed.err());
                results
            }
            None => clsact::ensure_all(&socket, program, &interfaces).await,
        };
        self.record(results, errors)
    }

    /// Reads the routing tables, unless they were read a short time ago.
    async fn read_routes(&mut self, socket: &RouteSocket) -> Result<()> {
        if self.routes_read.is_none_or(|read| read.elapsed() >= ROUTES_INTERVAL) {
            self.routed.extend(routes::list(socket, &service::addresses()).await.context("cannot list the routes")?);
            self.routes_read = Some(Instant::now());
        }
        Ok(())
    }

    /// Records the results of a check, by interface. `errors` has the errors of the other steps. Returns the first of all errors,
    /// with their number.
    fn record(
        &mut self,
        results: Vec<(u32, Result<ProgramState>)>,
        mut errors: Vec<anyhow::Error>,
    ) -> Result<AttachedPrograms, UplinkCheckError> {
        let before = std::mem::take(&mut self.guarded);
        let mut attached = AttachedPrograms::default();
        for (interface, result) in results {
            let was_guarded = before.contains(&interface);
            let is_guarded = match result {
                Ok(ProgramState::Unchanged) => true,
                Ok(ProgramState::Attached) => {
                    if was_guarded {
                        attached.repaired += 1;
                    } else {
                        attached.new += 1;
                    }
                    true
                }
                Ok(ProgramState::InterfaceDeleted) => false,
                Err(error) => {
                    errors.push(error.context(format!("cannot guard the interface with index {interface}")));
                    was_guarded
                }
            };
            if is_guarded {
                self.guarded.insert(interface);
            }
        }
        match first(errors) {
            Ok(()) => Ok(attached),
            Err(error) => Err(UplinkCheckError { error, attached }),
        }
    }
}

/// Detaches all programs, and removes pins and filesystem. Succeeds if there are none.
///
/// # Errors
/// If a program cannot be detached, or the filesystem cannot be removed.
pub async fn remove(host: &Netns, pins: &Path) -> Result<()> {
    let detached = detach_all(host, pins).await;
    let removed = remove_pins(pins);
    detached.and(removed)
}

/// Detaches all programs: the guard was turned off. Succeeds if there are none.
///
/// # Errors
/// If a program cannot be detached.
pub async fn detach_all(host: &Netns, pins: &Path) -> Result<()> {
    let detached = detach_links(pins);
    let socket = RouteSocket::open(host).context("cannot open a netlink socket")?;
    let interfaces = interfaces::list(&socket).await.context("cannot list the interfaces")?;
    detached.and(clsact::remove_all(&socket, &interfaces.all).await)
}

/// Detaches the programs of tcx, and removes pins and filesystem. Succeeds if there are none.
///
/// # Errors
/// If a program cannot be detached, or the filesystem cannot be removed.
pub fn remove_pins(pins: &Path) -> Result<()> {
    detach_links(pins)?;
    pins::unmount(pins).with_context(|| format!("cannot remove {}", pins.display()))
}

fn detach_links(pins: &Path) -> Result<()> {
    if pins::is_mounted(pins) { remove_all(links(pins)?.into_values()) } else { Ok(()) }
}

/// Detaches and removes the links of interfaces that were deleted, or moved to another network namespace. `listed` are the
/// interfaces of the node. Must run in its network namespace.
fn remove_deleted(pins: &Path, listed: &BTreeSet<u32>) -> Result<()> {
    remove_all(deleted(links(pins)?, listed, tcx::is_present))
}

/// Returns the links of deleted interfaces. `listed` can lack an existing interface if others were deleted while the kernel listed
/// them. So `is_present` looks up each interface that is not listed.
fn deleted(links: BTreeMap<u32, PathBuf>, listed: &BTreeSet<u32>, is_present: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let is_deleted = |interface: &u32| !listed.contains(interface) && !is_present(*interface);
    links.into_iter().filter(|(interface, _)| is_deleted(interface)).map(|(_, path)| path).collect()
}

fn links(pins: &Path) -> Result<BTreeMap<u32, PathBuf>> {
    pins::links(pins).with_context(|| format!("cannot read {}", pins.display()))
}

/// Detaches and removes links. After a failure, it continues with the other links.
fn remove_all(links: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    first(links.into_iter().filter_map(|path| pinned_link::remove(&path).err()).collect())
}

/// Returns the first error with the number of all errors.
fn first(errors: Vec<anyhow::Error>) -> Result<()> {
    let count = errors.len();
    match errors.into_iter().next() {
        None => Ok(()),
        Some(error) if count == 1 => Err(error),
        Some(error) => Err(error.context(format!("{count} errors, the first one"))),
    }
}

/// Returns the finding about a failure of the guard.
#[must_use]
pub fn finding(error: &impl Display) -> String {
    format!(
        "{error:#}; pods on the host network, and pods whose traffic bypasses the node's network stack, can reach the node's metadata service"
    )
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn guard() -> UplinkGuard {
        UplinkGuard::new(PathBuf::new())
    }

    #[test]
    fn program_attached_to_an_interface_guarded_before_counts_as_a_repair() {
        let mut guard = guard();
        let attached = |new, repaired| AttachedPrograms { new, repaired };
        for (results, expected) in [
            ([(2, ProgramState::Attached), (3, ProgramState::Unchanged)], attached(1, 0)),
            ([(2, ProgramState::Unchanged), (3, ProgramState::Attached)], attached(0, 1)),
            ([(2, ProgramState::InterfaceDeleted), (3, ProgramState::Unchanged)], attached(0, 0)),
            ([(2, ProgramState::Attached), (3, ProgramState::Attached)], attached(1, 1)),
        ] {
            let results = results.map(|(interface, state)| (interface, Ok(state)));
            assert_eq!(guard.record(results.into(), Vec::new()).unwrap(), expected);
        }
    }

    #[test]
    fn interface_with_an_error_does_not_hide_the_others() {
        let mut guard = guard();
        let results = vec![(2, Err(anyhow!("a"))), (3, Ok(ProgramState::Attached)), (4, Err(anyhow!("b")))];
        let error = guard.record(results, Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "2 errors, the first one: cannot guard the interface with index 2: a");
        assert_eq!(error.attached, AttachedPrograms { new: 1, repaired: 0 });
        assert_eq!(guard.guarded, BTreeSet::from([3]));
        guard.record(vec![(3, Err(anyhow!("c")))], Vec::new()).unwrap_err();
        let attached = guard.record(vec![(3, Ok(ProgramState::Attached))], Vec::new()).unwrap();
        assert_eq!(attached, AttachedPrograms { new: 0, repaired: 1 }, "it was guarded before the failure");
    }

    #[test]
    fn link_of_an_existing_interface_that_the_list_lacks_is_kept() {
        let links = [2, 3, 4].map(|interface| (interface, PathBuf::from(interface.to_string())));
        let deleted = deleted(links.into(), &BTreeSet::from([2]), |interface| interface == 3);
        assert_eq!(deleted, [PathBuf::from("4")]);
    }
}
