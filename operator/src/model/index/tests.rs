mod batches;
mod facts;
mod policies;

use std::collections::BTreeMap;

use jiff::Timestamp;
use podmeta_crds::field::FieldError;
use podmeta_crds::manifests::{LoadedObjects, ManifestFile, load};
use podmeta_crds::metadataprofile::LastValid;
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::facts::Taint;
use podmeta_metadata::finding::FindingReason;
use podmeta_metadata::profile::Profile;

use super::*;
use crate::model::profile::{ProfileObject, ValidSpec};
use crate::model::update::{PolicyObject, StateUpdate};

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu-west-1}}
";

fn pod(namespace: &str, name: &str, app: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: n1, containers: [{{name: c, image: 'i:1'}}]}}\n"
    )
}

fn profile(name: &str, app: &str, more: &str) -> String {
    format!(
        "---\napiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {{namespace: shop, name: {name}}}\n\
         spec: {{dialects: [ec2], podSelector: {{matchLabels: {{app: {app}}}}}{more}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: podmeta.dev/v1alpha1\nkind: MetadataPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn objects(text: &str) -> LoadedObjects {
    let file = ManifestFile { name: "test.yaml".into(), text: format!("{NAMESPACES}{text}") };
    let (objects, problems) = load(&[file], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    objects
}

/// Returns one update for each object.
fn updates(objects: &LoadedObjects) -> Vec<StateUpdate> {
    let mut all = Vec::new();
    for pod in &objects.pods {
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        all.push(StateUpdate::Pod { facts: Box::new(pod.facts.pod.clone()), addresses });
        all.push(StateUpdate::Namespace(pod.facts.namespace.clone()));
        all.extend(pod.facts.node.clone().map(|facts| StateUpdate::Node {
            facts,
            incarnation: crate::model::node_guard::NodeIncarnation::default(),
            guarded: None,
        }));
    }
    all.extend(objects.profiles.iter().map(|profile| StateUpdate::Profile(Box::new(profile_object(profile)))));
    all.extend(objects.policies.iter().map(|policy| {
        let spec = Ok(policy.clone());
        StateUpdate::Policy(Box::new(PolicyObject { name: policy.name.clone(), spec }))
    }));
    all
}

fn profile_object(profile: &Profile) -> ProfileObject {
    let written = LastValid { generation: profile.object.generation, spec: "{}".into() };
    let spec = Ok(ValidSpec { profile: profile.clone().into(), written });
    ProfileObject { reference: profile.object.clone(), spec, status: None }
}

fn apply(index: &mut Index, update: StateUpdate) {
    match update {
        StateUpdate::Pod { facts, addresses } => index.set_pod(facts, addresses),
        StateUpdate::Namespace(facts) => index.set_namespace(&facts.metadata.name.clone(), Some(facts)),
        StateUpdate::Node { facts, .. } => index.set_node(&facts.metadata.name.clone(), Some(facts)),
        StateUpdate::Profile(object) => index.set_profile(*object),
        StateUpdate::Policy(object) => index.set_policy(*object),
        other => panic!("{other:?}"),
    }
}

fn apply_all(index: &mut Index, text: &str) {
    updates(&objects(text)).into_iter().for_each(|update| apply(index, update));
}

fn key(name: &str) -> ProfileKey {
    ProfileKey { namespace: "shop".into(), name: name.into() }
}

/// Compiles all pending pods.
fn compile(index: &mut Index) -> Vec<PodUpdate> {
    let batch = index.take_batch(usize::MAX);
    index.apply_compiled(&batch, batch.compile(|| false))
}

fn compiled_for<'i>(index: &'i Index, uid: &PodUid) -> Option<&'i Arc<CompiledPod>> {
    index.pod(uid)?.1
}

/// Returns an index with compiled pods, and the UIDs of the pods in the order of the text.
fn index(text: &str) -> (Index, Vec<PodUid>) {
    let objects = objects(text);
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    assert_eq!(compile(&mut index).len(), objects.pods.len());
    let uids = objects.pods.iter().map(|pod| pod.facts.pod.metadata.uid.clone());
    (index, uids.collect())
}

/// Applies objects and returns the changed pods.
fn changed_by(index: &mut Index, text: &str) -> Vec<PodUid> {
    apply_all(index, text);
    changed(index)
}

/// Compiles pending pods and returns the changed ones.
fn changed(index: &mut Index) -> Vec<PodUid> {
    compile(index).into_iter().map(|update| update.pod).collect()
}

fn outcome<'i>(index: &'i Index, uid: &PodUid) -> &'i Outcome {
    &compiled_for(index, uid).unwrap().item.outcome
}

fn is_served(index: &Index, uid: &PodUid) -> bool {
    matches!(outcome(index, uid), Outcome::Served(_))
}

