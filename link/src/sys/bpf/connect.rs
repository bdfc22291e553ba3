//! The calls of `bpf(2)` for programs that change the address of `connect(2)` in a cgroup: programs, links, and a map of
//! cgroup IDs.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::libc;

use super::layout::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT, BPF_LINK_TYPE_CGROUP, BPF_MAP_TYPE_HASH,
    BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Command, LinkCreate, MapCreate, MapElement, RawCgroupLinkInfo,
};
use super::{Instruction, address, bpf, info, load, number, owned};

/// The sockets whose `connect(2)` a program changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectHook {
    /// AF_INET sockets.
    Ipv4,
    /// AF_INET6 sockets, also with IPv4-mapped addresses.
    Ipv6,
}

/// Properties of a link of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLinkInfo {
    /// Kernel ID of the program.
    pub(crate) program: u32,
    /// ID of the cgroup, or 0 if the cgroup was removed or the link was detached.
    pub(crate) cgroup: u64,
}

impl ConnectHook {
    pub(crate) const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    fn attach_type(self) -> u32 {
        match self {
            Self::Ipv4 => BPF_CGROUP_INET4_CONNECT,
            Self::Ipv6 => BPF_CGROUP_INET6_CONNECT,
        }
    }
}

/// Loads a program for a hook.
///
/// # Errors
/// If the kernel rejects it. The message contains the end of the verifier's log.
pub(crate) fn load_connect(hook: ConnectHook, program: &[Instruction]) -> io::Result<OwnedFd> {
    load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook.attach_type(), program)
}

/// Attaches a program to a cgroup and all cgroups below it, beside other programs. It runs before the programs of the cgroups above.
/// The program stays attached while the returned link is open or pinned.
///
/// # Errors
/// `EPERM` if a program is attached to the cgroup that admits no others.
pub(crate) fn attach_connect(
    hook: ConnectHook,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: number(program.as_raw_fd()),
        target_ifindex: number(cgroup.as_raw_fd()),
        attach_type: hook.attach_type(),
        flags: 0,
    };
    // SAFETY: the attributes contain no pointer.
    owned(unsafe { bpf(Command::LinkCreate, &attributes) })
}

/// Returns the properties of a link of a hook.
///
/// # Errors
/// If the descriptor is another object.
pub(crate) fn connect_link_info(hook: ConnectHook, link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let info = info::<RawCgroupLinkInfo>(link)?;
    if info.link_type != BPF_LINK_TYPE_CGROUP || info.attach_type != hook.attach_type() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the object is no link of this hook"));
    }
    Ok(CgroupLinkInfo { program: info.prog_id, cgroup: info.cgroup_id })
}

/// Creates a map with cgroup IDs as keys.
///
/// # Errors
/// If the kernel rejects it, such as for a missing capability.
pub(crate) fn create_id_map(entries: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate { map_type: BPF_MAP_TYPE_HASH, key_size: 8, value_size: 4, max_entries: entries };
    // SAFETY: the attributes contain no pointer.
    owned(unsafe { bpf(Command::MapCreate, &attributes) })
}

/// Adds an ID to a map.
///
/// # Errors
/// If the map is full.
pub(crate) fn add_id(map: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let value = 1_u32;
    element(Command::MapUpdateElem, map, &raw const id, address(&raw const value)).map(drop)
}

/// Removes an ID from a map. Succeeds if the map does not contain it.
///
/// # Errors
/// If the descriptor is no map.
pub(crate) fn remove_id(map: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    match element(Command::MapDeleteElem, map, &raw const id, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Returns the IDs in a map.
///
/// # Errors
/// If the descriptor is no map.
pub(crate) fn ids(map: BorrowedFd<'_>) -> io::Result<Vec<u64>> {
    let mut ids: Vec<u64> = Vec::new();
    loop {
        let mut next = 0_u64;
        let previous = ids.last().map_or(std::ptr::null(), std::ptr::from_ref);
        match element(Command::MapGetNextKey, map, previous, address(&raw mut next)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            result => drop(result?),
        }
        // The kernel starts again at the first key if the previous one was removed meanwhile.
        if ids.contains(&next) {
            return Ok(ids);
        }
        ids.push(next);
    }
}

/// Calls a command of a map with keys of 8 bytes. `value` is the address of the value, or of the next key.
fn element(command: Command, map: BorrowedFd<'_>, key: *const u64, value: u64) -> io::Result<i32> {
    let attributes = MapElement { map_fd: number(map.as_raw_fd()), padding: 0, key: address(key), value, flags: 0 };
    // SAFETY: callers pass null, or pointers that live until the call returns: the kernel reads 8 bytes at the key, and reads 4
    // bytes at the value or writes 8 bytes at the next key.
    unsafe { bpf(command, &attributes) }
}

/// Returns the cookie of the thread's network namespace. The kernel never assigns a cookie again.
///
/// # Errors
/// If the kernel has no such cookie (before Linux 5.14).
pub(crate) fn netns_cookie() -> io::Result<u64> {
    /// Source: asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has this size, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}
