//! Calls of the link daemon's socket. Each connection is one call: the client sends one line, the daemon one line with
//! file descriptors. Lines are JSON.

use podmeta_metadata::node_finding::NodeFindings;
use serde::{Deserialize, Serialize};

use crate::counters::CounterSnapshot;
use crate::netns::NetnsId;

/// Default path of the socket.
pub const SOCKET_PATH: &str = "/run/podmeta/link/link.sock";

/// A call of the node agent to the link daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Opens new sockets in the agent namespace.
    Sockets,
    /// Returns the state of the node.
    Status,
}

/// The response to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallResponse {
    /// The file descriptors are a TCP socket that is bound to the service port, a route netlink socket that is subscribed to
    /// changes of interfaces, and a route netlink socket for requests.
    Sockets {
        /// Identity of the agent namespace.
        namespace: NetnsId,
    },
    /// The state of the node.
    Status(LinkNodeStatus),
    /// The call failed. The text is for a log.
    Failed(String),
}

/// The state of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkNodeStatus {
    /// Identity of the agent namespace. Sockets of another one get no connections.
    pub namespace: NetnsId,
    /// Counts of repairs and links since the daemon started.
    pub counters: CounterSnapshot,
    /// Findings about the node. A daemon of an older version sends none.
    #[serde(default, skip_serializing_if = "NodeFindings::is_empty")]
    pub findings: NodeFindings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_an_older_daemon_has_no_findings() {
        let text = serde_json::to_value(LinkNodeStatus {
            namespace: crate::netns::Netns::current().unwrap().id().unwrap(),
            counters: CounterSnapshot::default(),
            findings: NodeFindings::new(),
        });
        let text = text.unwrap();
        assert_eq!(text.get("findings"), None, "an older agent reads it");
        assert_eq!(serde_json::from_value::<LinkNodeStatus>(text).unwrap().findings, NodeFindings::new());
    }
}
