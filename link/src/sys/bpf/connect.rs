//! The calls of `bpf(2)` for programs that change the address of `connect(2)` in a cgroup: programs and links.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use super::layout::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT, BPF_LINK_TYPE_CGROUP, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Command,
    LinkCreate, RawCgroupLinkInfo,
};
use super::{Instruction, bpf, info, load, number, owned};

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

/// Attaches a program to a cgroup and all cgroups below it, beside other programs. It runs before the programs of the cgroups
/// above. The program stays attached while the returned link is open or pinned.
///
/// # Errors
/// `EPERM` if the cgroup has a program that allows no others beside it.
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
/// If the descriptor is not such a link.
pub(crate) fn connect_link_info(hook: ConnectHook, link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let info = info::<RawCgroupLinkInfo>(link)?;
    if info.link_type != BPF_LINK_TYPE_CGROUP || info.attach_type != hook.attach_type() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the object is not a link of this hook"));
    }
    Ok(CgroupLinkInfo { program: info.prog_id, cgroup: info.cgroup_id })
}
