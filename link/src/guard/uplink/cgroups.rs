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
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::libc;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use podmeta_metadata::names::PodUid;

use super::entries::{EntryChange, Obsolete, changes};
use super::program::CgroupKind;
use super::{first, pins};
use crate::sys::bpf::map;

/// Number of entries in the map above which the entries of deleted cgroups are removed, even if some exempt pods are not known.
const MAX_KEPT_ENTRIES: usize = pins::MAX_CGROUPS as usize / 2;

/// Names of the cgroup that contains all pods, and of those below it.
#[derive(Clone, Copy, Debug)]
enum PodsCgroup {
    /// The systemd driver: the path of the slice, and the start of the names below it.
    Systemd(&'static str, &'static str),
    /// The cgroupfs driver: the path.
    Cgroupfs(&'static str),
}

/// The names with each cgroup driver: first in the default configuration of the kubelet, then in that of kind.
const PODS_CGROUPS: [PodsCgroup; 4] = [
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

/// Result of an update.
#[derive(Debug)]
#[must_use]
pub struct CgroupUpdate {
    /// Result for the cgroups that contain all pods. False if the guard is on this node and finds none. After an error, the program
    /// can pass packets of pods.
    pub pods: Result<bool>,
    /// Result for the cgroups of exempt pods. After an error, the program can drop packets of exempt pods.
    pub exempt: Result<()>,
}

/// The exempt pods of a node.
#[derive(Clone, Copy, Debug)]
pub enum ExemptPods<'a> {
    /// The UIDs of all exempt pods.
    All(&'a BTreeSet<&'a PodUid>),
    /// The UIDs of the known ones. Others can exist, and keep their entries.
    Known(&'a BTreeSet<&'a PodUid>),
}

/// Writes the current cgroups into the map of the guard: those of exempt pods, and those that contain all pods. From then on,
/// the program drops packets from sockets of other pods. Does nothing if the guard is not on this node.
///
/// A failure for one cgroup does not keep the others from being written.
pub fn update(pins: &Path, root: &Path, exempt: ExemptPods<'_>) -> CgroupUpdate {
    let open = || Ok::<_, anyhow::Error>((pins::open_cgroups(pins)?, cgroup2(root)?));
    match open() {
        Ok((Some(cgroups), root)) => update_map(cgroups.as_fd(), &root, exempt),
        Ok((None, _)) => CgroupUpdate { exempt: Ok(()), pods: Ok(true) },
        Err(error) => CgroupUpdate { exempt: Ok(()), pods: Err(error) },
    }
}

fn update_map(cgroups: BorrowedFd<'_>, root: &Path, exempt: ExemptPods<'_>) -> CgroupUpdate {
    let (mut pod_errors, mut exempt_errors, mut wanted) = (Vec::new(), Vec::new(), BTreeMap::new());
    let (ExemptPods::All(uids) | ExemptPods::Known(uids)) = exempt;
    for uid in uids {
        match id_of_pod(root, uid) {
            Ok(id) => drop(wanted.insert(id, CgroupKind::ExemptPod)),
            Err(error) => exempt_errors.push(error),
        }
    }
    let mut is_found = false;
    for cgroup in PODS_CGROUPS {
        match id(&root.join(cgroup.path())) {
            Ok(Some(id)) => {
                is_found = true;
                wanted.insert(id, CgroupKind::Pods);
            }
            Ok(None) => {}
            Err(error) => pod_errors.push(error),
        }
    }
    let is_complete =
        matches!(exempt, ExemptPods::All(_)) && exempt_errors.is_empty() && pod_errors.is_empty() && is_found;
    match map::entries(cgroups).context("cannot read the map of cgroups") {
        Ok(current) => {
            let existing = (current.len() > MAX_KEPT_ENTRIES).then(|| existing_ids(root));
            let obsolete = match &existing {
                _ if is_complete => Obsolete::Remove,
                Some(existing) => Obsolete::KeepExisting(existing),
                None => Obsolete::Keep,
            };
            for change in changes(&current, &wanted, obsolete) {
                let result = match change {
                    EntryChange::Set(id, kind) => map::set(cgroups, id, u32::from(kind as u8)),
                    EntryChange::Remove(id) => map::remove(cgroups, id),
                };
                let errors = match change {
                    EntryChange::Set(_, CgroupKind::Pods) => &mut pod_errors,
                    _ => &mut exempt_errors,
                };
                let (EntryChange::Set(id, _) | EntryChange::Remove(id)) = change;
                let message = || format!("cannot write the cgroup with ID {id} into the map of cgroups");
                errors.extend(result.with_context(message).err());
            }
        }
        Err(error) => pod_errors.push(error),
    }
    CgroupUpdate { pods: first(pod_errors).map(|()| is_found), exempt: first(exempt_errors) }
}

/// Returns the kernel's ID of a pod's cgroup.
fn id_of_pod(root: &Path, uid: &PodUid) -> Result<u64> {
    for path in PODS_CGROUPS.iter().flat_map(|cgroup| cgroup.of_pod(uid)) {
        if let Some(id) = id(&root.join(path))? {
            return Ok(id);
        }
    }
    Err(anyhow!("the pod with UID {uid} has no cgroup below the kubelet's"))
}

/// Returns the kernel's ID of a cgroup, or `None` if it does not exist. The ID is the inode of its directory, and no later
/// cgroup has it.
fn id(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if is_deleted(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn is_deleted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Returns the directories that get an entry when the kubelet or the runtime creates a cgroup of a pod or of its containers: the
/// cgroups that contain pods, and those of pods.
pub fn pod_directories(root: &Path) -> Vec<PathBuf> {
    let Ok(root) = cgroup2(root) else { return Vec::new() };
    let below = |path: &PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let is_of_pods = |name: &str| name.contains("pod") || ["burstable", "besteffort"].contains(&name);
        let of_pods = entries.filter(move |entry| entry.file_name().to_str().is_some_and(is_of_pods));
        of_pods.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let all = PODS_CGROUPS.map(|cgroup| root.join(cgroup.path())).into_iter().filter(|path| path.exists());
    let all = all.collect::<Vec<_>>();
    let classes = all.iter().flat_map(below).collect::<Vec<_>>();
    let pods = classes.iter().flat_map(below).collect::<Vec<_>>();
    [all, classes, pods].concat()
}

/// Returns the IDs of the cgroups of pods, and of those that contain pods.
fn existing_ids(root: &Path) -> BTreeSet<u64> {
    pod_directories(root).iter().filter_map(|path| id(path).ok().flatten()).collect()
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
