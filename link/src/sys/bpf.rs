//! The calls of `bpf(2)` that the uplink guard needs: a map of cgroups, a program of traffic control, and its links.
//!
//! Source: linux/bpf.h.

mod layout;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

use layout::{
    BPF_F_BEFORE, BPF_LINK_TYPE_TCX, BPF_MAP_TYPE_CGROUP_ARRAY, BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_EGRESS, Command, Info,
    InfoRequest, LinkCreate, LinkUpdate, MapCreate, MapElement, ObjectPath, ProgLoad, RawLinkInfo, RawMapInfo,
    RawProgramInfo,
};

/// One instruction: operation, registers, offset and immediate value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Class, size or operation, and mode or source.
    pub(crate) operation: u8,
    /// The destination register in the lower 4 bits, the source register in the upper ones.
    pub(crate) registers: u8,
    /// Offset of a load in bytes, or of a jump in instructions after the next one.
    pub(crate) offset: i16,
    /// Immediate value.
    pub(crate) immediate: i32,
}

/// Identity of a program's instructions: a hash of the kernel, without the numbers of maps.
pub(crate) type ProgramTag = [u8; 8];

/// Properties of a link of traffic control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// Kernel ID of the program.
    pub(crate) program: u32,
    /// Index of the interface, or 0 if the interface was deleted or the link was detached.
    pub(crate) interface: u32,
}

/// Size of the verifier's log in bytes. Its end names the error; the kernel keeps the end of a longer log.
const LOG_BYTES: u32 = 64 * 1024;

/// Maximum length of the verifier's log in an error, in bytes. Its last lines name the instruction and the reason.
const MAX_ERROR_LOG_BYTES: usize = 512;

/// Creates an array of cgroups. Its entries are empty.
///
/// # Errors
/// If the kernel rejects it, such as for a missing capability.
pub(crate) fn create_cgroup_array(entries: u32) -> io::Result<OwnedFd> {
    let attributes =
        MapCreate { map_type: BPF_MAP_TYPE_CGROUP_ARRAY, key_size: 4, value_size: 4, max_entries: entries };
    // SAFETY: the attributes contain no pointer.
    owned(unsafe { bpf(Command::MapCreate, &attributes) })
}

/// Sets an entry of an array of cgroups. `None` empties the entry.
///
/// # Errors
/// If the index is not below the number of entries, or the descriptor is not a directory of cgroup v2.
pub(crate) fn set_cgroup(array: BorrowedFd<'_>, index: u32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let value = cgroup.map(|cgroup| number(cgroup.as_raw_fd())).unwrap_or_default();
    let attributes = MapElement {
        map_fd: number(array.as_raw_fd()),
        padding: 0,
        key: address(&raw const index),
        value: if cgroup.is_some() { address(&raw const value) } else { 0 },
        flags: 0,
    };
    let command = if cgroup.is_some() { Command::MapUpdateElem } else { Command::MapDeleteElem };
    // SAFETY: the kernel reads 4 bytes at each pointer: `index`, and `value` for an update. Both live until the call returns.
    match unsafe { bpf(command, &attributes) } {
        // The entry is empty already.
        Err(error) if cgroup.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Loads a program of traffic control.
///
/// # Errors
/// If the kernel rejects it. The message contains the end of the verifier's log.
pub(crate) fn load_classifier(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let load = |log: &mut [u8]| {
        let attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
            insns: address(program.as_ptr()),
            license: address(license.as_ptr()),
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
            log_buf: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
        };
        // SAFETY: the kernel reads `insn_cnt` instructions of 8 bytes and a text that ends with zero. It writes at most
        // `log_size` bytes to the log, which is borrowed exclusively. All three live until the call returns.
        owned(unsafe { bpf(Command::ProgLoad, &attributes) })
    };
    load(&mut []).or_else(|error| {
        let mut log = vec![0; LOG_BYTES as usize];
        // The second load can succeed if the first one had a temporary error.
        load(&mut log).map_err(|_| {
            let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
            let start = text.ceil_char_boundary(text.len().saturating_sub(MAX_ERROR_LOG_BYTES));
            let end = text.get(start..).unwrap_or_default().trim().replace('\n', "; ");
            let log = if end.is_empty() { end } else { format!("; log of the verifier: {end}") };
            io::Error::new(error.kind(), format!("{error}{log}"))
        })
    })
}

/// Attaches a program to the egress of an interface of the thread's network namespace, before all other programs. The
/// program stays attached while the returned link is open or pinned.
///
/// # Errors
/// `EINVAL` if the kernel has no tcx (before Linux 6.6, or without `CONFIG_NET_XGRESS`), `ENODEV` if the interface does not exist.
pub(crate) fn attach_first(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: number(program.as_raw_fd()),
        target_ifindex: interface,
        attach_type: BPF_TCX_EGRESS,
        flags: BPF_F_BEFORE,
    };
    // SAFETY: the attributes contain no pointer.
    owned(unsafe { bpf(Command::LinkCreate, &attributes) })
}

