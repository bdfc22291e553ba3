//! A node in namespaces of this process, which end with it, and its pods.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podmeta_link::netns::Netns;

/// Directory of pinned namespaces, with the agent namespace.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A pinned namespace with a primary interface.
pub(crate) struct BenchPod {
    pub(crate) n: u32,
    pub(crate) path: PathBuf,
}

/// Moves this process into a network namespace and a mount namespace of its own, with an empty `/run`.
///
/// # Errors
/// If the process is not root.
pub(crate) fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("cannot create namespaces: run as root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(std::fs::create_dir(NETNS_DIR)?)
}

/// Creates pod `n`.
pub(crate) fn pod(n: u32) -> Result<BenchPod> {
    let path = Path::new(NETNS_DIR).join(format!("pod{n}"));
    let netns = Netns::create()?;
    netns.pin(&File::create(&path)?)?;
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name peer0",
        "addr add 10.244.1.7/24 dev eth0",
        "link set eth0 up",
    ] {
        let status = netns.run(|| Command::new("ip").args(line.split(' ')).status())?;
        ensure!(status.success(), "ip {line}: {status}");
    }
    Ok(BenchPod { n, path })
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
