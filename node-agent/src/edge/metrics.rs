//! The edge's counts, in OpenMetrics. Labels are small enums, never a pod, a path or a text of somebody else's choosing.

use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::PathClass;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: Word,
    path: Word,
    status: u16,
    token: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialectLabel {
    dialect: Word,
}

/// A label's value: one of the program's own words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// The counts of one edge.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    tokens: Family<DialectLabel, Counter>,
    tokenless: Family<DialectLabel, Counter>,
    credentials_failed: Family<DialectLabel, Counter>,
    connections: Gauge,
    connections_refused: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0];
        Self {
            requests: Family::default(),
            duration: Histogram::new(buckets),
            tokens: Family::default(),
            tokenless: Family::default(),
            credentials_failed: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
        }
    }
}

/// A connection that is counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Enters the counts in a registry, under `podmeta_agent_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("podmeta_agent");
        registry.register("requests", "Metadata requests answered", self.requests.clone());
        registry.register("request_duration_seconds", "Time from a whole head to the answer", self.duration.clone());
        registry.register("tokens_issued", "Session tokens made", self.tokens.clone());
        registry.register("tokenless_requests", "Items served without a session token", self.tokenless.clone());
        let help = "Credentials that a provider could not give";
        registry.register("credentials_failed", help, self.credentials_failed.clone());
        registry.register("connections", "Connections that are open", self.connections.clone());
        let help = "Connections closed because the pod had too many";
        registry.register("connections_refused", help, self.connections_refused.clone());
    }

    pub(super) fn request(&self, dialect: Dialect, path: PathClass, status: u16, token: bool, took: Duration) {
        let token = Word(if token { "yes" } else { "no" });
        let labels = RequestLabels { dialect: Word(dialect.as_str()), path: Word(path.as_str()), status, token };
        self.requests.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn token(&self, dialect: Dialect) {
        self.tokens.get_or_create(&DialectLabel { dialect: Word(dialect.as_str()) }).inc();
    }

    pub(super) fn tokenless(&self, dialect: Dialect) {
        self.tokenless.get_or_create(&DialectLabel { dialect: Word(dialect.as_str()) }).inc();
    }

    pub(super) fn credentials_failed(&self, dialect: Dialect) {
        self.credentials_failed.get_or_create(&DialectLabel { dialect: Word(dialect.as_str()) }).inc();
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> i64 {
        self.connections.get()
    }

    pub(super) fn connection(&self) -> Counted {
        self.connections.inc();
        Counted(self.connections.clone())
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.inc();
    }
}
