//! Cgroups of pods on a node: those that contain all pods, and those of exempt pods.
//!
//! The kubelet has two cgroup drivers. kind puts the cgroups of its nodes one level deeper.
//!
//! ```text
//! systemd     kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice
//! cgroupfs    kubepods/burstable/podUID
//! ```
//!
//! Source: `pkg/kubelet/cm` of kubernetes/kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use podmeta_metadata::names::PodUid;

use super::entries::{ExemptEntries, PodCgroup, is_deleted};
use super::pins;
use super::program::{EXEMPT_ENTRIES, POD_ENTRIES};
use crate::sys::bpf;

/// Maximum number of exempt pods of a node.
pub const MAX_EXEMPT_PODS: usize = (EXEMPT_ENTRIES.end - EXEMPT_ENTRIES.start) as usize;

/// Names of a cgroup with all pods and of those below it.
#[derive(Clone, Copy, Debug)]
enum PodsCgroup {
    /// The systemd driver: the path of the slice, and the start of the names below it.
    Systemd(&'static str, &'static str),
    /// The cgroupfs driver: the path.
    Cgroupfs(&'static str),
}

/// The possible names. Each has the entry of the same position in the array of cgroups.
const PODS_CGROUPS: [PodsCgroup; (POD_ENTRIES.end - POD_ENTRIES.start) as usize] = [
    PodsCgroup::Systemd("kubepods.slice", "kubepods"),
    PodsCgroup::Cgroupfs("kubepods"),
    PodsCgroup::Systemd("kubelet.slice/kubelet-kubepods.slice", "kubelet-kubepods"),
    PodsCgroup::Cgroupfs("kubelet/kubepods"),
];

impl PodsCgroup {
    fn path(self) -> &'static str {
        match self {
            Self::Systemd(path, _) | Self::Cgroupfs(path) => path,
        }
    }

    /// Returns the possible paths of a pod's cgroup: one for each QoS class.
    fn of_pod(self, pod: &PodUid) -> [String; 3] {
        match self {
            Self::Systemd(path, prefix) => {
                // A slice's name has a dash for each level.
                let uid = pod.as_str().replace('-', "_");
                ["", "-burstable", "-besteffort"].map(|class| {
                    let directory = if class.is_empty() { String::new() } else { format!("{prefix}{class}.slice/") };
                    format!("{path}/{directory}{prefix}{class}-pod{uid}.slice")
                })
            }
            Self::Cgroupfs(path) => ["", "burstable/", "besteffort/"].map(|class| format!("{path}/{class}pod{pod}")),
        }
    }
}

/// The array of cgroups as this process wrote it last.
#[derive(Debug)]
pub struct CgroupEntries {
    /// Kernel ID of the array.
    array: Option<u32>,
    exempt: ExemptEntries,
}

impl CgroupEntries {
    /// Creates the state before the first update, which writes all entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { array: None, exempt: ExemptEntries::new() }
    }

    /// Writes the current cgroups into the array of the guard: those of exempt pods, and then those that contain all pods. From
    /// then on, the program drops packets from sockets of other pods. A cgroup that was created again replaces the former
    /// one. Does nothing if the guard is not on this node.
    ///
    /// An exempt pod keeps its entry. If more than [`MAX_EXEMPT_PODS`] run, the first ones by UID are exempt. A pod without a
    /// cgroup has ended. A failure for one cgroup does not keep the others from being written.
    pub fn update(&mut self, pins: &Path, root: &Path, exempt: &BTreeSet<&PodUid>) -> CgroupUpdate {
        match self.open(pins, root) {
            Ok(Some((array, root))) => CgroupUpdate {
                exempt: self.update_exempt(array.as_fd(), &root, exempt),
                pods: update_pods(array.as_fd(), &root),
            },
            Ok(None) => CgroupUpdate { exempt: Ok(()), pods: Ok(true) },
            Err(error) => CgroupUpdate { exempt: Ok(()), pods: Err(error) },
        }
    }

    /// Opens the array. Returns it with the directory of cgroup v2, or `None` if the guard is not on this node.
    fn open(&mut self, pins: &Path, root: &Path) -> Result<Option<(OwnedFd, PathBuf)>> {
        let Some(array) = pins::open_cgroups(pins)? else { return Ok(None) };
        let id = bpf::map_id(array.as_fd()).context("cannot read the ID of the array of cgroups")?;
        if self.array != Some(id) {
            *self = Self { array: Some(id), ..Self::new() };
        }
        Ok(Some((array, cgroup2(root)?)))
    }

    fn update_exempt(&mut self, array: BorrowedFd<'_>, root: &Path, exempt: &BTreeSet<&PodUid>) -> Result<()> {
        let mut errors = Vec::new();
        let mut cgroups = BTreeMap::new();
        for uid in exempt {
            if cgroups.len() == MAX_EXEMPT_PODS {
                break;
            }
            match open_pod(root, uid) {
                Ok(None) => {}
                Ok(cgroup) => drop(cgroups.insert(*uid, cgroup)),
                Err(error) => {
                    cgroups.insert(*uid, None);
                    errors.push(error);
                }
            }
        }
        errors.extend(self.exempt.update(&cgroups, |entry, cgroup| bpf::set_cgroup(array, entry, cgroup)));
        first(errors)
    }
}

