//! The metrics of the edge. Labels have few values: never a pod, a path or text of a client.

use std::sync::OnceLock;
use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::PathClass;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of a request. Their text is made when the metrics are read: hashing numbers is faster than hashing text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: DialectValue,
    path: PathValue,
    status: u16,
    token: TokenValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialectLabel {
    dialect: DialectValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DialectValue(Dialect);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PathValue(PathClass);

/// True if the request had a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenValue(bool);

impl EncodeLabelValue for DialectValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for PathValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for TokenValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        (if self.0 { "yes" } else { "no" }).encode(encoder)
    }
}

/// The counters of responses with status 200, by dialect, path class and token. They belong to the family of all requests.
/// Counting with one of them needs neither the family's lock nor a hash of the labels.
#[derive(Debug, Default)]
struct ServedCounters([[[OnceLock<Counter>; 2]; PathClass::ALL.len()]; Dialect::ALL.len()]);

impl ServedCounters {
    /// Returns the counter of these labels, or `None` if their status is not 200. `None` also for a dialect or class that is
    /// missing from its list `ALL`, so no labels share a counter.
    fn get(&self, labels: &RequestLabels) -> Option<&OnceLock<Counter>> {
        if labels.status != 200 {
            return None;
        }
        self.0.get(labels.dialect.0 as usize)?.get(labels.path.0 as usize)?.get(usize::from(labels.token.0))
    }
}

/// The metrics of one edge.
#[derive(Debug)]
pub struct EdgeMetrics {
    requests: Family<RequestLabels, Counter>,
    served: ServedCounters,
    duration: Histogram,
    tokens: Family<DialectLabel, Counter>,
    tokenless: Family<DialectLabel, Counter>,
    credentials_failed: Family<DialectLabel, Counter>,
    connections: Gauge,
    connections_refused: Counter,
    connections_evicted: Counter,
}

impl Default for EdgeMetrics {
    fn default() -> Self {
        let buckets = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0];
        Self {
            requests: Family::default(),
            served: ServedCounters::default(),
            duration: Histogram::new(buckets),
            tokens: Family::default(),
            tokenless: Family::default(),
            credentials_failed: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            connections_evicted: Counter::default(),
        }
    }
}

/// An open connection. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl EdgeMetrics {
    /// Registers the metrics with the prefix `podmeta_agent_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("podmeta_agent");
        registry.register("requests", "Metadata requests", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from the complete request head to the response",
            self.duration.clone(),
        );
        registry.register("tokens_issued", "Session tokens issued", self.tokens.clone());
        let help = "Requests for items without a session token that passed all checks. A request that the broker fails with 503 counts too";
        registry.register("tokenless_requests", help, self.tokenless.clone());
        let help = "Requests for credentials that failed";
        registry.register("credentials_failed", help, self.credentials_failed.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        let help = "Connections closed because the pod was at its connection limit";
        registry.register("connections_refused", help, self.connections_refused.clone());
        let help = "Connections closed because the pod or the agent was over its memory budget for connections";
        registry.register("connections_evicted", help, self.connections_evicted.clone());
    }

    pub(super) fn record_request(
        &self,
        dialect: Dialect,
        path: PathClass,
        status: u16,
        token: bool,
        duration: Duration,
    ) {
        let (dialect, path, token) = (DialectValue(dialect), PathValue(path), TokenValue(token));
        let labels = RequestLabels { dialect, path, status, token };
        match self.served.get(&labels) {
            Some(counter) => counter.get_or_init(|| self.requests.get_or_create_owned(&labels)).inc(),
            None => self.requests.get_or_create(&labels).inc(),
        };
        self.duration.observe(duration.as_secs_f64());
    }

    pub(super) fn count_token(&self, dialect: Dialect) {
        self.tokens.get_or_create(&DialectLabel { dialect: DialectValue(dialect) }).inc();
    }

    pub(super) fn count_tokenless(&self, dialect: Dialect) {
        self.tokenless.get_or_create(&DialectLabel { dialect: DialectValue(dialect) }).inc();
    }

    pub(super) fn count_credentials_failure(&self, dialect: Dialect) {
        self.credentials_failed.get_or_create(&DialectLabel { dialect: DialectValue(dialect) }).inc();
    }

    pub(super) fn open_connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    pub(super) fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    pub(super) fn count_rejected_connection(&self) {
        self.connections_refused.inc();
    }

    pub(super) fn count_evicted_connection(&self) {
        self.connections_evicted.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_once_under_their_own_labels() {
        let (metrics, mut registry, mut text) = (EdgeMetrics::default(), Registry::default(), String::new());
        metrics.register(&mut registry);
        let paths = || PathClass::ALL.into_iter().flat_map(|path| [(path, false), (path, true)]);
        let requests = || Dialect::ALL.into_iter().flat_map(move |dialect| paths().map(move |path| (dialect, path)));
        for (dialect, (path, token)) in requests() {
            metrics.record_request(dialect, path, 200, token, Duration::ZERO);
            metrics.record_request(dialect, path, 404, token, Duration::ZERO);
        }
        metrics.record_request(Dialect::Ecs, PathClass::Other, 200, true, Duration::ZERO);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for ((dialect, (path, token)), status) in requests().flat_map(|labels| [(labels, 200), (labels, 404)]) {
            let (path, token) = (path.as_str(), if token { "yes" } else { "no" });
            let labels = format!("dialect=\"{dialect}\",path=\"{path}\",status=\"{status}\",token=\"{token}\"");
            let is_last = (dialect, path, status, token) == (Dialect::Ecs, "other", 200, "yes");
            let line = format!("podmeta_agent_requests_total{{{labels}}} {}\n", if is_last { 2 } else { 1 });
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
