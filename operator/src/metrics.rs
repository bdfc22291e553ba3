//! The operator's counts, in OpenMetrics. Labels are the program's own words, never a name of somebody else's choosing.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Why a request of somebody who says to be an agent was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// There was no good token of an agent.
    Token,
    /// It asked for a pod that is not bound to its node.
    Pod,
    /// It named addresses that are not the pod's.
    Address,
    /// There were too many connections, or one on which no agent showed its token in time.
    Connection,
}

impl EncodeLabelValue for Refused {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Token => "token",
            Self::Pod => "pod",
            Self::Address => "address",
            Self::Connection => "connection",
        };
        word.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabel {
    reason: Refused,
}

/// The counts of one operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Counter,
    pods_compiled: Counter,
    pods_changed: Counter,
    compile: Histogram,
    lag: Histogram,
    agents: Gauge,
    refused: Family<RefusedLabel, Counter>,
    status_writes: Counter,
    pods: Gauge,
    profiles: Gauge,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = [0.000_1, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.0, 5.0];
        Self {
            reconciles: Counter::default(),
            pods_compiled: Counter::default(),
            pods_changed: Counter::default(),
            compile: Histogram::new(seconds),
            lag: Histogram::new(seconds),
            agents: Gauge::default(),
            refused: Family::default(),
            status_writes: Counter::default(),
            pods: Gauge::default(),
            profiles: Gauge::default(),
            leader: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers all counts, below `podmeta_operator`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("podmeta_operator");
        registry.register("reconciles", "Times that changes were compiled", self.reconciles.clone());
        registry.register("pods_compiled", "Pods that were compiled", self.pods_compiled.clone());
        registry.register("pods_changed", "Compiled pods for which something else follows", self.pods_changed.clone());
        let compile = "How long a batch of pods was compiled";
        registry.register_with_unit("compile", compile, Unit::Seconds, self.compile.clone());
        let lag = "From when an agent was to be told of a change to when it was sent to it";
        registry.register_with_unit("watch_lag", lag, Unit::Seconds, self.lag.clone());
        registry.register("agents", "Agents that watch this replica", self.agents.clone());
        registry.register("refused", "Requests of agents that were refused, by reason", self.refused.clone());
        registry.register("status_writes", "Times that a profile's status was written", self.status_writes.clone());
        registry.register("pods", "Pods that are known", self.pods.clone());
        registry.register("profiles", "Profiles that are known", self.profiles.clone());
        registry.register("leader", "1 if this replica leads", self.leader.clone());
    }

    pub(crate) fn compiled(&self, pods: usize, changed: usize, took: Duration) {
        self.reconciles.inc();
        self.pods_compiled.inc_by(pods as u64);
        self.pods_changed.inc_by(changed as u64);
        self.compile.observe(took.as_secs_f64());
    }

    pub(crate) fn known(&self, pods: usize, profiles: usize) {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        self.profiles.set(i64::try_from(profiles).unwrap_or(i64::MAX));
    }

    pub(crate) fn sent_after(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    /// Counts an agent that watches, until what this returns is dropped.
    pub(crate) fn agent(&self) -> Watching {
        self.agents.inc();
        Watching(self.agents.clone())
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }

    pub(crate) fn status_written(&self) {
        self.status_writes.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}

/// An agent that watches.
#[derive(Debug)]
pub(crate) struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}
