//! The first process of a machine: gives it files of its own above the host's, and takes in orphans until it is killed.
//! When it dies, the kernel ends every process of the machine and lets its mounts, links and rules go.

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

use crate::cgroups::{self, Hierarchy};
use crate::layout::{ClusterName, Machine};
use crate::machine;

/// Where a machine finds its own folder of the cluster's state.
pub const OWN: &str = "/run/machine";
/// What a machine has written above the host's files.
const WRITTEN: &str = "/run/written";
/// The kernel's settings that a kubelet changes, and what it wants them to be.
pub const KERNEL_SETTINGS: [(&str, u32); 6] = [
    ("kernel/keys/root_maxbytes", 25_000_000),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
];
/// Is there when the machine can be used.
pub const READY: &str = "/run/ready";

/// Makes a machine's namespaces and starts its init in them; returns when that is running.
///
/// # Errors
/// If the namespaces cannot be made.
pub fn unshare_machine(cluster: &ClusterName, machine: Machine) -> Result<()> {
    cgroups::join_root(cluster, machine)?;
    let all = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    unshare(all).context("cannot make namespaces: this needs root")?;
    // The namespace of processes is for children: the init is the first.
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut init = Command::new(program);
    init.args(["init", "--name", &cluster.to_string(), &machine.to_string()]).process_group(0).stdin(Stdio::null());
    init.spawn().context("cannot start the machine's init")?;
    Ok(())
}

/// Is the init of a machine: never returns if all goes well.
///
/// # Errors
/// If a mount fails.
pub fn run(cluster: &ClusterName, machine: Machine) -> Result<()> {
    ensure!(std::process::id() == 1, "init is the first process of a machine; `cluster up` starts it");
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    child_ended.thread_block().context("cannot block SIGCHLD")?;
    files(cluster, machine).context("cannot give the machine its files")?;
    nix::unistd::sethostname(format!("{cluster}-{machine}")).context("cannot set the host name")?;
    fs::write(READY, "")?;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        match child_ended.wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(why).context("cannot wait for children"),
        }
    }
}

/// The host's files, with writes to `/etc`, `/opt` and `/var` kept apart, and with a `/run`, `/proc` and `/sys` of its own.
/// What a machine writes is in memory, so that it is quick and goes with the machine.
fn files(cluster: &ClusterName, machine: Machine) -> Result<()> {
    let hierarchies = cgroups::hierarchies()?;
    let state = machine::state(cluster, machine);
    fs::create_dir_all(&state)?;
    propagate("/", MsFlags::MS_PRIVATE)?;
    attach("tmpfs", "/run", "tmpfs", "mode=755")?;
    fs::create_dir_all(OWN)?;
    bind(&state, OWN)?; // before /var, where it is, is covered
    for covered in ["etc", "opt", "var"] {
        let (upper, work) = (format!("{WRITTEN}/{covered}/upper"), format!("{WRITTEN}/{covered}/work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir=/{covered},upperdir={upper},workdir={work}");
        attach("overlay", &format!("/{covered}"), "overlay", &options)?;
    }
    // containerd makes overlays, which cannot lie on an overlay.
    for real in ["containerd", "kubelet"] {
        let (source, target) = (format!("{WRITTEN}/{real}"), format!("/var/lib/{real}"));
        fs::create_dir_all(&source)?;
        fs::create_dir_all(&target)?;
        bind(Path::new(&source), &target)?;
    }
    attach("proc", "/proc", "proc", "")?;
    kernel_settings()?;
    attach("sysfs", "/sys", "sysfs", "")?;
    attach("bpf", "/sys/fs/bpf", "bpf", "")?;
    control_groups(&hierarchies)?;
    // As on a node: what a pod mounts with Bidirectional propagation is seen by the others.
    propagate("/", MsFlags::MS_SHARED)
}

/// A kubelet sets these for the whole kernel where they differ from what it wants. It finds them as it wants them, and the
/// kernel's own stay as they are.
fn kernel_settings() -> Result<()> {
    for (setting, value) in KERNEL_SETTINGS {
        let file = format!("{WRITTEN}/{}", setting.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        let target = format!("/proc/sys/{setting}");
        if Path::new(&target).exists() {
            bind(Path::new(&file), &target)?;
        }
    }
    Ok(())
}

fn control_groups(hierarchies: &[Hierarchy]) -> Result<()> {
    if hierarchies.len() > 1 {
        attach("tmpfs", "/sys/fs/cgroup", "tmpfs", "mode=755")?;
    }
    for Hierarchy { path, kind, options } in hierarchies {
        let path = path.to_str().context("a cgroup is mounted at a path that is not UTF-8")?;
        if hierarchies.len() > 1 {
            fs::create_dir_all(path)?;
        }
        attach(kind, path, kind, options)?;
        cgroups::join_services(Path::new(path))?;
    }
    Ok(())
}

fn attach(source: &str, target: &str, kind: &str, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} at {target} with {options:?}"))
}

fn bind(source: &Path, target: &str) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {target}", source.display()))
}

fn propagate(target: &str, how: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_REC | how, None::<&str>)
        .with_context(|| format!("cannot set the propagation of {target}"))
}
