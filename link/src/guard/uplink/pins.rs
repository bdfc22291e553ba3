//! The bpf filesystem with the pins of the guard. Its objects exist while they are pinned.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::pinned_link::NEW_SUFFIX;
use crate::sys::bpf;

/// Name of the pinned map of cgroups.
const CGROUPS: &str = "cgroup-ids";

/// Maximum number of cgroups in the map. The kubelet's default limit is 110 pods.
pub(super) const MAX_CGROUPS: u32 = 4096;

/// Prefix of the names of pinned links. The index of the interface follows.
const UPLINK_PREFIX: &str = "uplink-";

/// Maximum number of filesystems that are mounted over each other at one path.
const MAX_MOUNTS: usize = 16;

/// Mounts a bpf filesystem for root at a path, unless one is mounted. Idempotent.
///
/// # Errors
/// If the directory cannot be created, or the kernel rejects the mount.
pub fn mount(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    if !is_mounted(path) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
            .with_context(|| format!("cannot mount a bpf filesystem at {}", path.display()))?;
    }
    Ok(())
}

/// Returns true if a path is on a bpf filesystem.
pub(super) fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Returns an error unless a bpf filesystem is mounted at a path.
pub(crate) fn check(path: &Path) -> Result<()> {
    ensure!(is_mounted(path), "no bpf filesystem is mounted at {}; restart the pod of the link daemon", path.display());
    Ok(())
}

/// Unmounts and removes the directory. Succeeds if it does not exist. The removal unmounts it in other mount namespaces, too.
///
/// # Errors
/// If the path is on a bpf filesystem but not its mount point, or the directory cannot be removed.
pub(super) fn unmount(path: &Path) -> Result<()> {
    for _ in 0..MAX_MOUNTS {
        if !is_mounted(path) {
            break;
        }
        match umount2(path, MntFlags::MNT_DETACH) {
            // EINVAL: the path is not a mount point, or another process has unmounted the filesystem.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(errno).with_context(|| format!("cannot unmount {}", path.display())),
        }
    }
    ensure!(
        !is_mounted(path),
        "cannot unmount {}: it is on a bpf filesystem but is not its mount point; unmount the filesystem above it",
        path.display()
    );
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns the path of the link of an interface.
pub(super) fn of_uplink(path: &Path, uplink: u32) -> PathBuf {
    path.join(format!("{UPLINK_PREFIX}{uplink}"))
}

/// Returns the paths of the links by the index of their interface. A link can be pinned only at the path of a new link. Other files
/// are skipped.
pub(super) fn links(path: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut links = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().map(|name| name.strip_suffix(NEW_SUFFIX).unwrap_or(name));
        let uplink = name.and_then(|name| name.strip_prefix(UPLINK_PREFIX)?.parse().ok());
        links.extend(uplink.map(|uplink| (uplink, of_uplink(path, uplink))));
    }
    Ok(links)
}

/// Opens the map of cgroups, or returns `None` if there is none.
pub(super) fn open_cgroups(path: &Path) -> Result<Option<OwnedFd>> {
    let path = path.join(CGROUPS);
    match bpf::open_pinned(&path) {
        // EINVAL: the directory is not on a bpf filesystem.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
        result => result.map(Some).with_context(|| format!("cannot open {}", path.display())),
    }
}

/// Opens the map of cgroups. Creates and pins it if it is missing.
pub(super) fn ensure_cgroups(path: &Path) -> Result<OwnedFd> {
    use std::os::fd::AsFd as _;
    let path = path.join(CGROUPS);
    match bpf::open_pinned(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let cgroups = bpf::map::create(MAX_CGROUPS).context("the kernel does not create a map of cgroups")?;
            bpf::pin(cgroups.as_fd(), &path).with_context(|| format!("cannot pin {}", path.display()))?;
            Ok(cgroups)
        }
        result => result.with_context(|| format!("cannot open {}", path.display())),
    }
}
