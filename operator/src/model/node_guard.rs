//! The Node condition `podmeta.dev/Guarded`: which nodes have it, and what it reports. Pure: times are arguments.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use podmeta_metadata::node_guard::{MAX_NAMED_PODS, NodeGuardState};
use tokio::time::Instant;

use super::state::{OperatorState, clean};
use super::status::ConditionStatus;

/// The type of the condition.
pub const GUARDED: &str = "podmeta.dev/Guarded";

/// Age from which a report is not used. Agents report every 12 to 25 seconds.
pub const REPORT_EXPIRY: Duration = Duration::from_secs(75);

/// The reasons of the condition. They are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardedReason {
    /// The guards are in place, and no running pod is known to lack a link.
    GuardsInPlace,
    /// The guards are in place, and the node translates IPv6 to IPv4 addresses.
    AddressTranslation,
    /// A guard is missing and cannot be added.
    GuardsMissing,
    /// The guards are in place, and pods have network devices that lead past them.
    DevicesInPods,
    /// The links of running pods could not be made.
    LinksMissing,
    /// The link daemon has not completed its first pass.
    LinkDaemonStarting,
    /// The agent does not get the state from the link daemon.
    LinkDaemonUnavailable,
    /// The leader has no recent report of the agent.
    NoReport,
}

impl GuardedReason {
    /// Returns the name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GuardsInPlace => "GuardsInPlace",
            Self::AddressTranslation => "AddressTranslation",
            Self::GuardsMissing => "GuardsMissing",
            Self::DevicesInPods => "DevicesInPods",
            Self::LinksMissing => "LinksMissing",
            Self::LinkDaemonStarting => "LinkDaemonStarting",
            Self::LinkDaemonUnavailable => "LinkDaemonUnavailable",
            Self::NoReport => "NoReport",
        }
    }

    /// Returns the status of the condition.
    #[must_use]
    pub fn status(self) -> ConditionStatus {
        match self {
            Self::GuardsInPlace | Self::AddressTranslation => ConditionStatus::True,
            Self::GuardsMissing | Self::DevicesInPods | Self::LinksMissing => ConditionStatus::False,
            Self::LinkDaemonStarting | Self::LinkDaemonUnavailable | Self::NoReport => ConditionStatus::Unknown,
        }
    }
}

/// The condition as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedCondition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// The time of the last change of the status.
    pub last_transition: Timestamp,
}

impl GuardedCondition {
    /// Returns the condition of a node, or `None` if it has none.
    #[must_use]
    pub fn of_node(node: &Node) -> Option<Self> {
        let mut conditions = node.status.as_ref()?.conditions.iter().flatten();
        let condition = conditions.find(|condition| condition.type_ == GUARDED)?;
        Some(Self {
            status: condition.status.clone(),
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
            last_transition: condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        })
    }
}

/// The Node object and the boot of its machine. A report is about one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIncarnation {
    /// The UID of the object. Another object can get the name of a deleted one.
    pub uid: String,
    /// The boot ID, or empty until the kubelet has reported it. A reboot removes the guards.
    pub boot_id: String,
}

impl NodeIncarnation {
    /// Returns the UID and the boot ID of a node.
    #[must_use]
    pub fn of_node(node: &Node) -> Self {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            boot_id: info.map(|info| info.boot_id.clone()).unwrap_or_default(),
        }
    }

    /// Returns true if the machine was rebooted since `known`.
    pub(super) fn is_reboot_of(&self, known: &Self) -> bool {
        !known.boot_id.is_empty() && self.boot_id != known.boot_id
    }
}

/// The ServiceAccount of the node agents. A node with a pod of this account must have the condition.
#[derive(Clone, Debug)]
pub struct AgentAccount {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// The guard state that an agent reported.
#[derive(Clone, Debug)]
pub(super) struct ReportedGuard {
    state: NodeGuardState,
    received: Instant,
}

impl ReportedGuard {
    /// Cuts the texts of the agent, and replaces control characters in them.
    pub(super) fn new(mut state: NodeGuardState, received: Instant) -> Self {
        match &mut state {
            NodeGuardState::GuardsMissing { message } => *message = clean(message),
            NodeGuardState::LinksMissing { pods, .. } => {
                pods.truncate(MAX_NAMED_PODS);
                pods.iter_mut().for_each(|pod| *pod = clean(pod));
            }
            NodeGuardState::InPlace | NodeGuardState::Starting | NodeGuardState::Unknown => {}
        }
        Self { state, received }
    }

    /// Returns the state, or `None` if the report is too old.
    pub(super) fn if_recent(&self, now: Instant) -> Option<&NodeGuardState> {
        (now.duration_since(self.received) < REPORT_EXPIRY).then_some(&self.state)
    }
}

/// A node with the condition that it has, and the one that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedNode {
    /// The node's name.
    pub name: String,
    /// The UID of the object.
    pub uid: String,
    /// The condition in the API server.
    pub known: Option<GuardedCondition>,
    /// The reason of the next condition.
    pub reason: GuardedReason,
    /// The message of the next condition.
    pub message: String,
}

