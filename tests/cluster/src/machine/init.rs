//! The init process of a machine. It mounts the machine's file systems, and reaps orphans until it is killed. Then the
//! kernel kills every process of the machine and removes its mounts, links and rules.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::cgroups::{self, CgroupHierarchy};
use super::state_dir;
use crate::layout::{ClusterName, MachineName};

/// Mount point of the machine's state directory inside the machine.
pub const STATE_MOUNT: &str = "/run/machine";
/// Directory inside the machine for the files that it writes: the upper layers of its overlays.
const UPPER_DIR: &str = "/run/written";
/// Mount point of a second procfs, without the mounts over [`KERNEL_SETTINGS`].
const COMPLETE_PROC: &str = "/run/proc";
/// Kernel settings that a kubelet sets, with the values that it expects.
pub const KERNEL_SETTINGS: [(&str, u32); 6] = [
    ("kernel/keys/root_maxbytes", 25_000_000),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
];
/// A file that exists inside the machine when it is ready.
pub(super) const READY_FILE: &str = "/run/ready";

/// Creates a machine's namespaces and starts its init process in them.
///
/// # Errors
/// If the namespaces cannot be created.
pub fn unshare_machine(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    cgroups::join_root(cluster, machine)?;
    let namespaces = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).context("cannot create namespaces: this needs root")?;
    // The first child of this process becomes PID 1 of the new PID namespace.
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut init = Command::new(program);
    init.args(["init", "--name", &cluster.to_string(), &machine.to_string()]).process_group(0).stdin(Stdio::null());
    init.spawn().context("cannot start the machine's init process")?;
    Ok(())
}

/// Runs the init process of a machine. Returns only on errors.
///
/// # Errors
/// If a mount fails.
pub fn run(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    ensure!(std::process::id() == 1, "init must be PID 1 of a machine; `cluster up` starts it");
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    child_ended.thread_block().context("cannot block SIGCHLD")?;
    mount_file_systems(cluster, machine).context("cannot mount the machine's file systems")?;
    nix::unistd::sethostname(format!("{cluster}-{machine}")).context("cannot set the host name")?;
    fs::write(READY_FILE, "")?;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        match child_ended.wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for SIGCHLD"),
        }
    }
}

/// Mounts overlays over the host's `/etc`, `/opt` and `/var`, and a separate `/run`, `/proc` and `/sys`.
///
/// Files that the machine writes are in a tmpfs. It is fast, and the kernel removes it with the machine.
fn mount_file_systems(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    let hierarchies = cgroups::hierarchies()?;
    let state = state_dir(cluster, machine);
    fs::create_dir_all(&state)?;
    set_propagation("/", MsFlags::MS_PRIVATE)?;
    mount_new("tmpfs", "/run", "tmpfs", "mode=755")?;
    fs::create_dir_all(STATE_MOUNT)?;
    bind(&state, STATE_MOUNT)?; // before the overlay hides it: the directory is below /var
    for dir in ["etc", "opt", "var"] {
        let (upper, work) = (format!("{UPPER_DIR}/{dir}/upper"), format!("{UPPER_DIR}/{dir}/work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir=/{dir},upperdir={upper},workdir={work}");
        mount_new("overlay", &format!("/{dir}"), "overlay", &options)?;
    }
    // containerd creates overlays here, and an overlay cannot be the upper layer of another.
    for dir in ["containerd", "kubelet"] {
        let (source, target) = (format!("{UPPER_DIR}/{dir}"), format!("/var/lib/{dir}"));
        fs::create_dir_all(&source)?;
        fs::create_dir_all(&target)?;
        bind(Path::new(&source), &target)?;
    }
    mount_new("proc", "/proc", "proc", "")?;
    mount_kernel_settings()?;
    // A pod with a user namespace can mount proc only if its node has a procfs without mounts over it.
    fs::create_dir_all(COMPLETE_PROC)?;
    mount_new("proc", COMPLETE_PROC, "proc", "")?;
    mount_new("sysfs", "/sys", "sysfs", "")?;
    mount_new("bpf", "/sys/fs/bpf", "bpf", "")?;
    mount_cgroups(&hierarchies)?;
    // Pods see mounts that other pods create with Bidirectional propagation, as on a real node.
    set_propagation("/", MsFlags::MS_SHARED)
}

/// Mounts files with the values that a kubelet expects over kernel settings.
///
/// Otherwise the kubelet would change the settings of the host's kernel.
fn mount_kernel_settings() -> Result<()> {
    for (setting, value) in KERNEL_SETTINGS {
        let file = format!("{UPPER_DIR}/{}", setting.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        let target = format!("/proc/sys/{setting}");
        if Path::new(&target).exists() {
            bind(Path::new(&file), &target)?;
        }
    }
    Ok(())
}

fn mount_cgroups(hierarchies: &[CgroupHierarchy]) -> Result<()> {
    if hierarchies.len() > 1 {
        mount_new("tmpfs", "/sys/fs/cgroup", "tmpfs", "mode=755")?;
    }
    for CgroupHierarchy { path, kind, options } in hierarchies {
        let path = path.to_str().context("the mount point of a cgroup hierarchy is not UTF-8")?;
        if hierarchies.len() > 1 {
            fs::create_dir_all(path)?;
        }
        mount_new(kind, path, kind, options)?;
        cgroups::join_services(Path::new(path))?;
    }
    Ok(())
}

fn mount_new(source: &str, target: &str, kind: &str, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} at {target} with {options:?}"))
}

fn bind(source: &Path, target: &str) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {target}", source.display()))
}

fn set_propagation(target: &str, propagation: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_REC | propagation, None::<&str>)
        .with_context(|| format!("cannot set the mount propagation of {target}"))
}
