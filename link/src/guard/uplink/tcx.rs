//! Attaches the program by links of tcx, which needs Linux 6.6 with `CONFIG_NET_XGRESS`. Only root can detach a link. The program
//! is replaced and moved without a gap.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::libc;

use super::loaded::LoadedProgram;
use super::{ProgramState, pins};
use crate::pinned_link;
use crate::sys::bpf::{self, Attached};

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// Returns true if the kernel has tcx.
pub(super) fn is_supported() -> bool {
    // A kernel without tcx returns EINVAL for this kind of hook, before it looks for the interface.
    !bpf::attached(LOOPBACK).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Attaches or replaces the program at an interface of the thread's network namespace. The program must run first: any program
/// before it can pass the packet, and the guard would not see it. Attaches the program again if another one precedes it.
pub(super) fn ensure(pins: &Path, program: &mut LoadedProgram, interface: u32) -> Result<ProgramState> {
    let attached = match bpf::attached(interface) {
        Err(error) if is_no_device(&error) => return Ok(ProgramState::InterfaceDeleted),
        attached => attached.context("cannot read the attached programs")?,
    };
    let position = attached.iter().position(|attached| program.is_equal(attached.program));
    if position == Some(0) {
        return Ok(ProgramState::Unchanged);
    }
    let path = pins::of_uplink(pins, interface);
    let link = pinned_link::open(&path)?;
    if let (None, Some(link)) = (position, link.filter(|link| is_of(link, &attached))) {
        let replaced = bpf::replace_program(link.as_fd(), program.first_copy());
        return replaced.map(|()| ProgramState::Attached).context("cannot replace the program of another version");
    }
    // The interface lacks the program, or another program precedes it. A pinned link can belong to a deleted or moved interface.
    match bpf::attach_first(program.unattached_copy(&attached), interface) {
        Err(error) if is_no_device(&error) => Ok(ProgramState::InterfaceDeleted),
        new => {
            let new = new.context("cannot attach the program")?;
            pinned_link::replace(new.as_fd(), &path).context("cannot replace the link")?;
            Ok(ProgramState::Attached)
        }
    }
}

/// Returns false if the thread's network namespace has no interface with this index.
pub(super) fn is_present(interface: u32) -> bool {
    !bpf::attached(interface).is_err_and(|error| is_no_device(&error))
}

/// Returns true if a link is one of those at an interface.
fn is_of(link: &OwnedFd, attached: &[Attached]) -> bool {
    bpf::link_id(link.as_fd()).is_ok_and(|id| attached.iter().any(|attached| attached.link == id))
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