#[test]
fn order_of_objects_does_not_change_the_result() {
    let hops = profile("web", "web", ", metadataOptions: {httpPutResponseHopLimit: 5}");
    let text = pod("shop", "web", "web") + &hops + &policy("one", "maxHopLimit: 3") + &policy("two", "maxHopLimit: 3");
    let objects = objects(&text);
    let forwards = updates(&objects);
    let backwards = updates(&objects).into_iter().rev().collect();
    let uid = &objects.pods[0].facts.pod.metadata.uid;
    let [one, other] = [forwards, backwards].map(|updates: Vec<StateUpdate>| {
        let mut index = Index::new(Settings::default());
        for update in updates {
            apply(&mut index, update);
            compile(&mut index);
        }
        Arc::clone(compiled_for(&index, uid).unwrap())
    });
    assert_eq!(one, other);
    assert!(matches!(one.item.outcome, Outcome::Served(_)));
}

#[test]
fn unchanged_objects_leave_no_pod_pending() {
    let text = pod("shop", "web", "web") + &profile("web", "web", "");
    let (mut index, _) = index(&text);
    apply_all(&mut index, &text);
    assert!(index.pending_pods.is_empty());
}

#[test]
fn profile_affects_the_pods_that_it_selects_and_selected_before() {
    let pods = pod("shop", "one", "one")
        + &pod("shop", "two", "two")
        + &pod("shop", "three", "three")
        + &pod("other", "one", "one");
    let (mut index, uids) = index(&(pods.clone() + &profile("p", "one", "")));
    assert_eq!(uids.iter().map(|uid| is_served(&index, uid)).collect::<Vec<_>>(), [true, false, false, false]);

    apply_all(&mut index, &(pods.clone() + &profile("p", "two", "")));
    let selected: BTreeSet<_> = [uids[0].clone(), uids[1].clone()].into();
    let batch = index.take_batch(usize::MAX);
    let pods: BTreeSet<_> = batch.pods().cloned().collect();
    assert_eq!(pods, selected, "neither the third pod nor the pod of the other namespace");
    assert_eq!(index.apply_compiled(&batch, batch.compile(|| false)).len(), 2);
    assert!(!is_served(&index, &uids[0]) && is_served(&index, &uids[1]));

    index.remove_profile(&key("p"));
    assert_eq!(changed(&mut index), [uids[1].clone()]);
    assert!(!is_served(&index, &uids[1]));
}

#[test]
fn several_changes_of_a_profile_are_one_update_of_its_pod() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    for priority in 1..=5 {
        let text = pod("shop", "web", "web")
            + &profile("web", "web", &format!(", priority: {priority}, limits: {{connections: {priority}}}"));
        apply_all(&mut index, &text);
    }
    assert_eq!(changed(&mut index), uids);
}

#[test]
fn config_map_value_affects_the_pods_of_profiles_that_refer_to_it() {
    let user_data = ", userData: {configMapKeyRef: {name: files, key: script}}";
    let text = pod("shop", "web", "web")
        + &pod("shop", "db", "db")
        + &profile("web", "web", user_data)
        + &profile("db", "db", "");
    let file = ManifestFile { name: "test.yaml".into(), text: format!("{NAMESPACES}{text}") };
    let (objects, _) = load(&[file], Timestamp::UNIX_EPOCH);
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    compile(&mut index);
    let web = objects.pods[0].facts.pod.metadata.uid.clone();
    let finding = |index: &Index| {
        compiled_for(index, &web)
            .unwrap()
            .findings
            .iter()
            .any(|finding| finding.reason == FindingReason::UserDataUnavailable)
    };
    assert!(finding(&index));
    index.set_config_map("shop", "files", BTreeMap::from([("script".into(), "#!/bin/sh".into())]));
    assert_eq!(changed(&mut index), std::slice::from_ref(&web));
    assert!(!finding(&index));
    index.set_config_map("shop", "files", BTreeMap::from([("script".into(), "#!/bin/sh".into())]));
    assert!(!index.has_pending_pods(), "the value is the same");
    let object = ConfigMapRef { namespace: "shop".into(), name: "files".into() };
    index.remove_config_map_keys(&object, &BTreeSet::from(["other".into()]));
    assert!(!index.has_pending_pods(), "another key");
    index.remove_config_map_keys(&object, &BTreeSet::from(["script".into()]));
    compile(&mut index);
    assert!(finding(&index));
}

#[test]
fn deleted_pod_is_one_update_of_its_node() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.take_changed_profiles();
    index.remove_pod(&uids[0]);
    assert_eq!(index.take_changed_profiles(), BTreeSet::from([key("web")]));
    index.remove_pod(&uids[0]);
    let deleted = PodUpdate { pod: uids[0].clone(), node: "n1".into(), compiled: None };
    assert_eq!(compile(&mut index), [deleted]);
    assert!(compile(&mut index).is_empty() && compiled_for(&index, &uids[0]).is_none());
}

#[test]
fn empty_entries_are_removed() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.remove_pod(&uids[0]);
    index.set_namespace("shop", None);
    index.remove_profile(&key("web"));
    index.set_node("n1", None);
    compile(&mut index);
    assert!(index.namespaces.is_empty() && index.nodes.is_empty() && index.pods.is_empty());
    assert!(index.pods_by_profile.is_empty());
}
