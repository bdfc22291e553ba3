//! Messages of the CRI, with the fields in use. Source: runtime/v1/api.proto of kubernetes/cri-api.

use std::collections::HashMap;
use std::path::PathBuf;

use prost::Message;
use serde::Deserialize;

/// State of a running sandbox.
pub(super) const SANDBOX_READY: i32 = 0;

/// Mode of a namespace that belongs to the pod.
pub(super) const NAMESPACE_OF_POD: i32 = 0;

/// Mode of a namespace that belongs to the node.
pub(super) const NAMESPACE_OF_NODE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) filter: Option<PodSandboxFilter>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxFilter {
    #[prost(message, optional, tag = "2")]
    pub(super) state: Option<PodSandboxStateValue>,
    #[prost(map = "string, string", tag = "3")]
    pub(super) label_selector: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxStateValue {
    #[prost(int32, tag = "1")]
    pub(super) state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pub(super) pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    pub(super) verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<PodSandboxStatus>,
    /// Details by name. `info` is JSON; see [`SandboxInfo`].
    #[prost(map = "string, string", tag = "2")]
    pub(super) info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxStatus {
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    #[prost(message, optional, tag = "6")]
    pub(super) linux: Option<LinuxPodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinuxPodSandboxStatus {
    #[prost(message, optional, tag = "1")]
    pub(super) namespaces: Option<NamespaceStatus>,
}

/// The message `Namespace`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NamespaceStatus {
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamespaceOption {
    /// Mode of the network namespace.
    #[prost(int32, tag = "1")]
    pub(super) network: i32,
    /// The field `userns_options`.
    #[prost(message, optional, tag = "5")]
    pub(super) user_namespace: Option<UserNamespace>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UserNamespace {
    #[prost(int32, tag = "1")]
    pub(super) mode: i32,
    #[prost(message, repeated, tag = "2")]
    pub(super) uids: Vec<IdMapping>,
}

/// The message `IDMapping`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct IdMapping {
    #[prost(uint32, tag = "1")]
    pub(super) host_id: u32,
    #[prost(uint32, tag = "2")]
    pub(super) container_id: u32,
    #[prost(uint32, tag = "3")]
    pub(super) length: u32,
}

/// Details of a sandbox. containerd and CRI-O report the OCI specification of its first process.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxInfo {
    pub(super) runtime_spec: RuntimeSpec,
}

#[derive(Deserialize)]
pub(super) struct RuntimeSpec {
    pub(super) linux: Linux,
}

#[derive(Deserialize)]
pub(super) struct Linux {
    pub(super) namespaces: Vec<Namespace>,
    #[serde(rename = "uidMappings", default)]
    pub(super) uid_mappings: Vec<UidMapping>,
}

#[derive(Deserialize)]
pub(super) struct UidMapping {
    #[serde(rename = "containerID")]
    pub(super) container_id: u32,
    #[serde(rename = "hostID")]
    pub(super) host_id: u32,
    pub(super) size: u32,
}

#[derive(Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_containerd_name_the_network_namespace() {
        let text = r#"{"pid":7,"runtimeSpec":{"ociVersion":"1.2.0","linux":{"resources":{},"namespaces":[
            {"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
        let info = serde_json::from_str::<SandboxInfo>(text).unwrap();
        let network = info.runtime_spec.linux.namespaces.into_iter().find(|namespace| namespace.kind == "network");
        assert_eq!(network.unwrap().path, Some("/var/run/netns/cni-1".into()));
    }
}
