//! Calls of the link daemon's socket. Each connection is one call: the client sends one line, the daemon one line with
//! file descriptors. Lines are JSON.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindings;
use podmeta_metadata::node_guard::NodeGuardState;
use serde::{Deserialize, Serialize};

use crate::alias::SandboxId;
use crate::counters::CounterSnapshot;
use crate::host_pods::identity::{HostClient, HostQuery};
use crate::netns::NetnsId;

/// Default path of the socket.
pub const SOCKET_PATH: &str = "/run/podmeta/link/link.sock";

/// Maximum number of concurrent calls of one agent for owners of sockets. Other calls must not wait for them.
pub const MAX_OWNER_CALLS: usize = 3;

/// Timeout of the lookup of an owner, in the agent and in the daemon. SDKs give up after one second.
pub const OWNER_TIMEOUT: Duration = Duration::from_millis(500);

/// A call of the node agent to the link daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Opens new sockets in the agent namespace.
    Sockets,
    /// Returns the state of the node.
    Status,
    /// Returns the owner of the client's socket of a connection.
    WhoIs(SocketQuery),
    /// Returns the pod of a connection that arrived at the node's link.
    HostPod(HostQuery),
    /// Sets the pods that the operator leaves to the node's own metadata service.
    NodePods(BTreeSet<PodUid>),
}

/// A connection of a pod to a service address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketQuery {
    /// UID of the pod.
    pub pod: PodUid,
    /// The sandbox whose link the connection uses.
    pub sandbox: SandboxId,
    /// Address of the client.
    pub client: SocketAddr,
    /// The service address.
    pub service: SocketAddr,
}

/// The owner of a client's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketOwner {
    /// The user ID in the pod.
    User(u32),
    /// No process of the pod has the socket open, or its owner has no user ID in the pod. The text is for a log.
    Nobody(String),
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
    /// The owner of the client's socket.
    Owner(SocketOwner),
    /// The pod of a connection that arrived at the node's link.
    HostClient(HostClient),
    /// The call succeeded and has no result.
    Done,
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
    /// State of the guards and links. Unknown for a daemon of an older version, which sends none.
    #[serde(default)]
    pub guard: NodeGuardState,
    /// Pods on the host network. A daemon of an older version does not serve them.
    #[serde(default)]
    pub host_pods: HostPodsMode,
}

/// Redirection of pods on the host network to the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPodsMode {
    /// They use the node's own metadata service, as far as the guards admit it.
    #[default]
    NotServed,
    /// They are redirected.
    Served,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who_is(pod: &str, sandbox: &str, client: &str) -> String {
        format!(
            r#"{{"whoIs":{{"pod":"{pod}","sandbox":"{sandbox}","client":"{client}","service":"[fd00:ec2::254]:80"}}}}"#
        )
    }

    #[test]
    fn call_and_response_parse_back_from_their_text() {
        let query = SocketQuery {
            pod: "uid-1".try_into().unwrap(),
            sandbox: "s1".try_into().unwrap(),
            client: "[fd00::1]:4000".parse().unwrap(),
            service: "[fd00:ec2::254]:80".parse().unwrap(),
        };
        let text = serde_json::to_string(&Call::WhoIs(query.clone())).unwrap();
        assert_eq!(text, who_is("uid-1", "s1", "[fd00::1]:4000"));
        assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), Call::WhoIs(query));
        for (owner, text) in [
            (SocketOwner::User(33), r#"{"owner":{"user":33}}"#),
            (SocketOwner::Nobody("closed".to_owned()), r#"{"owner":{"nobody":"closed"}}"#),
        ] {
            let response = CallResponse::Owner(owner);
            assert_eq!(serde_json::to_string(&response).unwrap(), text);
            assert_eq!(serde_json::from_str::<CallResponse>(text).unwrap(), response);
        }
    }

    #[test]
    fn invalid_call_is_rejected() {
        let valid = who_is("uid-1", "s1", "10.0.0.1:4000");
        assert!(serde_json::from_str::<Call>(&valid).is_ok());
        let cut = &valid[..valid.len() - 1];
        for text in [
            who_is("", "s1", "10.0.0.1:4000").as_str(),
            &who_is("uid-1", "../s1", "10.0.0.1:4000"),
            &who_is("uid-1", "s1", "10.0.0.1"),
            &who_is("uid-1", "s1", "10.0.0.1:70000"),
            cut,
            r#""whoIs""#,
            r#""other""#,
            "",
        ] {
            assert!(serde_json::from_str::<Call>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn longest_call_fits_into_the_limit() {
        let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        let call = who_is(&"a".repeat(64), &"a".repeat(64), address).replace("[fd00:ec2::254]:80", address);
        assert!(u64::try_from(call.len()).unwrap() < crate::socket::MAX_CALL_BYTES, "{}", call.len());
    }

    #[test]
    fn status_of_an_older_daemon_has_no_findings_and_an_unknown_guard() {
        let text = serde_json::to_value(LinkNodeStatus {
            namespace: crate::netns::Netns::current().unwrap().id().unwrap(),
            counters: CounterSnapshot::default(),
            findings: NodeFindings::new(),
            guard: NodeGuardState::InPlace,
            host_pods: HostPodsMode::Served,
        });
        let mut text = text.unwrap();
        assert_eq!(text.get("findings"), None, "an older agent reads it");
        text.as_object_mut().unwrap().retain(|name, _| !["guard", "hostPods"].contains(&name.as_str()));
        let status = serde_json::from_value::<LinkNodeStatus>(text).unwrap();
        assert_eq!((status.findings, status.guard), (NodeFindings::new(), NodeGuardState::Unknown));
        assert_eq!(status.host_pods, HostPodsMode::NotServed);
    }
}
