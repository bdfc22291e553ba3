//! The operator's metrics, in the OpenMetrics format. Labels are fixed values of this program, never names of objects.

use std::time::Duration;

use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::node_finding::NodeFindingKind;
use podmeta_metadata::role::ProviderKind;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::status::ConditionStatus;

/// Reason why a request or a connection to the agents' API was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectedReason {
    /// There was no valid token of a node agent.
    Token,
    /// The pod is not bound to the agent's node.
    Pod,
    /// The addresses are not those of the pod.
    Address,
    /// Too many connections, or no agent authenticated in time.
    Connection,
}

impl EncodeLabelValue for RejectedReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = match self {
            Self::Token => "token",
            Self::Pod => "pod",
            Self::Address => "address",
            Self::Connection => "connection",
        };
        value.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    reason: RejectedReason,
}

/// A call to a cloud, by provider and outcome. The outcome is `issued` or the cause of the failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialsLabels {
    provider: FixedLabel<ProviderKind>,
    outcome: CallOutcome,
}

/// A label value from the text of an enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FixedLabel<T>(T);

impl<T: std::fmt::Display> EncodeLabelValue for FixedLabel<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.to_string().encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CallOutcome {
    Issued,
    Failed(FailureCause),
}

impl EncodeLabelValue for CallOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Issued => "issued".encode(encoder),
            Self::Failed(cause) => FixedLabel(*cause).encode(encoder),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeFindingLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GuardedLabels {
    status: &'static str,
}

/// The metrics of one operator process.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Counter,
    pods_compiled: Counter,
    pods_changed: Counter,
    compile: Histogram,
    watch_lag: Histogram,
    agents: Gauge,
    rejected: Family<RejectedLabels, Counter>,
    status_writes: Counter,
    credentials_calls: Family<CredentialsLabels, Counter>,
    pods: Gauge,
    profiles: Gauge,
    leader: Gauge,
    node_findings: Family<NodeFindingLabels, Gauge>,
    guarded_nodes: Family<GuardedLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [0.000_1, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.0, 5.0];
        Self {
            reconciles: Counter::default(),
            pods_compiled: Counter::default(),
            pods_changed: Counter::default(),
            compile: Histogram::new(buckets),
            watch_lag: Histogram::new(buckets),
            agents: Gauge::default(),
            rejected: Family::default(),
            status_writes: Counter::default(),
            credentials_calls: Family::default(),
            pods: Gauge::default(),
            profiles: Gauge::default(),
            leader: Gauge::default(),
            node_findings: Family::default(),
            guarded_nodes: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics with the prefix `podmeta_operator`.
    pub fn register(&self, registry: &mut Registry) {
        // The series exist before the first term.
        self.set_guarded_nodes(&[]);
        let registry = registry.sub_registry_with_prefix("podmeta_operator");
        registry.register("reconciles", "Batches of pods compiled", self.reconciles.clone());
        registry.register("pods_compiled", "Pods compiled", self.pods_compiled.clone());
        registry.register("pods_changed", "Pods whose compiled result changed", self.pods_changed.clone());
        let compile = "Time to compile one batch of pods";
        registry.register_with_unit("compile", compile, Unit::Seconds, self.compile.clone());
        let watch_lag = "Time from a change to sending it to the agent";
        registry.register_with_unit("watch_lag", watch_lag, Unit::Seconds, self.watch_lag.clone());
        registry.register("agents", "Watches of node agents on this replica", self.agents.clone());
        registry.register("refused", "Rejected requests and connections, by reason", self.rejected.clone());
        registry.register("status_writes", "Writes of profile statuses", self.status_writes.clone());
        let calls = "Calls to a cloud for credentials, by provider and outcome";
        registry.register("credentials_calls", calls, self.credentials_calls.clone());
        registry.register("pods", "Known pods", self.pods.clone());
        registry.register("profiles", "Known profiles", self.profiles.clone());
        let help = "Nodes with a finding, by kind; 0 if this replica is not the leader";
        registry.register("node_findings", help, self.node_findings.clone());
        let help = "Nodes by status of the condition podmeta.dev/Guarded; 0 if this replica is not the leader";
        registry.register("guarded_nodes", help, self.guarded_nodes.clone());
        registry.register("leader", "1 if this replica is the leader, else 0", self.leader.clone());
    }

    pub(crate) fn record_compile(&self, pods: usize, changed_pods: usize, duration: Duration) {
        self.reconciles.inc();
        self.pods_compiled.inc_by(pods as u64);
        self.pods_changed.inc_by(changed_pods as u64);
        self.compile.observe(duration.as_secs_f64());
    }

    pub(crate) fn set_objects(&self, pods: usize, profiles: usize) {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        self.profiles.set(i64::try_from(profiles).unwrap_or(i64::MAX));
    }

    pub(crate) fn record_watch_lag(&self, lag: Duration) {
        self.watch_lag.observe(lag.as_secs_f64());
    }

    /// Counts a watch until the returned guard is dropped.
    pub(crate) fn count_watch(&self) -> WatchGuard {
        self.agents.inc();
        WatchGuard(self.agents.clone())
    }

    pub(crate) fn count_rejected(&self, reason: RejectedReason) {
        self.rejected.get_or_create(&RejectedLabels { reason }).inc();
    }

    pub(crate) fn count_status_write(&self) {
        self.status_writes.inc();
    }

    /// Counts a call that succeeded, or that failed for a cause.
    pub(crate) fn count_credentials_call(&self, provider: ProviderKind, failure: Option<FailureCause>) {
        let outcome = failure.map_or(CallOutcome::Issued, CallOutcome::Failed);
        let labels = CredentialsLabels { provider: FixedLabel(provider), outcome };
        self.credentials_calls.get_or_create(&labels).inc();
    }

    /// Sets the number of nodes with each kind of finding. `found` has a kind once for each node.
    pub(crate) fn set_node_findings(&self, found: impl Iterator<Item = NodeFindingKind> + Clone) {
        for kind in NodeFindingKind::ALL {
            let nodes = found.clone().filter(|found| *found == kind).count();
            let labels = NodeFindingLabels { kind: kind.as_str() };
            self.node_findings.get_or_create(&labels).set(i64::try_from(nodes).unwrap_or(i64::MAX));
        }
    }

    /// Sets the number of nodes with each status of the condition `podmeta.dev/Guarded`. `statuses` has one for each node.
    pub(crate) fn set_guarded_nodes(&self, statuses: &[ConditionStatus]) {
        for status in ConditionStatus::ALL {
            let nodes = statuses.iter().filter(|found| **found == status).count();
            let labels = GuardedLabels { status: status.as_str() };
            self.guarded_nodes.get_or_create(&labels).set(i64::try_from(nodes).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }
}

/// Keeps a watch counted.
#[derive(Debug)]
pub(crate) struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_nodes_have_a_series_of_each_status_before_the_first_term() {
        let (mut registry, mut text) = (Registry::default(), String::new());
        Metrics::default().register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for status in ["True", "False", "Unknown"] {
            assert!(text.contains(&format!("guarded_nodes{{status=\"{status}\"}} 0\n")), "{text}");
        }
    }
}
