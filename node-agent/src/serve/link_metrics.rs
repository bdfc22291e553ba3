//! Metrics of the link daemon. It listens on no port, so the agent of the node exports its counts.

use std::sync::atomic::Ordering;

use podmeta_link::counters::CounterSnapshot;
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabels {
    kind: &'static str,
}

/// The counts of the node's link daemon. They start at zero when the daemon restarts. Also the findings of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkMetrics {
    rules_repaired: Counter,
    tables_repaired: Counter,
    programs_repaired: Counter,
    links_made: Counter,
    links_failed: Counter,
    conflist_writes: Counter,
    findings: Family<FindingLabels, Gauge>,
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
        let help = "Programs of the uplink guard that another program removed, replaced or preceded and that have been attached again";
        registry.register("guard_programs_repaired", help, metrics.programs_repaired.clone());
        let help = "Links that the daemon made, without those of the CNI plugin";
        registry.register("links_made", help, metrics.links_made.clone());
        registry.register("links_failed", "Failed attempts of the daemon to make a link", metrics.links_failed.clone());
        registry.register("cni_config_writes", "Writes of the CNI configuration", metrics.conflist_writes.clone());
        registry.register("node_findings", "1 for each finding of the node, by kind", metrics.findings.clone());
        metrics.record_findings(&NodeFindings::new());
        metrics
    }

    /// Records the daemon's counts.
    pub(super) fn record(&self, counts: &CounterSnapshot) {
        let values = [
            (&self.rules_repaired, counts.rules_repaired),
            (&self.tables_repaired, counts.tables_repaired),
            (&self.programs_repaired, counts.programs_repaired),
            (&self.links_made, counts.links_made),
            (&self.links_failed, counts.links_failed),
            (&self.conflist_writes, counts.conflist_writes),
        ];
        for (counter, value) in values {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }

    /// Records the findings of the node. A kind without a finding has the value 0.
    pub(super) fn record_findings(&self, findings: &NodeFindings) {
        for kind in NodeFindingKind::ALL {
            let gauge = self.findings.get_or_create(&FindingLabels { kind: kind.as_str() });
            gauge.set(findings.contains_key(&kind).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_series_that_is_one_while_it_is_found() {
        let mut registry = Registry::default();
        let metrics = LinkMetrics::register(&mut registry);
        let values = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("podmeta_agent_node_findings{kind=\""));
            let mut lines = lines.map(str::to_owned).collect::<Vec<_>>();
            lines.sort();
            lines
        };
        assert_eq!(values().len(), NodeFindingKind::ALL.len());
        metrics.record_findings(&NodeFindings::from([(NodeFindingKind::Guards, "m".to_owned())]));
        assert!(values().contains(&"guards\"} 1".to_owned()) && values().contains(&"kernel\"} 0".to_owned()));
        metrics.record_findings(&NodeFindings::new());
        assert!(values().iter().all(|line| line.ends_with("} 0")), "{:?}", values());
    }
}
