//! The program of this version in the kernel, and its comparison with programs that are attached.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use anyhow::{Context as _, Result};

use super::program;
use crate::netns::Netns;
use crate::service;
use crate::sys::bpf::{self, Attached, ProgramInfo, map};
use crate::sys::netns_cookie;

/// The program of this version, once it has been loaded. It is not loaded again: the kernel writes each load to the audit log.
#[derive(Debug, Default)]
pub(super) struct ProgramCache(Option<LoadedProgram>);

/// Two copies of the program. The kernel attaches a copy only once to an interface, so the second one moves the program of an
/// interface without a gap.
#[derive(Debug)]
pub(super) struct LoadedProgram {
    copies: [OwnedFd; 2],
    /// Properties of the first copy.
    info: ProgramInfo,
    /// Kernel IDs of programs with the same instructions and the same map: those that an earlier process loaded.
    equal: HashSet<u32>,
}

impl ProgramCache {
    /// Returns the program for a map of cgroups. Loads it unless it is loaded.
    pub(super) fn get(&mut self, host: &Netns, cgroups: BorrowedFd<'_>) -> Result<&mut LoadedProgram> {
        let id = map::id(cgroups).context("cannot read the ID of the map of cgroups")?;
        self.get_or_load(id, || LoadedProgram::load(host, cgroups))
    }

    fn get_or_load(
        &mut self,
        cgroups: u32,
        load: impl FnOnce() -> Result<LoadedProgram>,
    ) -> Result<&mut LoadedProgram> {
        let loaded = match self.0.take() {
            Some(loaded) if loaded.info.map == cgroups => loaded,
            _ => load()?,
        };
        Ok(self.0.insert(loaded))
    }
}

impl LoadedProgram {
    fn load(host: &Netns, cgroups: BorrowedFd<'_>) -> Result<Self> {
        let cookie = host.run(|| netns_cookie(UnixDatagram::unbound()?.as_fd()));
        let cookie = cookie.context("cannot read the cookie of the node's network namespace")?;
        let copies = load_supported(cookie, |cookie| {
            let instructions = program::program(cgroups.as_raw_fd(), cookie, &service::ipv4(), &service::ipv6());
            Ok([bpf::load_classifier(&instructions)?, bpf::load_classifier(&instructions)?])
        });
        let copies = copies.context("the kernel rejects the program")?;
        Self::new(copies).context("cannot read the properties of the program")
    }

    fn new([first, second]: [OwnedFd; 2]) -> io::Result<Self> {
        let (info, other) = (bpf::program_info(first.as_fd())?, bpf::program_info(second.as_fd())?);
        Ok(Self { copies: [first, second], info, equal: HashSet::from([info.id, other.id]) })
    }

    /// Returns the descriptor of the first copy.
    pub(super) fn first_copy(&self) -> BorrowedFd<'_> {
        let [first, _] = &self.copies;
        first.as_fd()
    }

    /// Returns the descriptor of a copy that is not one of the programs at an interface.
    pub(super) fn unattached_copy(&self, attached: &[Attached]) -> BorrowedFd<'_> {
        let [first, second] = &self.copies;
        if attached.iter().any(|attached| attached.program == self.info.id) { second.as_fd() } else { first.as_fd() }
    }

    /// Returns true if the program with a kernel ID has the same instructions and the same map of cgroups.
    pub(super) fn is_equal(&mut self, id: u32) -> bool {
        if self.equal.contains(&id) {
            return true;
        }
        let other = bpf::open_program(id).and_then(|program| bpf::program_info(program.as_fd()));
        let is_equal = other.is_ok_and(|other| other.tag == self.info.tag && other.map == self.info.map);
        if is_equal {
            self.equal.insert(id);
        }
        is_equal
    }
}

/// Loads the program that compares the network namespace of sockets. If the kernel lacks the helper function for it (EINVAL), loads
/// the program without this comparison. Returns other errors: they can be temporary, and must not weaken the guard.
fn load_supported<P>(cookie: u64, mut load: impl FnMut(Option<u64>) -> io::Result<P>) -> io::Result<P> {
    match load(Some(cookie)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            tracing::info!(
                %error,
                "this kernel does not report the network namespace of a socket to programs of traffic control; the uplink guard does \
                 not compare it"
            );
            load(None)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    #[test]
    fn namespace_is_not_compared_only_if_the_kernel_lacks_the_call() {
        let load = |errno: i32| {
            let load = |cookie: Option<u64>| cookie.map_or(Ok(cookie), |_| Err(io::Error::from_raw_os_error(errno)));
            load_supported(7, load)
        };
        assert_eq!(load(nix::libc::EINVAL).unwrap(), None);
        for errno in [nix::libc::EPERM, nix::libc::ENOMEM, nix::libc::EAGAIN] {
            assert_eq!(load(errno).unwrap_err().raw_os_error(), Some(errno));
        }
        assert_eq!(load_supported(7, Ok).unwrap(), Some(7));
    }

    #[test]
    fn program_is_loaded_once_for_a_map() {
        let mut cache = ProgramCache::default();
        let loads = Cell::new(0);
        for (cgroups, expected) in [(7, 1), (7, 1), (8, 2), (8, 2)] {
            let load = || {
                loads.set(loads.get() + 1);
                let info = ProgramInfo { id: 1, tag: [0; 8], map: cgroups };
                let copies = [(); 2].map(|()| File::open("/dev/null").unwrap().into());
                Ok(LoadedProgram { copies, info, equal: HashSet::new() })
            };
            assert_eq!(cache.get_or_load(cgroups, load).unwrap().info.map, cgroups);
            assert_eq!(loads.get(), expected, "{cgroups}");
        }
    }
}
