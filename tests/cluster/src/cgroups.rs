//! A machine's own cgroup in every hierarchy that the host has, version 1 and 2 alike: the root of its cgroup namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::layout::{ClusterName, Machine};
use crate::processes::until;

/// The cgroup of a machine's own services, a leaf: version 2 wants processes in leaves alone.
const SYSTEM: &str = "system";

/// Where a hierarchy is mounted, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub kind: String,
    /// Its controllers, as `mount` takes them.
    pub options: String,
}

/// The hierarchies of the host.
///
/// # Errors
/// If there are none.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let found = parse(&mounts);
    ensure!(!found.is_empty(), "no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup");
    Ok(found)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let generic = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "nsdelegate", "memory_recursiveprot", "xattr"];
    let fields = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let named = options.split(',').filter(|option| !generic.contains(option) && kind == "cgroup");
        let named: Vec<_> = named.map(|option| option.replace("name=", "none,name=")).collect();
        let hierarchy = Hierarchy { path: path.into(), kind: kind.to_owned(), options: named.join(",") };
        hierarchy.kind.starts_with("cgroup").then_some(hierarchy)
    };
    mounts.lines().filter_map(fields).collect()
}

/// Makes a machine's cgroups.
///
/// # Errors
/// If one cannot be made.
pub fn make(cluster: &ClusterName, machine: Machine) -> Result<()> {
    let all = hierarchies()?;
    let pure = all.len() == 1;
    for hierarchy in all {
        let own = folder(&hierarchy, cluster).join(machine.to_string());
        let leaf = own.join(SYSTEM);
        fs::create_dir_all(&leaf).with_context(|| format!("cannot make the cgroup {}", leaf.display()))?;
        for made in [folder(&hierarchy, cluster), own, leaf] {
            inherit_cpus(&made)?;
        }
        if pure {
            enable_controllers(&folder(&hierarchy, cluster))?;
        }
    }
    Ok(())
}

/// A cpuset (version 1) takes no process before it has processors and memory of its own.
fn inherit_cpus(cgroup: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, parent) = (cgroup.join(file), cgroup.join("..").join(file));
        if own.exists() && parent.exists() && fs::read_to_string(&own)?.trim().is_empty() {
            let inherited = fs::read_to_string(&parent)?;
            if !inherited.trim().is_empty() {
                fs::write(&own, inherited).with_context(|| format!("cannot write {}", own.display()))?;
            }
        }
    }
    Ok(())
}

/// Version 2 alone: what the machines' cgroups may be held to.
fn enable_controllers(cgroup: &Path) -> Result<()> {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers"))?;
    let all: Vec<_> = controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
    fs::write(cgroup.join("cgroup.subtree_control"), all.join(" ")).context("cannot enable the cgroup controllers")
}

/// Puts this process into the root of a machine's cgroups, which its cgroup namespace is then made of.
///
/// # Errors
/// If it cannot be moved.
pub fn join_root(cluster: &ClusterName, machine: Machine) -> Result<()> {
    for hierarchy in hierarchies()? {
        let procs = folder(&hierarchy, cluster).join(machine.to_string()).join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))?;
    }
    Ok(())
}

/// Puts this process among the machine's services, in a hierarchy as the machine sees it.
///
/// # Errors
/// If it cannot be moved.
pub fn join_services(hierarchy: &Path) -> Result<()> {
    let procs = hierarchy.join(SYSTEM).join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))
}

/// The files that take a process into the cgroups of a machine's own services.
///
/// # Errors
/// If there are no hierarchies.
pub fn service_files(cluster: &ClusterName, machine: Machine) -> Result<Vec<PathBuf>> {
    let of =
        |hierarchy: &Hierarchy| folder(hierarchy, cluster).join(machine.to_string()).join(SYSTEM).join("cgroup.procs");
    Ok(hierarchies()?.iter().map(of).collect())
}

/// Removes every cgroup of a cluster, once its processes are gone: those of many pods take a while.
///
/// # Errors
/// If a process is still in one after a minute.
pub fn remove(cluster: &ClusterName) -> Result<()> {
    hierarchies()?.iter().try_for_each(|hierarchy| remove_when_empty(&folder(hierarchy, cluster)))
}

/// Removes the cgroups of a machine that is no more.
///
/// # Errors
/// If a process is still in one after a minute.
pub fn remove_machine(cluster: &ClusterName, machine: Machine) -> Result<()> {
    let own = |hierarchy: &Hierarchy| folder(hierarchy, cluster).join(machine.to_string());
    hierarchies()?.iter().try_for_each(|hierarchy| remove_when_empty(&own(hierarchy)))
}

fn remove_when_empty(folder: &Path) -> Result<()> {
    let gone = until(Duration::from_secs(60), || remove_tree(folder).is_ok());
    ensure!(gone, "the cgroup {} cannot be removed: a process is in it", folder.display());
    Ok(())
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

fn folder(hierarchy: &Hierarchy, cluster: &ClusterName) -> PathBuf {
    hierarchy.path.join(format!("podmeta-{cluster}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_with_what_is_needed_to_mount_them_again() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0\n";
        let found: Vec<_> = parse(mounts).into_iter().map(|found| (found.kind, found.options)).collect();
        let expected = [("cgroup", "cpu,cpuacct"), ("cgroup", "none,name=systemd"), ("cgroup2", "")];
        assert_eq!(found, expected.map(|(kind, options)| (kind.to_owned(), options.to_owned())));
    }
}
