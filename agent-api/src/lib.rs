//! The operator's API as the node agents see it: types and paths, no client and no server.
//!
//! An agent lists the workloads of its own node, then watches from where the list ended, in the idiom of a Kubernetes
//! watch. A gap is answered with 410, and the agent lists again. [`calls`] are about one pod of its node each, but for
//! its reports. Every request carries the agent's own ServiceAccount token; which node is its own is in that.

pub mod calls;
mod version;

use std::net::IpAddr;

use podmeta_metadata::compile::Outcome;
use podmeta_metadata::names::PodUid;
use serde::{Deserialize, Serialize};

pub use version::{Epoch, Malformed, ResourceVersion};

/// Where the workloads of the agent's own node are listed; with `?watch=1&resourceVersion=…` they are watched.
pub const WORKLOADS: &str = "/v1/workloads";

/// How many requests a connection may have at a time. An agent has no more on its way before it is told so, either.
pub const STREAMS: u32 = 32;

/// The audience that an agent's token must be made for.
pub const AUDIENCE: &str = "podmeta-operator";

/// Everything that a node's agent serves, as of one version. `I` is an [`Item`], or how the operator keeps one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<I = Item> {
    /// Where to watch from.
    pub resource_version: ResourceVersion,
    /// Each pod of the node.
    pub items: Vec<I>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is served, or that it is refused.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Its addresses as far as the API server knows them, the primary one first. Where the node knows better, from the
    /// CNI's own result, that holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<I = Item> {
    /// Where to go on from after this line.
    pub resource_version: ResourceVersion,
    /// What it says.
    #[serde(flatten)]
    pub change: Change<I>,
}

/// What a line of a watch says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Change<I = Item> {
    /// A pod that was not there.
    Added {
        /// What it is served.
        object: Box<I>,
    },
    /// Something else is served to a pod, which may be new to an agent that has not read all changes before.
    Modified {
        /// What it is served.
        object: Box<I>,
    },
    /// A pod is gone.
    Deleted {
        /// Which.
        uid: PodUid,
    },
    /// Nothing, but that all before this version was said.
    Bookmark,
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::compile::{DenialReason, Denied};
    use podmeta_metadata::workload::PodRef;

    use super::*;

    #[test]
    fn a_line_of_a_watch_reads_as_kubernetes_writes_it_and_is_read_again() {
        let uid: PodUid = "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001".try_into().unwrap();
        let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: uid.clone() };
        let outcome =
            Outcome::Denied(Denied { pod, reason: DenialReason::without_profile("no MetadataProfile matches it") });
        let denied = Box::new(Item { outcome, addresses: vec!["10.0.0.7".parse().unwrap()] });
        let resource_version: ResourceVersion = "e1:7".parse().unwrap();
        for (change, expected) in [
            (
                Change::<Item>::Added { object: denied },
                r#"{"resourceVersion":"e1:7","type":"ADDED","object":{"outcome":"denied","pod":{"namespace":"shop","name":"web","uid":"0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001"},"reason":"no MetadataProfile matches it","addresses":["10.0.0.7"]}}"#,
            ),
            (
                Change::Deleted { uid },
                r#"{"resourceVersion":"e1:7","type":"DELETED","uid":"0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001"}"#,
            ),
            (Change::Bookmark, r#"{"resourceVersion":"e1:7","type":"BOOKMARK"}"#),
        ] {
            let event = Event { resource_version: resource_version.clone(), change };
            assert_eq!(serde_json::to_string(&event).unwrap(), expected);
            assert_eq!(serde_json::from_str::<Event>(expected).unwrap(), event);
        }
    }
}
