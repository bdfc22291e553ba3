//! Calls of the link daemon's socket. Each connection is one call: the client sends one line, the daemon one line with
//! file descriptors. Lines are JSON.

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
    /// The file descriptors are a TCP socket that is bound to the service port, and a route netlink socket that is
    /// subscribed to changes of interfaces.
    Sockets {
        /// Identity of the agent namespace.
        namespace: NetnsId,
    },
    /// The state of the node.
    Status(NodeStatus),
    /// The call failed. The text is for a log.
    Failed(String),
}

/// The state of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Identity of the agent namespace. Sockets of another one get no connections.
    pub namespace: NetnsId,
    /// Counts of repairs and links since the daemon started.
    pub counters: CounterSnapshot,
}
