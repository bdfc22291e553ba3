//! The operator's API for node agents: types and paths. It contains no client and no server.
//!
//! An agent lists the workloads of its own node, then watches the changes from the version of the list, as in the
//! Kubernetes API. If the version is too old the response is 410, and the agent lists again. [`calls`] are requests for one
//! pod, and reports. Every request carries the agent's ServiceAccount token, which determines the node.

pub mod calls;
mod version;

use std::net::IpAddr;

use podmeta_metadata::compile::Outcome;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::MAX_WORKLOAD_BYTES;
use serde::{Deserialize, Serialize};

pub use version::{Epoch, InvalidResourceVersion, ResourceVersion};

/// Path of the workloads of the agent's node: [`WorkloadList`]. With `?watch=1&resourceVersion=…` it returns a
/// [`WatchEvent`] in each line.
pub const WORKLOADS: &str = "/v1/workloads";

/// The maximum length of a line of a watch, in bytes: eight times the maximum length of a workload.
pub const MAX_LINE_BYTES: usize = 8 * MAX_WORKLOAD_BYTES;

/// The maximum number of concurrent requests on one connection.
pub const MAX_CONCURRENT_STREAMS: u32 = 32;

/// The audience of an agent's token.
pub const AUDIENCE: &str = "podmeta-operator";

/// All workloads of a node. `I` is [`WorkloadItem`], or a type that serializes like it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadList<I = WorkloadItem> {
    /// The version to watch from.
    pub resource_version: ResourceVersion,
    /// The pods of the node.
    pub items: Vec<I>,
}

/// The workload of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadItem {
    /// The workload to serve, or the reason why the pod is denied.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The pod's addresses in the API server, the primary one first. The result of the CNI plugin on the node takes
    /// precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchEvent<I = WorkloadItem> {
    /// The version to continue from.
    pub resource_version: ResourceVersion,
    /// The change.
    #[serde(flatten)]
    pub change: WatchChange<I>,
}

/// A change of one pod, or a bookmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WatchChange<I = WorkloadItem> {
    /// A pod was added.
    Added {
        /// The workload.
        object: Box<I>,
    },
    /// A pod was modified. The agent may not know the pod if it has not received all changes before.
    Modified {
        /// The workload.
        object: Box<I>,
    },
    /// A pod was deleted.
    Deleted {
        /// The pod's UID.
        uid: PodUid,
    },
    /// All changes up to this version were sent.
    Bookmark,
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::compile::{DenialReason, Denied};
    use podmeta_metadata::workload::PodRef;

    use super::*;

    #[test]
    fn watch_event_has_the_kubernetes_format() {
        let uid: PodUid = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001".try_into().unwrap();
        let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: uid.clone() };
        let outcome = Outcome::Denied(Denied { pod, reason: DenialReason::new("no MetadataProfile matches it") });
        let denied = Box::new(WorkloadItem { outcome, addresses: vec!["10.0.0.7".parse().unwrap()] });
        let resource_version: ResourceVersion = "e1:7".parse().unwrap();
        for (change, expected) in [
            (
                WatchChange::<WorkloadItem>::Added { object: denied },
                r#"{"resourceVersion":"e1:7","type":"ADDED","object":{"outcome":"denied","pod":{"namespace":"shop","name":"web","uid":"0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001"},"reason":"no MetadataProfile matches it","addresses":["10.0.0.7"]}}"#,
            ),
            (
                WatchChange::Deleted { uid },
                r#"{"resourceVersion":"e1:7","type":"DELETED","uid":"0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001"}"#,
            ),
            (WatchChange::Bookmark, r#"{"resourceVersion":"e1:7","type":"BOOKMARK"}"#),
        ] {
            let event = WatchEvent { resource_version: resource_version.clone(), change };
            assert_eq!(serde_json::to_string(&event).unwrap(), expected);
            assert_eq!(serde_json::from_str::<WatchEvent>(expected).unwrap(), event);
        }
    }
}
