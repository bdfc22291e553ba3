//! Messages of the CRI, with the fields in use. Source: runtime/v1/api.proto of kubernetes/cri-api.

use std::collections::HashMap;
use std::path::PathBuf;

use prost::Message;
use serde::Deserialize;

/// State of a running sandbox.
pub(super) const SANDBOX_READY: i32 = 0;

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
    /// Details by name. `info` is JSON; see [`SandboxInfo`].
    #[prost(map = "string, string", tag = "2")]
    pub(super) info: HashMap<String, String>,
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