/// Result of an update.
#[derive(Debug)]
#[must_use]
pub struct CgroupUpdate {
    /// True if a cgroup contains pods, or the failure to write the cgroups that contain pods. After a failure, the program can
    /// pass packets of pods.
    pub pods: Result<bool>,
    /// The failure to write the cgroups of exempt pods. After a failure, the program can drop packets of exempt pods.
    pub exempt: Result<()>,
}

impl Default for CgroupEntries {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes the cgroups that contain all pods. Returns false if there is none.
fn update_pods(array: BorrowedFd<'_>, root: &Path) -> Result<bool> {
    let mut errors = Vec::new();
    let mut is_found = false;
    for (entry, cgroup) in POD_ENTRIES.zip(PODS_CGROUPS) {
        let path = root.join(cgroup.path());
        let written = match File::open(&path) {
            Ok(directory) => bpf::set_cgroup(array, entry, Some(directory.as_fd())).map(|()| true),
            Err(error) => Err(error),
        };
        let written = match written {
            Err(error) if is_deleted(&error) => bpf::set_cgroup(array, entry, None).map(|()| false),
            written => written,
        };
        match written.with_context(|| format!("cannot write {} into the cgroups", path.display())) {
            Ok(written) => is_found |= written,
            Err(error) => errors.push(error),
        }
    }
    first(errors).map(|()| is_found)
}

/// Opens the cgroup of a pod, or returns `None` if it has none.
fn open_pod(root: &Path, uid: &PodUid) -> Result<Option<PodCgroup>> {
    for path in PODS_CGROUPS.iter().flat_map(|cgroup| cgroup.of_pod(uid)) {
        let path = root.join(path);
        let opened = File::open(&path).and_then(|directory| Ok((directory.metadata()?.ino(), directory)));
        match opened {
            Ok((inode, directory)) => return Ok(Some(PodCgroup { directory: directory.into(), inode })),
            Err(error) if is_deleted(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }
    Ok(None)
}

/// Returns the first error with the number of the others.
fn first(errors: Vec<anyhow::Error>) -> Result<()> {
    let others = errors.len().saturating_sub(1);
    match errors.into_iter().next() {
        None => Ok(()),
        Some(error) if others == 0 => Err(error),
        Some(error) => Err(error.context(format!("{} errors, the first one", others + 1))),
    }
}

/// Returns the directory of cgroup v2: the root, or `unified` below it on a node that also has v1.
fn cgroup2(root: &Path) -> Result<PathBuf> {
    for path in [root.to_owned(), root.join("unified")] {
        if statfs(&path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(path);
        }
    }
    bail!("cgroup v2 is not mounted at {}", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_a_pod_have_the_names_of_the_kubelet() {
        let pod = PodUid::try_from("0a-1b".to_owned()).unwrap();
        let paths = PODS_CGROUPS.map(|cgroup| cgroup.of_pod(&pod));
        assert_eq!(
            paths[0],
            [
                "kubepods.slice/kubepods-pod0a_1b.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a_1b.slice",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a_1b.slice",
            ]
        );
        assert_eq!(paths[1], ["kubepods/pod0a-1b", "kubepods/burstable/pod0a-1b", "kubepods/besteffort/pod0a-1b"]);
        assert_eq!(
            paths[2][1],
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a_1b.slice"
        );
        assert_eq!(paths[3][2], "kubelet/kubepods/besteffort/pod0a-1b");
    }

    #[test]
    fn directory_of_another_filesystem_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(cgroup2(directory.path()).unwrap_err().to_string().contains("cgroup v2 is not mounted"));
    }
}