/// Replaces the program of a link. No packet passes between the two programs.
///
/// # Errors
/// If the link is detached.
pub(crate) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate { link_fd: number(link.as_raw_fd()), new_prog_fd: number(program.as_raw_fd()) };
    // SAFETY: the attributes contain no pointer.
    unsafe { bpf(Command::LinkUpdate, &attributes) }.map(drop)
}

/// Detaches a link from its interface.
///
/// # Errors
/// If the descriptor is not a link that can be detached.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let link_fd = number(link.as_raw_fd());
    // SAFETY: the attribute is no pointer.
    unsafe { bpf(Command::LinkDetach, &link_fd) }.map(drop)
}

/// Pins an object at a path of a bpf filesystem. The object exists while it is pinned.
///
/// # Errors
/// If the path exists or is not on a bpf filesystem.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    path_command(Command::ObjPin, path, number(object.as_raw_fd())).map(drop)
}

/// Opens the object that is pinned at a path.
///
/// # Errors
/// If the path does not exist or is not a pinned object.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    owned(path_command(Command::ObjGet, path, 0))
}

/// Returns the properties of a link of tcx.
///
/// # Errors
/// If the descriptor is another object.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let info = info::<RawLinkInfo>(link)?;
    if info.link_type != BPF_LINK_TYPE_TCX || info.attach_type != BPF_TCX_EGRESS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the object is not a tcx egress link"));
    }
    Ok(LinkInfo { program: info.prog_id, interface: info.ifindex })
}

/// Returns the tag of a program.
///
/// # Errors
/// If the kernel does not report it.
pub(crate) fn program_tag(program: BorrowedFd<'_>) -> io::Result<ProgramTag> {
    Ok(info::<RawProgramInfo>(program)?.tag)
}

/// Returns the kernel ID of a map.
///
/// # Errors
/// If the kernel does not report it.
pub(crate) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info::<RawMapInfo>(map)?.id)
}

/// Opens a program by its kernel ID.
///
/// # Errors
/// If no program has the ID, or the process lacks the capability SYS_ADMIN.
pub(crate) fn open_program(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is no pointer.
    owned(unsafe { bpf(Command::ProgGetFdById, &id) })
}

fn info<T: Info>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let attributes = InfoRequest {
        bpf_fd: number(object.as_raw_fd()),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: address(&raw mut info),
    };
    // SAFETY: the kernel reads and writes at most `info_len` bytes at `info`, which has this size and is borrowed by nothing
    // else. Every value of these bytes is valid for an `Info`. A pointer field of the kernel's structure is zero or behind.
    unsafe { bpf(Command::ObjGetInfoByFd, &attributes) }?;
    Ok(info)
}

fn path_command(command: Command, path: &Path, fd: u32) -> io::Result<RawFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectPath { pathname: address(path.as_ptr()), bpf_fd: fd, file_flags: 0 };
    // SAFETY: the kernel reads a text that ends with zero, and that lives until the call returns.
    unsafe { bpf(command, &attributes) }
}

/// Calls `bpf(2)`. Returns a new descriptor for commands that open or create an object, otherwise 0.
///
/// # Safety
/// `A` is the layout of the command, without padding. Each pointer in it is valid for what the command reads and writes.
unsafe fn bpf<A>(command: Command, attributes: &A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes of the attributes. The caller guarantees the pointers in them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    RawFd::try_from(nix::errno::Errno::result(result)?).map_err(io::Error::other)
}

/// Takes the ownership of the descriptor that a command has created.
fn owned(result: io::Result<RawFd>) -> io::Result<OwnedFd> {
    // SAFETY: callers pass the result of a command that opens or creates an object. No other code knows its number.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns a pointer as the kernel expects it.
fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}

/// Returns the number of an open descriptor, which is never negative.
fn number(fd: RawFd) -> u32 {
    fd.unsigned_abs()
}
