//! Shows what nodes lack: a log line and an event on the Node for each finding, and the metric of all findings. Agents report
//! to the leader only, so other replicas have no findings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder};
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cluster::events;
use crate::reconcile::SharedState;

/// Interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval of events of one kind on one node. A finding can come and go.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// Interval of events of a finding that stays. The API server deletes events after an hour.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1800);

/// The events that were published last, by node and kind.
#[derive(Debug, Default)]
struct PublishedFindings(HashMap<(String, NodeFindingKind), Published>);

#[derive(Debug)]
struct Published {
    message: String,
    time: Instant,
}

/// Publishes findings until `stop` is cancelled.
pub async fn run(shared: Arc<SharedState>, recorder: Recorder, stop: CancellationToken) {
    let mut published = PublishedFindings::default();
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let findings = shared.read().node_findings().clone();
        shared.metrics.set_node_findings(findings.values().flat_map(NodeFindings::keys).copied());
        for (node, kind, message) in published.take_due(&findings, Instant::now()) {
            tracing::warn!(
                node,
                kind = kind.as_str(),
                finding = message,
                "a node does not meet a requirement of podmeta"
            );
            let event = Event {
                type_: EventType::Warning,
                reason: "PodmetaRequirement".to_owned(),
                note: Some(message.to_owned()),
                // Events with the same reason and action are counted as one.
                action: kind.as_str().to_owned(),
                secondary: None,
            };
            events::publish(&recorder, event, &events::node_reference(node)).await;
        }
    }
}

impl PublishedFindings {
    /// Returns the findings whose event must be published now, and records it as published.
    fn take_due<'f>(
        &mut self,
        findings: &'f BTreeMap<String, NodeFindings>,
        now: Instant,
    ) -> Vec<(&'f str, NodeFindingKind, &'f str)> {
        self.0.retain(|(node, kind), published| {
            let is_found = findings.get(node).is_some_and(|findings| findings.contains_key(kind));
            is_found || now.duration_since(published.time) < EVENT_INTERVAL
        });
        let mut due = Vec::new();
        for (node, findings) in findings {
            for (kind, message) in findings {
                let is_due = self.0.get(&(node.clone(), *kind)).is_none_or(|published| {
                    let interval = if published.message == *message { REPEAT_INTERVAL } else { EVENT_INTERVAL };
                    now.duration_since(published.time) >= interval
                });
                if is_due {
                    let published = Published { message: message.clone(), time: now };
                    self.0.insert((node.clone(), *kind), published);
                    due.push((node.as_str(), *kind, message.as_str()));
                }
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use kube::runtime::events::Reporter;
    use podmeta_agent_api::calls::Report;
    use tokio::sync::oneshot;

    use super::*;
    use crate::cluster::FIELD_MANAGER;
    use crate::cluster::fake_api_server::FakeApiServer;
    use crate::model::update::StateUpdate;
    use crate::reconcile::fixture;

    const KIND: NodeFindingKind = NodeFindingKind::CniOrder;

    fn findings(nodes: &[(&str, &str)]) -> BTreeMap<String, NodeFindings> {
        let finding = |message: &&str| NodeFindings::from([(KIND, (*message).to_owned())]);
        nodes.iter().map(|(node, message)| ((*node).to_owned(), finding(message))).collect()
    }

    #[test]
    fn finding_that_stays_is_published_every_half_hour() {
        let (mut published, start) = (PublishedFindings::default(), Instant::now());
        let found = findings(&[("n1", "a"), ("n2", "a")]);
        let mut due = |second| published.take_due(&found, start + Duration::from_secs(second)).len();
        let seconds = (0..4000).filter(|second| due(*second) == 2).collect::<Vec<_>>();
        assert_eq!(seconds, [0, 1800, 3600]);
    }

    #[test]
    fn finding_that_changes_all_the_time_is_published_once_a_minute() {
        let (mut published, start) = (PublishedFindings::default(), Instant::now());
        let mut due = |second: u64| {
            let message = second.to_string();
            let found = if second.is_multiple_of(2) { findings(&[("n1", &message)]) } else { BTreeMap::new() };
            published.take_due(&found, start + Duration::from_secs(second)).len()
        };
        let seconds = (0..150).filter(|second| due(*second) == 1).collect::<Vec<_>>();
        assert_eq!(seconds, [0, 60, 120]);
        assert_eq!(published.take_due(&BTreeMap::new(), start + Duration::from_secs(300)), []);
        assert!(published.0.is_empty(), "nodes without findings are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn reported_finding_becomes_an_event_on_the_node() {
        let (client, mut server) = FakeApiServer::new();
        let (shared, updates_tx) = fixture::start(fixture::synced_reconciler());
        let recorder = Recorder::new(client, Reporter { controller: FIELD_MANAGER.into(), instance: None });
        tokio::spawn(run(shared, recorder, CancellationToken::new()));
        updates_tx.send(StateUpdate::Leadership(true)).await.unwrap();
        let report = Report { findings: NodeFindings::from([(KIND, "rename it".to_owned())]), ..Report::default() };
        let (recorded_tx, recorded) = oneshot::channel();
        updates_tx
            .send(StateUpdate::Report { node: "n1".into(), report, received: Instant::now(), recorded: recorded_tx })
            .await
            .unwrap();
        assert!(recorded.await.unwrap());
        let event = server.expect(Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events").await;
        assert_eq!(
            (&event.body["regarding"]["kind"], &event.body["regarding"]["name"]),
            (&"Node".into(), &"n1".into())
        );
        assert_eq!((&event.body["reason"], &event.body["note"]), (&"PodmetaRequirement".into(), &"rename it".into()));
        assert_eq!(event.body["action"], KIND.as_str());
        event.respond(&serde_json::json!({}));
        server.expect_none(REPEAT_INTERVAL / 2).await;
    }
}
