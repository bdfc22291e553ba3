//! The details of a sandbox, from the verbose status of the container runtime. Pure.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use podmeta_metadata::names::PodUid;

use super::messages::{
    IdMapping, Linux, NAMESPACE_OF_NODE, NAMESPACE_OF_POD, PodSandboxStatusResponse, SandboxInfo, UidMapping,
};
use crate::user_ids::{UserIdRange, UserIds};

/// Network of a pod, as the kubelet requested it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// The host's network: `hostNetwork: true`.
    Node,
    /// A network namespace of its own.
    Pod,
}

/// The details of a sandbox that do not change while it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxDetails {
    /// UID of the pod, or `None` if the runtime reports none.
    pub pod: Option<PodUid>,
    /// Namespace and name of the pod.
    pub pod_name: String,
    /// Network of the pod.
    pub network: NetworkMode,
    /// Path of the network namespace, below `/run`, or `None` if the sandbox uses the host's.
    pub network_namespace: Option<PathBuf>,
    /// User IDs of the pod.
    pub users: UserIds,
}

impl SandboxDetails {
    /// Returns true if the runtime reports all that the lookup of a socket's owner needs.
    pub(crate) fn is_complete(&self) -> bool {
        self.pod.is_some() && self.network_namespace.is_some() && self.users != UserIds::Unknown
    }

    /// Parses the verbose status of a sandbox.
    pub(super) fn parse(response: PodSandboxStatusResponse) -> Result<Self> {
        let info = response.info.get("info").context("the container runtime does not report details of sandboxes")?;
        let info: SandboxInfo = serde_json::from_str(info).context("cannot parse the details of a sandbox")?;
        let linux = info.runtime_spec.linux;
        let status = response.status.unwrap_or_default();
        let options = status.linux.and_then(|linux| linux.namespaces?.options);
        let is_of_node = options.as_ref().is_some_and(|options| options.network == NAMESPACE_OF_NODE);
        let options = options.and_then(|options| options.user_namespace);
        let has_own = options.as_ref().is_some_and(|options| options.mode == NAMESPACE_OF_POD);
        let users = user_ids(has_own, &options.map(|options| options.uids).unwrap_or_default(), &linux);
        let network = linux.namespaces.into_iter().find(|namespace| namespace.kind == "network");
        let path = network.and_then(|namespace| namespace.path).filter(|path| path != Path::new(""));
        let pod = status.metadata.unwrap_or_default();
        Ok(Self {
            pod_name: format!("{}/{}", pod.namespace, pod.name),
            pod: PodUid::try_from(pod.uid).ok(),
            network: if is_of_node { NetworkMode::Node } else { NetworkMode::Pod },
            network_namespace: path.map(below_run),
            users,
        })
    }
}

/// Returns the user IDs of a pod. `has_own` is true if the status reports a user namespace of the pod, and `uids` are the
/// ranges in the status. A runtime that reports none there can have them in the OCI specification.
fn user_ids(has_own: bool, uids: &[IdMapping], linux: &Linux) -> UserIds {
    if !has_own && !linux.namespaces.iter().any(|namespace| namespace.kind == "user") {
        return UserIds::OfNode;
    }
    let of_status =
        |range: &IdMapping| UserIdRange { node: range.host_id, pod: range.container_id, length: range.length };
    let of_specification =
        |range: &UidMapping| UserIdRange { node: range.host_id, pod: range.container_id, length: range.size };
    let mut ranges = uids.iter().map(of_status).collect::<Vec<_>>();
    if ranges.is_empty() {
        ranges.extend(linux.uid_mappings.iter().map(of_specification));
    }
    if ranges.is_empty() { UserIds::Unknown } else { UserIds::Mapped(ranges) }
}

