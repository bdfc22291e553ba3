//! A reconcile task with objects, for tests of other tasks.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_crds::metadataprofile::LastValid;
use podmeta_metadata::compile::Settings;

use super::*;
use crate::model::node_guard::{GuardedCondition, NodeIncarnation};
use crate::model::profile::{ProfileObject, ValidSpec};

/// Pod u1 on node n1 and pod u2 on node n2 use the profile `web`, generation 3. Pods a1 and a2 are the agents.
const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: podmeta-system}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-1, uid: u1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-2, uid: u2, labels: {app: web}}
spec: {nodeName: n2, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: podmeta-system, name: agent-1, uid: a1}
spec: {nodeName: n1, serviceAccountName: podmeta-agent, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: podmeta-system, name: agent-2, uid: a2}
spec: {nodeName: n2, serviceAccountName: podmeta-agent, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {namespace: shop, name: web, uid: p1, generation: 3}
spec:
  dialects: [ec2]
  podSelector: {matchLabels: {app: web}}
  roles: [{name: r, dialect: ec2, secret: {name: keys}}]
";

/// A pod on node n1 whose role comes from a cloud.
pub(crate) const CLOUD_POD: &str = "---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: api-1, uid: u3, labels: {app: api}}
spec: {nodeName: n1, serviceAccountName: api, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {namespace: shop, name: api, uid: p2, generation: 1}
spec:
  dialects: [ec2]
  podSelector: {matchLabels: {app: api}}
  roles:
    - {name: r, dialect: ec2, awsWebIdentity: {roleArn: 'arn:aws:iam::123456789012:role/api'}}
";

/// Returns an update for each object.
pub(crate) fn updates() -> Vec<StateUpdate> {
    updates_with("")
}

/// Returns an update for each object, and for those of more YAML documents.
fn updates_with(more: &str) -> Vec<StateUpdate> {
    let file = ManifestFile { name: "fixture.yaml".into(), text: format!("{OBJECTS}{more}") };
    let (objects, problems) = load(&[file], Timestamp::UNIX_EPOCH);
    assert!(problems.iter().all(|problem| problem.to_string().contains("Secret")), "{problems:?}");
    let mut updates = Vec::new();
    for pod in objects.pods {
        updates.push(StateUpdate::Namespace(pod.facts.namespace));
        let (facts, incarnation) = (pod.facts.node.unwrap(), NodeIncarnation::default());
        updates.push(StateUpdate::Node { facts, incarnation, guarded: None });
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        updates.push(StateUpdate::Pod { facts: Box::new(pod.facts.pod), addresses });
    }
    for profile in objects.profiles {
        let written = LastValid { generation: profile.object.generation, spec: "{}".into() };
        let reference = profile.object.clone();
        let object =
            ProfileObject { reference, spec: Ok(ValidSpec { profile: profile.into(), written }), status: None };
        updates.push(StateUpdate::Profile(Box::new(object)));
    }
    updates
}

/// Returns the update of a node.
pub(crate) fn node_update(node: &Node) -> StateUpdate {
    StateUpdate::Node {
        facts: podmeta_crds::facts::node(node, Timestamp::UNIX_EPOCH),
        incarnation: NodeIncarnation::of_node(node),
        guarded: GuardedCondition::of_node(node),
    }
}

/// Returns a task that has not listed anything yet.
pub(crate) fn empty_reconciler() -> Reconciler {
    Reconciler::new(OperatorState::new(Settings::default(), "e1".parse().unwrap()), Metrics::default())
}

/// Returns a task that is synced with all objects.
pub(crate) fn synced_reconciler() -> Reconciler {
    synced_reconciler_with("")
}

/// Returns a task that is synced with all objects, and those of more YAML documents.
pub(crate) fn synced_reconciler_with(more: &str) -> Reconciler {
    let mut reconciler = empty_reconciler();
    let mut updates = updates_with(more);
    updates.extend(WatchedKind::ALL.map(StateUpdate::ListComplete));
    reconciler.reconcile(updates, Instant::now());
    reconciler
}

/// Starts a task.
pub(crate) fn start(reconciler: Reconciler) -> (Arc<SharedState>, mpsc::Sender<StateUpdate>) {
    let (shared, (updates_tx, updates_rx)) = (reconciler.shared(), mpsc::channel(64));
    tokio::spawn(reconciler.run(updates_rx));
    (shared, updates_tx)
}

/// Waits until the task has applied all updates that were sent before.
pub(crate) async fn flush(updates_tx: &mpsc::Sender<StateUpdate>) {
    let (recorded, applied) = tokio::sync::oneshot::channel();
    let report = podmeta_agent_api::calls::Report::default();
    updates_tx
        .send(StateUpdate::Report { node: "none".into(), report, received: tokio::time::Instant::now(), recorded })
        .await
        .unwrap();
    applied.await.unwrap();
}
