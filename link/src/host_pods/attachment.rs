//! The programs in the cgroups that contain all pods, and the map of exempt cgroups. All are pinned in the bpf filesystem of the
//! guards, so they stay while no process of podmeta runs:
//!
//! ```text
//! /run/podmeta/bpf/connect-exempt     the map of exempt cgroups
//! /run/podmeta/bpf/connect-ipv4-N     the link of the cgroup at position N of `ROOTS`, for AF_INET
//! /run/podmeta/bpf/connect-ipv6-N     the same for AF_INET6
//! ```

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::addresses::substitutes;
use super::cgroups::{ROOTS, open_root};
use super::program::program;
use crate::pinned_link;
use crate::sys::bpf::connect::{self, ConnectHook};
use crate::sys::bpf::{self, ProgramTag};

/// Maximum number of exempt pods of a node. Ends of pods are noticed late, and the kubelet's limit, 110 pods by default, can be higher.
pub(super) const MAX_EXEMPT_PODS: u32 = 4096;

/// Name of the pinned map of exempt cgroups.
const EXEMPT: &str = "connect-exempt";

/// Value of each entry of the map. The programs check only that there is an entry.
const EXEMPT_VALUE: u32 = 1;

/// The programs, their map and their pins.
#[derive(Debug)]
pub(super) struct Attachment {
    pins: PathBuf,
    cookie: u64,
    /// The programs and their map, once they have been loaded.
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    /// Kernel ID of the map.
    exempt: u32,
    programs: [(ConnectHook, OwnedFd, ProgramTag); 2],
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectPrograms {
    /// Number of cgroups that contain pods.
    pub(super) cgroups: usize,
    /// Number of programs that were attached or replaced.
    pub(super) programs: usize,
    /// Number of cgroups that are no longer exempt.
    pub(super) removed: usize,
}

impl Attachment {
    /// Creates the state of a node. `cookie` identifies the host's network namespace.
    pub(super) fn new(pins: PathBuf, cookie: u64) -> Self {
        Self { pins, cookie, loaded: None }
    }