/// Returns a path below `/var/run` as the path below `/run`. On nodes `/var/run` is a link to `/run`. In an image it can be
/// missing, and the chart mounts `/run/netns`.
fn below_run(path: PathBuf) -> PathBuf {
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::messages::{
        LinuxPodSandboxStatus, NamespaceOption, NamespaceStatus, PodSandboxMetadata, PodSandboxStatus, UserNamespace,
    };
    use super::*;

    const UIDS: IdMapping = IdMapping { host_id: 100_000, container_id: 0, length: 65_536 };

    /// Returns the details of a pod `shop/web` with these options of the user namespace and these OCI namespaces.
    fn details(options: Option<UserNamespace>, oci: &str) -> SandboxDetails {
        details_in(NAMESPACE_OF_POD, options, oci)
    }

    /// As [`details`], with this mode of the network namespace.
    fn details_in(network: i32, options: Option<UserNamespace>, oci: &str) -> SandboxDetails {
        let namespaces = NamespaceStatus { options: Some(NamespaceOption { network, user_namespace: options }) };
        let pod = PodSandboxMetadata { name: "web".into(), uid: "uid-1".into(), namespace: "shop".into() };
        let status = PodSandboxStatus {
            metadata: Some(pod),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        };
        let info = format!(r#"{{"pid":7,"runtimeSpec":{{"linux":{{{oci}}}}}}}"#);
        let info = HashMap::from([("info".to_owned(), info)]);
        SandboxDetails::parse(PodSandboxStatusResponse { status: Some(status), info }).unwrap()
    }

    #[test]
    fn pod_on_the_host_network_has_no_network_namespace() {
        let of_pod = details(None, r#""namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]"#);
        assert_eq!(of_pod.network_namespace, Some("/run/netns/cni-1".into()));
        assert_eq!((of_pod.pod_name.as_str(), of_pod.pod.unwrap().as_str()), ("shop/web", "uid-1"));
        for oci in [r#""namespaces":[{"type":"pid"}]"#, r#""namespaces":[{"type":"network"}]"#] {
            assert_eq!(details(None, oci).network_namespace, None, "{oci}");
        }
    }

    #[test]
    fn network_of_the_host_is_that_of_the_status() {
        let oci = r#""namespaces":[{"type":"pid"}]"#;
        for (mode, network) in
            [(0, NetworkMode::Pod), (1, NetworkMode::Pod), (2, NetworkMode::Node), (3, NetworkMode::Pod)]
        {
            assert_eq!(details_in(mode, None, oci).network, network, "{mode}");
        }
    }

    #[test]
    fn user_ids_of_the_status_precede_those_of_the_specification() {
        let oci = r#""namespaces":[{"type":"user"}],"uidMappings":[{"containerID":1,"hostID":200000,"size":9}]"#;
        let uids = UserNamespace { mode: NAMESPACE_OF_POD, uids: vec![UIDS] };
        let of_status = UserIdRange { node: 100_000, pod: 0, length: 65_536 };
        assert_eq!(details(Some(uids), oci).users, UserIds::Mapped(vec![of_status]));
        let of_specification = UserIds::Mapped(vec![UserIdRange { node: 200_000, pod: 1, length: 9 }]);
        assert_eq!(details(None, oci).users, of_specification);
        let without = UserNamespace { mode: NAMESPACE_OF_POD, uids: Vec::new() };
        assert_eq!(details(Some(without), oci).users, of_specification);
    }

    #[test]
    fn user_ids_are_unknown_if_a_user_namespace_has_no_ranges() {
        let without = UserNamespace { mode: NAMESPACE_OF_POD, uids: Vec::new() };
        assert_eq!(details(Some(without), r#""namespaces":[]"#).users, UserIds::Unknown);
        assert_eq!(details(None, r#""namespaces":[{"type":"user"}]"#).users, UserIds::Unknown);
    }

    #[test]
    fn pod_of_the_node_s_user_namespace_has_its_ids() {
        let of_node = UserNamespace { mode: NAMESPACE_OF_NODE, uids: Vec::new() };
        for options in [None, Some(of_node)] {
            assert_eq!(details(options, r#""namespaces":[{"type":"pid"}]"#).users, UserIds::OfNode);
        }
    }

    #[test]
    fn namespace_below_var_run_is_opened_below_run() {
        assert_eq!(below_run("/var/run/netns/cni-1".into()), Path::new("/run/netns/cni-1"));
        for path in ["/run/netns/cni-1", "/var/runs/netns/cni-1", "/proc/7/ns/net"] {
            assert_eq!(below_run(path.into()), Path::new(path));
        }
    }
}
