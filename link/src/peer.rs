//! The pod of a process, from its cgroup. Pure.

use podmeta_metadata::names::PodUid;

/// Length of a pod UID of the API server: a UUID.
const UUID_LENGTH: usize = 36;

/// Returns the UID of the pod that a process belongs to, or `None` for a process of no pod. `cgroups` is the content of
/// `/proc/PID/cgroup`.
///
/// The outermost group of a pod counts, because a container may be able to create groups in its own one. Names are
/// `podUID` with the cgroupfs driver and `SLICE-podUID.slice` with the systemd driver, which replaces `-` by `_`.
/// Source: `pkg/kubelet/cm/cgroup_manager_linux.go` of kubernetes/kubernetes.
pub(crate) fn pod_of_cgroups(cgroups: &str) -> Option<PodUid> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut pods = paths.filter_map(|path| path.split('/').find_map(pod_of_group));
    let pod = pods.next()?;
    pods.all(|other| other == pod).then_some(pod)
}

/// Returns the UID in the name of a pod's group.
fn pod_of_group(name: &str) -> Option<PodUid> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (before, uid) = name.rsplit_once("pod")?;
    if !(before.is_empty() || before.ends_with('-')) || uid.len() != UUID_LENGTH {
        return None;
    }
    let uid = uid.replace('_', "-");
    let is_uuid = uid.chars().enumerate().all(|(position, c)| match position {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    });
    if is_uuid { PodUid::try_from(uid).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001";

    fn pod(cgroups: &str) -> Option<String> {
        pod_of_cgroups(cgroups).map(|pod| pod.to_string())
    }

    #[test]
    fn uid_is_found_with_both_cgroup_drivers_and_versions() {
        let systemd = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b1d6f0a_52c4_4a30_8f2e_5d9a3c7e0001.slice/cri-containerd-1.scope";
        let relative = "0::/../../pod0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001/1";
        let version_1 = "12:cpu,cpuacct:/kubepods/besteffort/pod0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e0001/1\n0::/\n";
        for cgroups in [systemd, relative, version_1] {
            assert_eq!(pod(cgroups).as_deref(), Some(UID), "{cgroups}");
        }
    }

    #[test]
    fn group_that_a_container_created_does_not_count() {
        let nested = format!("0::/kubepods/pod{UID}/1/pod{}", UID.replace('0', "1"));
        assert_eq!(pod(&nested).as_deref(), Some(UID));
    }

    #[test]
    fn process_without_pod_or_with_two_pods_has_none() {
        let two = format!("1:cpu:/kubepods/pod{UID}\n0::/kubepods/pod{}", UID.replace('0', "1"));
        for cgroups in ["", "0::/system.slice/kubelet.service", "0::/kubepods/pod", "0::/tripod0b1d6f0a", &two] {
            assert_eq!(pod(cgroups), None, "{cgroups}");
        }
    }
}
