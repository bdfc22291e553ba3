//! Finds network devices in pods that lead past the guards: their packets do not pass the network stack of the node. By such a
//! device, a pod can reach the node's metadata service.
//!
//! Reads only the network namespace of the pod's sandbox. A device that a pod moves into a namespace of its own is not found.

mod kind;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;

use podmeta_metadata::node_guard::MAX_NAMED_PODS;

pub use kind::Device;

use crate::netns::{Netns, NetnsId};

/// A pod and the network namespace of its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNamespace {
    /// Namespace and name of the pod.
    pub pod_name: String,
    /// Path of the namespace.
    pub path: PathBuf,
}

/// The devices that do not count, because a guard sees their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardedDevices {
    /// None: the uplink guard is off.
    None,
    /// Devices on an interface of the node, such as macvlan. The uplink guard is on, and its program runs at that interface.
    Stacked,
}

/// Returns the devices that lead past the guards, by namespace and name of the pod. A pod in the node's own namespace has none. A
/// pod that ends meanwhile is skipped. Blocks.
#[must_use]
pub fn find(host: NetnsId, pods: &[PodNamespace], guarded: GuardedDevices) -> BTreeMap<String, Vec<Device>> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let devices = Netns::open(&pod.path)
            .and_then(|netns| if netns.id()? == host { Ok(Vec::new()) } else { read::devices(&netns) });
        match devices {
            Ok(mut devices) => {
                devices.retain(|device| guarded == GuardedDevices::None || !matches!(device, Device::Stacked(_)));
                if !devices.is_empty() {
                    found.insert(pod.pod_name.clone(), devices);
                }
            }
            Err(error) => {
                tracing::debug!(pod = pod.pod_name, %error, "cannot read the network devices of a pod; skipping it")
            }
        }
    }
    found
}

/// Returns the finding about these devices, or `None` if there are none. The names of pods come last: the operator cuts long texts.
pub(crate) fn finding(found: &BTreeMap<String, Vec<Device>>) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let named = found.iter().take(MAX_NAMED_PODS).map(|(pod, devices)| {
        let mut kinds = devices.iter().map(Device::to_string).collect::<Vec<_>>();
        kinds.sort_unstable();
        kinds.dedup();
        format!("{pod}: {}", kinds.join(" and "))
    });
    let mut pods = named.collect::<Vec<_>>().join(", ");
    if let Some(others) = found.len().checked_sub(MAX_NAMED_PODS).filter(|others| *others > 0) {
        pods.push_str(&format!(" and {others} more"));
    }
    Some(format!(
        "pods have network devices that lead past the guards, and can reach the node's metadata service: remove the devices, or turn \
         off that service; pods: {} ({pods})",
        found.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_names_the_first_pods_with_their_kinds_of_devices() {
        assert_eq!(finding(&BTreeMap::new()), None);
        let stacked = |kind: &str| Device::Stacked(kind.to_owned());
        let devices = vec![Device::Physical, stacked("macvlan"), Device::Physical];
        let mut found = BTreeMap::from([("shop/b".to_owned(), devices)]);
        let text = finding(&found).unwrap();
        assert!(text.ends_with("pods: 1 (shop/b: macvlan and physical)"), "{text}");
        found.extend(["a", "c", "d", "e", "f", "g"].map(|name| (format!("shop/{name}"), vec![stacked("ipvlan")])));
        let text = finding(&found).unwrap();
        let expected = "pods: 7 (shop/a: ipvlan, shop/b: macvlan and physical, shop/c: ipvlan, shop/d: ipvlan, shop/e: ipvlan and 2 more)";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn pod_whose_namespace_does_not_exist_is_skipped() {
        let host = Netns::current().unwrap().id().unwrap();
        let pod = PodNamespace { pod_name: "shop/a".to_owned(), path: "/run/netns/podmeta-none".into() };
        assert_eq!(find(host, &[pod], GuardedDevices::None), BTreeMap::new());
    }
}