impl GuardedNode {
    /// Returns true if the condition must be written.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let next = (self.reason.status().as_str(), self.reason.as_str(), self.message.as_str());
        self.known.as_ref().is_none_or(|known| (&*known.status, &*known.reason, &*known.message) != next)
    }

    /// Returns true if the change affects only the message.
    #[must_use]
    pub fn changes_message_only(&self) -> bool {
        let next = (self.reason.status().as_str(), self.reason.as_str());
        self.known.as_ref().is_some_and(|known| (&*known.status, &*known.reason) == next)
    }

    /// Returns true if the change needs an event: another status or reason. A node without the condition counts as unknown.
    #[must_use]
    pub fn needs_event(&self) -> bool {
        match &self.known {
            Some(known) => (&*known.status, &*known.reason) != (self.reason.status().as_str(), self.reason.as_str()),
            None => self.reason.status() != ConditionStatus::Unknown,
        }
    }

    /// Returns the next condition. A condition whose status did not change keeps its transition time.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> GuardedCondition {
        let status = self.reason.status().as_str();
        let unchanged = self.known.as_ref().filter(|known| known.status == status);
        GuardedCondition {
            status: status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            last_transition: unchanged.map_or(now, |known| known.last_transition),
        }
    }
}

impl OperatorState {
    /// Returns the nodes that must have the condition: nodes with an agent's pod, with a report, or with the condition.
    /// An agent can be removed from a node. Its condition then becomes unknown.
    #[must_use]
    pub fn guarded_nodes(&self, agents: &AgentAccount, now: Instant) -> Vec<GuardedNode> {
        self.index.node_names().filter_map(|name| self.guarded_node(name, agents, now)).collect()
    }

    /// Returns a node like [`Self::guarded_nodes`], or `None` if it does not need the condition.
    #[must_use]
    pub fn guarded_node(&self, name: &str, agents: &AgentAccount, now: Instant) -> Option<GuardedNode> {
        let (known, reported) = (self.guarded_conditions.get(name), self.node_guards.get(name));
        // The search of the pods comes last: it is not needed for most nodes.
        let is_agent_node = known.is_some() || reported.is_some() || self.index.has_pod_of_account(name, agents);
        is_agent_node.then(|| {
            let findings = self.node_findings().get(name);
            let (reason, message) = evaluate(reported.and_then(|reported| reported.if_recent(now)), findings);
            GuardedNode { name: name.to_owned(), uid: self.node_uid(name), known: known.cloned(), reason, message }
        })
    }
}

/// Returns reason and message for a reported state and the findings of the same report. `None` stands for a missing report.
/// `DevicesInPods` precedes `LinksMissing`, because a pod without a link reaches no metadata service.
fn evaluate(state: Option<&NodeGuardState>, findings: Option<&NodeFindings>) -> (GuardedReason, String) {
    let finding = |kind| findings.and_then(|findings| findings.get(&kind));
    if matches!(state, Some(NodeGuardState::InPlace | NodeGuardState::LinksMissing { .. }))
        && let Some(devices) = finding(NodeFindingKind::PodDevices)
    {
        return (GuardedReason::DevicesInPods, devices.clone());
    }
    match state {
        Some(NodeGuardState::InPlace) => {
            let message = "the routing rules, the nftables table and, if it is on, the uplink guard are in place, and no running \
                 pod is known to lack a link";
            match finding(NodeFindingKind::Nat64) {
                Some(translators) => (GuardedReason::AddressTranslation, format!("{message}; {translators}")),
                None => (GuardedReason::GuardsInPlace, message.to_owned()),
            }
        }
        Some(NodeGuardState::LinksMissing { count, pods }) => {
            let mut named = pods.join(", ");
            if *count > pods.len() {
                named.push_str(&format!(" and {} more", count - pods.len()));
            }
            let message = format!(
                "running pods without a link: {count} ({named}); the guards are in place, so these pods reach no metadata service"
            );
            (GuardedReason::LinksMissing, message)
        }
        Some(NodeGuardState::GuardsMissing { message }) => (GuardedReason::GuardsMissing, message.clone()),
        Some(NodeGuardState::Starting) => {
            let message = "the link daemon has not completed its first check of guards, CNI configuration and links";
            (GuardedReason::LinkDaemonStarting, message.to_owned())
        }
        Some(NodeGuardState::Unknown) => {
            let message = "the node agent does not get the state of the guards: the link daemon is not reachable, its checks stopped, \
                 or agent and link daemon have different versions";
            (GuardedReason::LinkDaemonUnavailable, message.to_owned())
        }
        None => {
            let message = format!(
                "the leader has no report of the node agent from the last {} seconds: check the agent's pod on this node",
                REPORT_EXPIRY.as_secs()
            );
            (GuardedReason::NoReport, message)
        }
    }
}