    /// Writes the exempt cgroups, and then attaches the programs to each cgroup that contains all pods. A cgroup in `kept` stays
    /// exempt if it was exempt before.
    pub(super) fn ensure(
        &mut self,
        hierarchy: &Path,
        exempt: &BTreeSet<u64>,
        kept: &BTreeSet<u64>,
    ) -> Result<ConnectPrograms> {
        let map = open_map(&self.pins)?;
        let removed = write_exempt(map.as_fd(), exempt, kept).context("cannot write the exempt pods");
        let id = bpf::map::id(map.as_fd()).context("cannot read the ID of the map of exempt pods")?;
        if self.loaded.as_ref().is_none_or(|loaded| loaded.exempt != id) {
            self.loaded = Some(load(self.cookie, id, map.as_fd())?);
        }
        let mut attached = ConnectPrograms::default();
        let Some(loaded) = &self.loaded else { return Ok(attached) };
        for position in 0..ROOTS.len() {
            let Some((directory, cgroup)) = open_root(hierarchy, position)? else { continue };
            attached.cgroups += 1;
            for (hook, program, tag) in &loaded.programs {
                let path = self.pins.join(pin_name(*hook, position));
                if !is_attached(*hook, &path, cgroup, *tag, id)? {
                    let link = connect::attach_connect(*hook, program.as_fd(), directory.as_fd())
                        .with_context(|| format!("cannot attach the program of {}", path.display()))?;
                    pinned_link::replace(link.as_fd(), &path)?;
                    attached.programs += 1;
                }
            }
        }
        // Last, so that an error of the map does not keep pods from being redirected.
        attached.removed = removed?;
        Ok(attached)
    }
}

/// Adds exempt cgroups to the map. Does nothing if there is none.
pub(super) fn exempt(pins: &Path, cgroups: impl Iterator<Item = u64>) -> Result<()> {
    let Some(map) = pinned_link::open(&pins.join(EXEMPT))? else { return Ok(()) };
    let add = || -> io::Result<()> {
        let written = bpf::map::entries(map.as_fd())?;
        let mut new = cgroups.filter(|cgroup| !written.contains_key(cgroup));
        new.try_for_each(|cgroup| bpf::map::set(map.as_fd(), cgroup, EXEMPT_VALUE))
    };
    add().context("cannot write the exempt pods")
}

/// Returns the IDs of the cgroups that are exempt.
pub(super) fn exempt_cgroups(pins: &Path) -> Result<BTreeSet<u64>> {
    let map = open_map(pins)?;
    let ids = bpf::map::entries(map.as_fd()).context("cannot read the exempt pods")?;
    Ok(ids.into_keys().collect())
}

/// Detaches all programs and removes their pins. Succeeds if there are none.
pub(super) fn remove(pins: &Path) -> Result<()> {
    for hook in ConnectHook::ALL {
        for position in 0..ROOTS.len() {
            pinned_link::remove(&pins.join(pin_name(hook, position)))?;
        }
    }
    pinned_link::remove_pin(&pins.join(EXEMPT))
}

fn pin_name(hook: ConnectHook, position: usize) -> String {
    let family = match hook {
        ConnectHook::Ipv4 => "ipv4",
        ConnectHook::Ipv6 => "ipv6",
    };
    format!("connect-{family}-{position}")
}

/// Opens the map. Creates and pins it if it is missing.
fn open_map(pins: &Path) -> Result<OwnedFd> {
    let path = pins.join(EXEMPT);
    match bpf::open_pinned(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let map = bpf::map::create(MAX_EXEMPT_PODS).context("the kernel does not create a map of cgroups")?;
            bpf::pin(map.as_fd(), &path).with_context(|| format!("cannot pin {}", path.display()))?;
            Ok(map)
        }
        result => result.with_context(|| format!("cannot open {}", path.display())),
    }
}

/// Writes the exempt cgroups into the map. Returns the number of cgroups that are no longer exempt.
fn write_exempt(map: BorrowedFd<'_>, exempt: &BTreeSet<u64>, kept: &BTreeSet<u64>) -> io::Result<usize> {
    let written = bpf::map::entries(map)?.into_keys().collect::<BTreeSet<_>>();
    let removed = written.difference(exempt).filter(|id| !kept.contains(id)).collect::<Vec<_>>();
    for id in &removed {
        bpf::map::remove(map, **id)?;
    }
    for id in exempt.difference(&written) {
        bpf::map::set(map, *id, EXEMPT_VALUE)?;
    }
    Ok(removed.len())
}

fn load(cookie: u64, id: u32, map: BorrowedFd<'_>) -> Result<Loaded> {
    let load = |hook| -> Result<(ConnectHook, OwnedFd, ProgramTag)> {
        let instructions = program(hook, cookie, map.as_raw_fd(), &substitutes());
        let program = connect::load_connect(hook, &instructions);
        let program = program.with_context(|| format!("the kernel rejects the program of {hook:?}"))?;
        let info = bpf::program_info(program.as_fd()).context("cannot read the tag of a program")?;
        Ok((hook, program, info.tag))
    };
    Ok(Loaded { exempt: id, programs: [load(ConnectHook::Ipv4)?, load(ConnectHook::Ipv6)?] })
}

/// Returns true if the pin is a link of this cgroup with the program of this version and this map.
fn is_attached(hook: ConnectHook, path: &Path, cgroup: u64, tag: ProgramTag, map: u32) -> Result<bool> {
    let link = match bpf::open_pinned(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        link => link.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let info = connect::connect_link_info(hook, link.as_fd());
    let info = info.with_context(|| format!("cannot read {}", path.display()))?;
    let attached = bpf::open_program(info.program).and_then(|program| bpf::program_info(program.as_fd()));
    Ok(info.cgroup == cgroup && attached.is_ok_and(|attached| attached.tag == tag && attached.map == map))
}
