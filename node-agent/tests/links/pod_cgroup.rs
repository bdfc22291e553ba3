//! The cgroup of a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kit::block_until;

/// A cgroup with the name of a pod's. It is removed on drop, after its processes have ended.
pub(super) struct PodCgroup {
    pub(super) uid: String,
    pub(super) path: PathBuf,
}

impl PodCgroup {
    pub(super) fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{n:012x}", std::process::id());
        let path = root().join(format!("pod{uid}"));
        fs::create_dir(&path).unwrap();
        Self { uid, path }
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        // The kernel removes an ended process from its cgroup some time later.
        block_until("the cgroup is removed", || fs::remove_dir(&self.path).is_ok());
    }
}

/// Returns the directory where cgroups of version 2 are mounted.
fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields[2] == "cgroup2").expect("cgroup v2 is not mounted");
    Path::new(mount[1]).to_owned()
}
