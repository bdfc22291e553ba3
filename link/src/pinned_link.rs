//! Pinned bpf links. A link keeps its program attached while it is pinned or open.
//!
//! A new link is pinned at its path with the suffix `-new`, until a rename replaces the former link.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::libc;

use crate::sys::bpf;

/// Suffix of the path of a link that is not at its own path yet. The kernel rejects names with a dot.
pub(crate) const NEW_SUFFIX: &str = "-new";

/// Opens the object that is pinned at a path, or returns `None` if there is none.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>> {
    match bpf::open_pinned(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        link => link.map(Some).with_context(|| format!("cannot open {}", path.display())),
    }
}

/// Pins an attached link, and detaches the former link at the path. If there is one, a link is attached and pinned the whole time.
pub(crate) fn replace(link: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let former = open(path)?;
    let new = new_path(path);
    // A process that ended before the rename below leaves this pin.
    remove_pin(&new)?;
    bpf::pin(link, &new).with_context(|| format!("cannot pin {}", new.display()))?;
    if let Err(error) = std::fs::rename(&new, path) {
        // The error of the rename says more.
        drop(remove_pin(&new));
        return Err(error).with_context(|| format!("cannot rename {}", new.display()));
    }
    let detached = former.map_or(Ok(()), |former| detach(former.as_fd()));
    detached.with_context(|| format!("cannot detach the former link of {}", path.display()))
}

/// Detaches and removes the link at a path, and a new link that has not replaced it yet. Succeeds if there is none.
pub(crate) fn remove(path: &Path) -> Result<()> {
    for path in [path, &new_path(path)] {
        // The removal must succeed on a kernel without bpf(2), which has no pins.
        if !path.try_exists().with_context(|| format!("cannot read {}", path.display()))? {
            continue;
        }
        if let Some(link) = open(path)? {
            detach(link.as_fd()).with_context(|| format!("cannot detach {}", path.display()))?;
        }
        remove_pin(path)?;
    }
    Ok(())
}

/// Removes a pin. Succeeds if there is none.
pub(crate) fn remove_pin(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn new_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(NEW_SUFFIX);
    path.with_file_name(name)
}

/// Detaches a link. Succeeds if its interface or cgroup was deleted.
fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    match bpf::detach(link) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV | libc::ENOENT)) => Ok(()),
        result => result,
    }
}
