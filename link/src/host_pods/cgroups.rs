//! The kubelet's cgroups of pods. The kernel identifies a cgroup by the inode of its directory, and never assigns an inode again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::libc;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use podmeta_metadata::names::PodUid;

/// Possible paths of the cgroup that contains all pods: with the systemd and the cgroupfs driver, and the same two with the
/// settings of kind. The position of a path is part of the name of a pin.
pub(super) const ROOTS: [&str; 4] =
    ["kubepods.slice", "kubepods", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods"];

/// QoS classes with a cgroup of their own.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];

/// A cgroup.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
    pub(super) id: u64,
}

/// Returns the directory of cgroup v2: the root, or `unified` below it on a node that also has v1.
pub(super) fn hierarchy(root: &Path) -> Result<PathBuf> {
    for path in [root.to_owned(), root.join("unified")] {
        if statfs(&path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(path);
        }
    }
    bail!("cgroup v2 is not mounted at {}", root.display())
}

/// Opens a cgroup that contains all pods. Returns `None` if it does not exist.
pub(super) fn open_root(hierarchy: &Path, position: usize) -> io::Result<Option<(File, u64)>> {
    let Some(name) = ROOTS.get(position) else { return Ok(None) };
    match File::open(hierarchy.join(name)).and_then(|directory| Ok((directory.metadata()?.ino(), directory))) {
        Ok((id, directory)) => Ok(Some((directory, id))),
        Err(error) if is_deleted(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the cgroups of all pods.
pub(super) fn pods(hierarchy: &Path) -> io::Result<Vec<(PodUid, Cgroup)>> {
    let mut pods = Vec::new();
    for root in ROOTS {
        for cgroup in children(&hierarchy.join(root))? {
            if let Some(pod) = pod_of(&cgroup.path) {
                pods.push((pod, cgroup));
            } else if is_class(&cgroup.path) {
                let of_class = children(&cgroup.path)?.into_iter();
                pods.extend(of_class.filter_map(|cgroup| Some((pod_of(&cgroup.path)?, cgroup))));
            }
        }
    }
    Ok(pods)
}

/// Returns the IDs of the cgroups of all pods, and of those below them, with the pod.
pub(super) fn with_descendants(hierarchy: &Path) -> io::Result<HashMap<u64, PodUid>> {
    let mut all = HashMap::new();
    let mut pending = pods(hierarchy)?;
    while let Some((pod, cgroup)) = pending.pop() {
        pending.extend(children(&cgroup.path)?.into_iter().map(|child| (pod.clone(), child)));
        all.insert(cgroup.id, pod);
    }
    Ok(all)
}

/// Returns the cgroups in a cgroup, or none if it was deleted.
fn children(path: &Path) -> io::Result<Vec<Cgroup>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if is_deleted(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut cgroups = Vec::new();
    for entry in entries {
        let cgroup = entry.and_then(|entry| {
            let is_cgroup = entry.file_type()?.is_dir();
            // The inode of the entry is that of the directory.
            Ok(is_cgroup.then(|| Cgroup { id: std::os::unix::fs::DirEntryExt::ino(&entry), path: entry.path() }))
        });
        match cgroup {
            Err(error) if is_deleted(&error) => {}
            cgroup => cgroups.extend(cgroup?),
        }
    }
    Ok(cgroups)
}

fn is_class(path: &Path) -> bool {
    let name = name(path);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    CLASSES.contains(&name.rsplit('-').next().unwrap_or_default())
}

/// Returns the UID in the name of a pod's cgroup: `podUID` with the cgroupfs driver, and `SLICE-podUID.slice` with the systemd driver,
/// which replaces `-` by `_`. Source: `pkg/kubelet/cm/cgroup_manager_linux.go` of kubernetes/kubernetes.
fn pod_of(path: &Path) -> Option<PodUid> {
    let uid = match name(path).strip_suffix(".slice") {
        Some(slice) => slice.rsplit('-').next()?.strip_prefix("pod")?.replace('_', "-"),
        None => name(path).strip_prefix("pod")?.to_owned(),
    };
    PodUid::try_from(uid).ok()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Returns true if a cgroup does not exist, or was removed while it was open.
fn is_deleted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001";

    fn id(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    /// Returns the pod of a cgroup.
    fn pod(root: &Path, path: &Path) -> Option<PodUid> {
        with_descendants(root).unwrap().remove(&id(path))
    }

    /// Creates directories below a root and returns their paths.
    fn create<const N: usize>(root: &Path, paths: [String; N]) -> [PathBuf; N] {
        paths.map(|path| {
            let path = root.join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        })
    }

    #[test]
    fn pod_is_found_with_both_drivers_and_in_each_class() {
        let directory = tempfile::tempdir().unwrap();
        let slice = UID.replace('-', "_");
        let paths = create(
            directory.path(),
            [
                format!("kubepods/pod{UID}"),
                format!("kubepods/burstable/pod{UID}/container/nested"),
                format!("kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-1.scope"),
                format!(
                    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{slice}.slice"
                ),
            ],
        );
        for path in paths {
            let found = pod(directory.path(), &path);
            assert_eq!(found.unwrap().as_str(), UID, "{}", path.display());
        }
    }

    #[test]
    fn static_pod_has_the_uid_of_its_manifest() {
        let uid = "3c1f0e7b5d3f4bd0b8a1a1a0c0ffee00";
        let directory = tempfile::tempdir().unwrap();
        let [path] = create(
            directory.path(),
            [format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")],
        );
        assert_eq!(pod(directory.path(), &path).unwrap().as_str(), uid);
    }

    #[test]
    fn cgroup_that_a_container_created_belongs_to_its_pod() {
        let directory = tempfile::tempdir().unwrap();
        let other = UID.replace('1', "2");
        let [path] = create(directory.path(), [format!("kubepods/pod{UID}/container/kubepods/pod{other}")]);
        assert_eq!(pod(directory.path(), &path).unwrap().as_str(), UID);
    }

    #[test]
    fn cgroup_outside_pods_has_no_pod() {
        let directory = tempfile::tempdir().unwrap();
        let paths = create(
            directory.path(),
            [
                "kubepods".to_owned(),
                "kubepods/burstable".to_owned(),
                "kubepods/other".to_owned(),
                format!("system.slice/pod{UID}"),
            ],
        );
        for path in paths {
            assert_eq!(pod(directory.path(), &path), None, "{}", path.display());
        }
    }
}
