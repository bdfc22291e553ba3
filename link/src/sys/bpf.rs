//! Calls of `bpf(2)` that load, identify and pin programs, and attach them to the egress of interfaces with tcx, the traffic
//! control hook of Linux 6.6. [`map`] has the calls for maps, [`connect`] those for programs of cgroups.
//!
//! Source: linux/bpf.h.

pub(crate) mod assembler;
pub(crate) mod connect;
mod layout;
pub(crate) mod map;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

use layout::{
    BPF_F_BEFORE, BPF_LINK_TYPE_TCX, BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_EGRESS, Command, Info, InfoRequest, LinkCreate,
    LinkUpdate, ObjectPath, ProgLoad, ProgQuery, RawLinkInfo, RawProgramInfo,
};

/// One instruction: operation, registers, offset and immediate value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Code of the operation: its class in the lower 3 bits, its variant in the upper ones.
    pub(crate) operation: u8,
    /// The destination register in the lower 4 bits, the source register in the upper ones.
    pub(crate) registers: u8,
    /// Offset of a load in bytes, or of a jump in instructions after the next one.
    pub(crate) offset: i16,
    /// Immediate value.
    pub(crate) immediate: i32,
}

/// The kernel's hash of a program's instructions. It does not depend on the maps that they use.
pub(crate) type ProgramTag = [u8; 8];

/// Properties of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    /// Kernel ID.
    pub(crate) id: u32,
    /// Hash of its instructions.
    pub(crate) tag: ProgramTag,
    /// Kernel ID of its map, or 0 if it has none. Not defined for a program with several maps.
    pub(crate) map: u32,
}

/// A program at the egress of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Kernel ID of the program.
    pub(crate) program: u32,
    /// Kernel ID of its link, or 0 if it was attached without one.
    pub(crate) link: u32,
}

/// Maximum number of programs at one hook of an interface. Source: `BPF_MPROG_MAX` in linux/bpf_mprog.h.
const MAX_ATTACHED: usize = 64;

/// Size of the buffer for the verifier's log, in bytes. The kernel keeps the end of a longer log, which names the error.
const LOG_BYTES: u32 = 64 * 1024;

/// Maximum length of the verifier's log in an error, in bytes. Its last lines name the instruction and the reason.
const MAX_ERROR_LOG_BYTES: usize = 512;

/// Loads a program of traffic control.
///
/// # Errors
/// If the kernel rejects it. The message contains the end of the verifier's log.
pub(crate) fn load_classifier(program: &[Instruction]) -> io::Result<OwnedFd> {
    load(BPF_PROG_TYPE_SCHED_CLS, 0, program)
}

/// Loads a program of a type. `attach_type` is 0 for a type that does not need it.
fn load(program_type: u32, attach_type: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let load = |log: &mut [u8]| {
        let attributes = ProgLoad {
            prog_type: program_type,
            insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
            insns: address(program.as_ptr()),
            license: address(license.as_ptr()),
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
            log_buf: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
            kern_version: 0,
            prog_flags: 0,
            prog_name: [0; 16],
            prog_ifindex: 0,
            expected_attach_type: attach_type,
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

/// Returns the kernel ID of a tcx link at the egress of an interface.
///
/// # Errors
/// If the descriptor is not such a link.
pub(crate) fn link_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    let info = info::<RawLinkInfo>(link)?;
    if info.link_type != BPF_LINK_TYPE_TCX || info.attach_type != BPF_TCX_EGRESS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the object is not a tcx egress link"));
    }
    Ok(info.id)
}

/// Returns the tcx programs at the egress of an interface of the thread's network namespace, in their order.
///
/// # Errors
/// `EINVAL` if the kernel has no tcx, `ENODEV` if the interface does not exist.
pub(crate) fn attached(interface: u32) -> io::Result<Vec<Attached>> {
    let (mut programs, mut links) = ([0_u32; MAX_ATTACHED], [0_u32; MAX_ATTACHED]);
    let mut attributes = ProgQuery {
        target_ifindex: interface,
        attach_type: BPF_TCX_EGRESS,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: address(programs.as_mut_ptr()),
        count: u32::try_from(MAX_ATTACHED).map_err(io::Error::other)?,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: address(links.as_mut_ptr()),
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel writes at most `count` numbers of 4 bytes to each of the two arrays, which have this length and live
    // until the call returns. It writes to the attributes, which are borrowed exclusively.
    unsafe { bpf_mut(Command::ProgQuery, &raw mut attributes) }?;
    let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
    let attached = programs.into_iter().zip(links).take(count);
    Ok(attached.map(|(program, link)| Attached { program, link }).collect())
}

/// Returns the properties of a program.
///
/// # Errors
/// If the kernel does not report them.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut map = 0_u32;
    let mut info = RawProgramInfo { nr_map_ids: 1, map_ids: address(&raw mut map), ..RawProgramInfo::default() };
    // SAFETY: the kernel writes at most `nr_map_ids` numbers of 4 bytes at `map_ids`, which is valid for one and lives until the
    // call returns. The other pointers are zero, with lengths of zero.
    unsafe { request_info(program, &mut info) }?;
    Ok(ProgramInfo { id: info.id, tag: info.tag, map })
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
    // SAFETY: the pointers in a default `T` are zero. The kernel does not use fields of its structure that `T` does not have.
    unsafe { request_info(object, &mut info) }?;
    Ok(info)
}

/// Requests information about an object.
///
/// # Safety
/// Each pointer in `info` is zero, or valid for the number of elements beside it.
unsafe fn request_info<T: Info>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let attributes = InfoRequest {
        bpf_fd: number(object.as_raw_fd()),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: address(&raw mut *info),
    };
    // SAFETY: the kernel reads and writes at most `info_len` bytes at `info`, which has this size and is borrowed exclusively.
    // Every value of these bytes is valid for an `Info`. The caller guarantees the pointers in it.
    unsafe { bpf(Command::ObjGetInfoByFd, &attributes) }.map(drop)
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
/// `A` is the layout of the command, without padding, and the command does not write to it. Each pointer in it is valid for
/// what the command reads and writes.
unsafe fn bpf<A>(command: Command, attributes: &A) -> io::Result<RawFd> {
    // SAFETY: the caller guarantees that the command does not write to the attributes.
    unsafe { bpf_mut(command, (&raw const *attributes).cast_mut()) }
}

/// Calls `bpf(2)` with a command that can write to its attributes.
///
/// # Safety
/// As [`bpf`], and the attributes are valid for writes unless the command only reads them.
unsafe fn bpf_mut<A>(command: Command, attributes: *mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` bytes of the attributes. The caller guarantees the pointers in them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    RawFd::try_from(nix::errno::Errno::result(result)?).map_err(io::Error::other)
}

/// Takes ownership of the descriptor that a command returned.
fn owned(result: io::Result<RawFd>) -> io::Result<OwnedFd> {
    // SAFETY: callers pass the result of a command that opens or creates an object. No other code knows its number.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns a pointer as the number that the kernel expects.
fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}

/// Returns an open descriptor, which is never negative, as an unsigned number.
fn number(fd: RawFd) -> u32 {
    fd.unsigned_abs()
}
