//! The state of a node's guards and links. The link daemon determines it, the node agent reports it, and the operator
//! publishes it as a condition of the Node.

use serde::{Deserialize, Serialize};

/// Maximum number of pods that [`NodeGuardState::LinksMissing`] names.
pub const MAX_NAMED_PODS: usize = 5;

/// The state of a node's guards and links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum NodeGuardState {
    /// The routing rules, the nftables table and the uplink guard, if it is on, are in place, and no running pod is known to
    /// lack a link.
    InPlace,
    /// The guards are in place, but the links of running pods could not be made.
    LinksMissing {
        /// The number of these pods.
        count: usize,
        /// Namespaces and names of the first of these pods, such as `shop/web`. At most [`MAX_NAMED_PODS`].
        pods: Vec<String>,
    },
    /// A guard is missing and cannot be added.
    GuardsMissing {
        /// The cause, on one line.
        message: String,
    },
    /// The link daemon has not completed its first pass.
    Starting,
    /// The state is not known: the link daemon is not reachable, or its checks stopped. Also the state of a program of an older
    /// version that reports none, and a state of a newer version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl NodeGuardState {
    /// Returns the state of a node whose guards are in place. `unlinked` has namespace and name of each running pod whose
    /// link failed at least twice in a row.
    #[must_use]
    pub fn with_guards(mut unlinked: Vec<String>) -> Self {
        if unlinked.is_empty() {
            return Self::InPlace;
        }
        let count = unlinked.len();
        unlinked.sort_unstable();
        unlinked.truncate(MAX_NAMED_PODS);
        Self::LinksMissing { count, pods: unlinked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_parses_back_from_its_text() {
        for (state, text) in [
            (NodeGuardState::InPlace, r#"{"state":"inPlace"}"#),
            (
                NodeGuardState::LinksMissing { count: 1, pods: vec!["shop/web".to_owned()] },
                r#"{"state":"linksMissing","count":1,"pods":["shop/web"]}"#,
            ),
            (NodeGuardState::GuardsMissing { message: "m".to_owned() }, r#"{"state":"guardsMissing","message":"m"}"#),
            (NodeGuardState::Starting, r#"{"state":"starting"}"#),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), text);
            assert_eq!(serde_json::from_str::<NodeGuardState>(text).unwrap(), state);
        }
    }

    #[test]
    fn state_of_a_newer_version_is_unknown() {
        let state = serde_json::from_str::<NodeGuardState>(r#"{"state":"programsMissing","message":"m"}"#).unwrap();
        assert_eq!(state, NodeGuardState::Unknown);
    }

    #[test]
    fn first_pods_without_a_link_are_named() {
        assert_eq!(NodeGuardState::with_guards(Vec::new()), NodeGuardState::InPlace);
        let pods = ["f", "e", "d", "c", "b", "a"].map(str::to_owned);
        let named = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(NodeGuardState::with_guards(pods.to_vec()), NodeGuardState::LinksMissing { count: 6, pods: named });
    }
}
