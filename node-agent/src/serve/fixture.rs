//! Test data: denied pods, lists, events and a node state whose operator is unreachable.

use std::sync::Arc;

use jiff::Timestamp;
use podmeta_agent_api::{WatchChange, WatchEvent, WorkloadItem, WorkloadList};
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_metadata::compile::{ConfigMapValues, DenialReason, Denied, Outcome, Settings, compile};
use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::{Provider, Role};
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::session::{KeyBytes, Keyring};
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::PodRef;

use crate::broker::operator::{PodRecord, RoleCredentials, SavedBrokerState};
use crate::broker::{Broker, OperatorBroker};
use crate::edge::Edge;
use crate::operator_client::{OperatorClient, OperatorEndpoint};
use crate::serve::{NodeState, SavedState};

pub(crate) fn pod_uid(name: &str) -> PodUid {
    name.try_into().unwrap()
}

pub(crate) fn denied_item(name: &str, reason: &str) -> WorkloadItem {
    let pod = PodRef { namespace: "shop".into(), name: name.into(), uid: pod_uid(name) };
    let reason = DenialReason::new(reason);
    WorkloadItem { outcome: Outcome::Denied(Denied { pod, reason }), addresses: Vec::new() }
}

/// Returns the workload of a pod with an empty profile.
pub(crate) fn served_item(name: &str) -> WorkloadItem {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}, uid: {name}}}}}\n---\n\
         {{apiVersion: podmeta.dev/v1alpha1, kind: MetadataProfile, metadata: {{namespace: shop, name: all}}, spec: {{dialects: [ec2]}}}}"
    );
    let (objects, problems) = load(&[ManifestFile { name: "pod.yaml".into(), text }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let values = ConfigMapValues::default();
    let compiled = compile(&objects.pods[0].facts, &objects.profiles, &[], &values, &Settings::default());
    WorkloadItem { outcome: compiled.outcome, addresses: Vec::new() }
}

pub(crate) fn added(item: WorkloadItem) -> WatchChange {
    WatchChange::Added { object: Box::new(item) }
}

pub(crate) fn event(number: u64, change: WatchChange) -> WatchEvent {
    WatchEvent { resource_version: format!("e1:{number}").parse().unwrap(), change }
}

/// Returns a list with the resource version `e1:NUMBER`.
pub(crate) fn list(number: u64, items: Vec<WorkloadItem>) -> WorkloadList {
    WorkloadList { resource_version: format!("e1:{number}").parse().unwrap(), items }
}

pub(crate) fn saved_broker_state(pods: &[&str]) -> SavedBrokerState {
    let record = |pod: &&str| PodRecord { pod: pod_uid(pod), dialect: Dialect::Ec2, value: role_credentials() };
    let signed = || SignedDocument { document: "{}".into(), signature: "s".into(), pkcs7: "p".into() };
    let document = |pod: &&str| PodRecord { pod: pod_uid(pod), dialect: Dialect::Ec2, value: signed() };
    SavedBrokerState { credentials: pods.iter().map(record).collect(), documents: pods.iter().map(document).collect() }
}

fn role_credentials() -> RoleCredentials {
    let role = Role { name: "r".to_owned().try_into().unwrap(), provider: Provider::Secret { name: "keys".into() } };
    let credentials = Credentials {
        access_key_id: "AKIA".into(),
        secret_access_key: SecretString::new("hunter2".into()),
        session_token: SecretString::new(String::new()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::MAX,
    };
    RoleCredentials { role, credentials }
}

pub(crate) fn unreachable_broker(saved: SavedBrokerState) -> Arc<OperatorBroker> {
    let url = "https://operator".parse().unwrap();
    let endpoint = OperatorEndpoint { url, ca: "/none".into(), token: "/none".into() };
    OperatorBroker::new(OperatorClient::new(endpoint), saved)
}

/// Returns a node state with an edge of its own.
pub(crate) fn node_state(saved: SavedState) -> Arc<NodeState> {
    let SavedState { resource_version, items, broker_state } = saved;
    let broker = unreachable_broker(broker_state);
    let keys = Keyring::new(KeyBytes::new([1; 32]), Timestamp::UNIX_EPOCH);
    let edge = Edge::new(keys, Broker::Operator(Arc::clone(&broker)), Arc::new(|| Timestamp::UNIX_EPOCH));
    let saved = SavedState { resource_version, items, broker_state: SavedBrokerState::default() };
    NodeState::new(edge, broker, saved)
}
