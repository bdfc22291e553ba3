//! Metrics of the link daemon. It listens on no port, so the agent of the node exports its counts.

use podmeta_link::counters::CounterSnapshot;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use std::sync::atomic::Ordering;

/// The counts of the node's link daemon. They start at zero when the daemon restarts.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkMetrics {
    rules_repaired: Counter,
    tables_repaired: Counter,
    links_made: Counter,
    links_failed: Counter,
    conflist_writes: Counter,
}

impl LinkMetrics {
    /// Registers the metrics with the prefix `podmeta_agent_`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("podmeta_agent");
        let help = "Routing rules of the guards that were missing and have been added";
        registry.register("guard_rules_repaired", help, metrics.rules_repaired.clone());
        let help = "Tables of the guards that were missing or changed and have been written";
        registry.register("guard_tables_repaired", help, metrics.tables_repaired.clone());
        let help = "Links that the daemon made, without those of the CNI plugin";
        registry.register("links_made", help, metrics.links_made.clone());
        registry.register("links_failed", "Failed attempts of the daemon to make a link", metrics.links_failed.clone());
        registry.register("cni_config_writes", "Writes of the CNI configuration", metrics.conflist_writes.clone());
        metrics
    }

    /// Records the daemon's counts.
    pub(super) fn record(&self, counts: &CounterSnapshot) {
        let values = [
            (&self.rules_repaired, counts.rules_repaired),
            (&self.tables_repaired, counts.tables_repaired),
            (&self.links_made, counts.links_made),
            (&self.links_failed, counts.links_failed),
            (&self.conflist_writes, counts.conflist_writes),
        ];
        for (counter, value) in values {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}
