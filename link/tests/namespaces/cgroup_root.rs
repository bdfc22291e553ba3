//! The root of cgroup v2 for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use podmeta_metadata::names::PodUid;

use crate::kit::block_until;

/// A cgroup that stands for the root of cgroup v2, removed on drop with all below it.
pub(crate) struct CgroupRoot(pub(crate) PathBuf);

impl CgroupRoot {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields[2] == "cgroup2").unwrap();
        let name = format!("podmeta-uplink-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(mount[1]).join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Creates a root with the cgroup of all pods.
    pub(crate) fn with_pods() -> Self {
        let root = Self::new();
        std::fs::create_dir(root.0.join("kubepods")).unwrap();
        root
    }

    /// Creates the cgroup of a pod.
    pub(crate) fn pod(&self, pod: &PodUid) -> PathBuf {
        let path = self.0.join(format!("kubepods/besteffort/pod{pod}"));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
            for entry in entries.filter(|entry| entry.file_type().unwrap().is_dir()) {
                remove(&entry.path());
            }
            // The kernel removes an ended process from its cgroup some time later.
            block_until("the cgroup is removed", || std::fs::remove_dir(path).is_ok());
        }
        remove(&self.0);
    }
}
