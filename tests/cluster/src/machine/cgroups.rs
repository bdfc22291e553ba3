//! The cgroups of machines, in every hierarchy of the host (cgroup v1 and v2). A machine's cgroup is the root of its cgroup
//! namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::processes::poll_until;
use crate::layout::{ClusterName, MachineName};

/// Name of the leaf cgroup of a machine's services. cgroup v2 allows processes in leaves only.
const SERVICES_CGROUP: &str = "system";

/// Timeout until the processes of a cgroup have ended. Those of many pods take long.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupHierarchy {
    /// The mount point.
    pub path: PathBuf,
    /// The file system type: `cgroup` or `cgroup2`.
    pub kind: String,
    /// The mount options that select the controllers.
    pub options: String,
}

/// Returns the hierarchies of the host.
///
/// # Errors
/// If no hierarchy is mounted.
pub fn hierarchies() -> Result<Vec<CgroupHierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let found = parse_mounts(&mounts);
    ensure!(!found.is_empty(), "no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup");
    Ok(found)
}

fn parse_mounts(mounts: &str) -> Vec<CgroupHierarchy> {
    let ignored = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "nsdelegate", "memory_recursiveprot", "xattr"];
    let fields = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = options.split(',').filter(|option| !ignored.contains(option) && kind == "cgroup");
        let controllers: Vec<_> = controllers.map(|option| option.replace("name=", "none,name=")).collect();
        let hierarchy = CgroupHierarchy { path: path.into(), kind: kind.to_owned(), options: controllers.join(",") };
        hierarchy.kind.starts_with("cgroup").then_some(hierarchy)
    };
    mounts.lines().filter_map(fields).collect()
}

/// Creates a machine's cgroups.
///
/// # Errors
/// If a cgroup cannot be created.
pub fn create(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    let all = hierarchies()?;
    let only_v2 = all.len() == 1;
    for hierarchy in all {
        let own = cluster_cgroup(&hierarchy, cluster).join(machine.to_string());
        let leaf = own.join(SERVICES_CGROUP);
        fs::create_dir_all(&leaf).with_context(|| format!("cannot create cgroup {}", leaf.display()))?;
        for cgroup in [cluster_cgroup(&hierarchy, cluster), own, leaf] {
            inherit_cpuset(&cgroup)?;
        }
        if only_v2 {
            enable_controllers(&cluster_cgroup(&hierarchy, cluster))?;
        }
    }
    Ok(())
}

/// Copies CPUs and memory nodes from the parent. A cgroup v1 cpuset without them rejects processes.
fn inherit_cpuset(cgroup: &Path) -> Result<()> {
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

/// Enables all controllers for child cgroups (cgroup v2).
fn enable_controllers(cgroup: &Path) -> Result<()> {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers"))?;
    let all: Vec<_> = controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
    fs::write(cgroup.join("cgroup.subtree_control"), all.join(" ")).context("cannot enable the cgroup controllers")
}

/// Moves this process into the root of a machine's cgroups, before it creates the machine's cgroup namespace.
///
/// # Errors
/// If the process cannot be moved.
pub fn join_root(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    for hierarchy in hierarchies()? {
        let procs = cluster_cgroup(&hierarchy, cluster).join(machine.to_string()).join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))?;
    }
    Ok(())
}

/// Moves this process into the cgroup of the machine's services. `hierarchy` is the mount point inside the machine.
///
/// # Errors
/// If the process cannot be moved.
pub fn join_services(hierarchy: &Path) -> Result<()> {
    let procs = hierarchy.join(SERVICES_CGROUP).join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))
}

/// Returns the `cgroup.procs` files of a machine's services, as host paths.
///
/// # Errors
/// If no hierarchy is mounted.
pub fn service_procs_files(cluster: &ClusterName, machine: MachineName) -> Result<Vec<PathBuf>> {
    let procs_file = |hierarchy: &CgroupHierarchy| {
        cluster_cgroup(hierarchy, cluster).join(machine.to_string()).join(SERVICES_CGROUP).join("cgroup.procs")
    };
    Ok(hierarchies()?.iter().map(procs_file).collect())
}

/// Removes every cgroup of a cluster. Waits until its processes have ended.
///
/// # Errors
/// If a cgroup cannot be removed after a minute.
pub fn remove_cluster(cluster: &ClusterName) -> Result<()> {
    hierarchies()?.iter().try_for_each(|hierarchy| remove_when_empty(&cluster_cgroup(hierarchy, cluster)))
}

/// Removes the cgroups of a machine that has ended.
///
/// # Errors
/// If a cgroup cannot be removed after a minute.
pub fn remove_machine(cluster: &ClusterName, machine: MachineName) -> Result<()> {
    let own = |hierarchy: &CgroupHierarchy| cluster_cgroup(hierarchy, cluster).join(machine.to_string());
    hierarchies()?.iter().try_for_each(|hierarchy| remove_when_empty(&own(hierarchy)))
}

fn remove_when_empty(cgroup: &Path) -> Result<()> {
    let removed = poll_until(REMOVE_TIMEOUT, || remove_tree(cgroup).is_ok());
    ensure!(removed, "cannot remove cgroup {}: it contains processes", cgroup.display());
    Ok(())
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
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

fn cluster_cgroup(hierarchy: &CgroupHierarchy, cluster: &ClusterName) -> PathBuf {
    hierarchy.path.join(format!("podmeta-{cluster}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_of_hierarchies_are_parsed() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0\n";
        let found: Vec<_> = parse_mounts(mounts).into_iter().map(|found| (found.kind, found.options)).collect();
        let expected = [("cgroup", "cpu,cpuacct"), ("cgroup", "none,name=systemd"), ("cgroup2", "")];
        assert_eq!(found, expected.map(|(kind, options)| (kind.to_owned(), options.to_owned())));
    }
}
