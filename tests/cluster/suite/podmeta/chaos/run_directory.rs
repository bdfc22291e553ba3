//! A full `/run`: podmeta, the kubelet and the container runtime cannot create files. The limit is that of inodes, because a
//! kubelet without free bytes deletes pods and images.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::faults::FaultyNode;
use crate::kit::TestNode;

/// Maximum time until containerd has started and loaded its containers.
const CONTAINERD_START_TIMEOUT: Duration = Duration::from_secs(10);

/// Reduces the limit of inodes to those in use, and uses those that are left.
const FILL_SCRIPT: &str = r#"
for attempt in 1 2 3 4 5; do
  used=$(df --output=iused /run | tail -n 1)
  mount -o "remount,nr_inodes=$((used + 1))" /run && break
done
number=0
while touch "/run/full-$number" 2>/dev/null; do
  number=$((number + 1))
  [ "$number" -lt 1000 ] || { echo "/run is not full"; exit 1; }
done"#;

/// Returns the limit of inodes in `/run` of a node.
pub(super) async fn inodes(node: &TestNode) -> Result<String> {
    Ok(node.sh("stat --file-system --format=%c /run").await?.trim().to_owned())
}

impl FaultyNode<'_> {
    /// Fills `/run`. Fails while containerd is stopped or starts: it needs `/run` to load its containers. It forgets those that it
    /// cannot load, and the kubelet then ends their pods.
    pub(super) async fn fill_run(&self) -> Result<()> {
        let is_loaded = |released: Instant| released.elapsed() > CONTAINERD_START_TIMEOUT;
        ensure!(!self.stopped.borrow().contains(&"containerd"), "containerd is stopped");
        ensure!(self.containerd_released.get().is_none_or(is_loaded), "containerd starts");
        self.is_run_full.set(true);
        self.node.sh(FILL_SCRIPT).await.map(drop)
    }

    /// Restores the limit.
    pub(super) async fn empty_run(&self) -> Result<()> {
        let script = format!("mount -o remount,nr_inodes={} /run\nrm -f /run/full-*", self.run_inodes);
        self.node.sh(&script).await?;
        self.is_run_full.set(false);
        Ok(())
    }
}
