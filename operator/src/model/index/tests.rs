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
        all.extend(pod.facts.node.clone().map(StateUpdate::Node));
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
        StateUpdate::Node(facts) => index.set_node(&facts.metadata.name.clone(), Some(facts)),
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
fn several_changes_of_one_pod_are_one_update() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    for priority in 1..=5 {
        let text = pod("shop", "web", "web")
            + &profile("web", "web", &format!(", priority: {priority}, limits: {{connections: {priority}}}"));
        apply_all(&mut index, &text);
    }
    assert_eq!(changed(&mut index), uids);
}

#[test]
fn policy_affects_the_namespaces_that_it_selects() {
    let pods = pod("shop", "web", "web") + &pod("other", "web", "web");
    let (mut index, uids) = index(&pods);
    let facts = policy("facts", "withoutProfile: Facts, namespaceSelector: {matchLabels: {team: a}}");
    assert_eq!(changed_by(&mut index, &(pods.clone() + &facts)), [uids[0].clone()]);
    assert!(is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));

    let everywhere = policy("facts", "withoutProfile: Facts");
    assert_eq!(
        changed_by(&mut index, &(pods + &everywhere)),
        [uids[1].clone()],
        "the result of the first pod is the same"
    );
    index.remove_policy("facts");
    assert_eq!(compile(&mut index).len(), 2);
    assert!(!is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));
}

#[test]
fn labels_of_namespace_and_node_affect_their_pods() {
    let text = pod("shop", "web", "web")
        + &pod("other", "web", "web")
        + &policy("a", "withoutProfile: Facts, namespaceSelector: {matchLabels: {team: b}}");
    let (mut index, uids) = index(&text);
    let known = objects(&text);
    let mut namespace = known.pods[0].facts.namespace.clone();
    namespace.metadata.labels.insert("team".into(), "b".into());
    index.set_namespace("shop", Some(namespace));
    assert_eq!(changed(&mut index), [uids[0].clone()]);

    let mut node = known.pods[0].facts.node.clone().unwrap();
    node.metadata.labels.insert("topology.kubernetes.io/region".into(), "eu-west-2".into());
    index.set_node("n1", Some(node));
    assert_eq!(changed(&mut index), [uids[0].clone()], "a denied pod has no region");
    let Outcome::Served(workload) = outcome(&index, &uids[0]) else { panic!("denied") };
    assert_eq!(workload.instance.region.as_deref(), Some("eu-west-2"));
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
    index.drop_reference(&object, &BTreeSet::from(["other".into()]));
    assert!(!index.has_pending_pods(), "another key");
    index.drop_reference(&object, &BTreeSet::from(["script".into()]));
    compile(&mut index);
    assert!(finding(&index));
}

#[test]
fn pod_without_known_namespace_or_node_is_not_compiled() {
    let objects = objects(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().filter(|update| matches!(update, StateUpdate::Profile(_))).for_each(|update| {
        apply(&mut index, update);
    });
    let facts = objects.pods[0].facts.clone();
    index.set_pod(Box::new(facts.pod.clone()), Vec::new());
    assert!(compile(&mut index).is_empty());
    index.set_namespace("shop", Some(facts.namespace));
    assert!(compile(&mut index).is_empty(), "the node does not exist yet");
    index.set_node("n1", facts.node.clone());
    assert_eq!(changed(&mut index), std::slice::from_ref(&facts.pod.metadata.uid));
    assert!(is_served(&index, &facts.pod.metadata.uid), "the pod");
    index.set_node("n1", None);
    let withdrawn = PodUpdate { pod: facts.pod.metadata.uid.clone(), node: "n1".into(), compiled: None };
    assert_eq!(compile(&mut index), [withdrawn], "the node was deleted");

    let mut waiting = facts.pod;
    waiting.spec.node_name = None;
    waiting.metadata.uid = "11111111-2222-3333-4444-555555555555".try_into().unwrap();
    index.set_pod(Box::new(waiting), Vec::new());
    assert!(compile(&mut index).is_empty());
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

#[test]
fn taint_keeps_the_time_at_which_it_was_first_read() {
    let node = |seen: i64| {
        let taint = Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
            time_added: Timestamp::from_second(seen).unwrap(),
        };
        let mut objects = objects(&pod("shop", "web", "web"));
        let mut node = objects.pods.remove(0).facts.node.unwrap();
        node.spec.taints = vec![taint];
        node
    };
    let (mut index, _) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.set_node("n1", Some(node(10)));
    compile(&mut index);
    index.set_node("n1", Some(node(20)));
    assert!(index.pending_pods.is_empty(), "a heartbeat of a tainted node affects no pod");
    assert_eq!(index.nodes["n1"].facts.as_ref().unwrap().spec.taints[0].time_added.as_second(), 10);
}

#[test]
fn invalid_policy_keeps_the_last_valid_spec() {
    let text = pod("shop", "web", "web") + &policy("facts", "withoutProfile: Facts");
    let (mut index, uids) = index(&text);
    index.set_policy(invalid_policy("facts"));
    assert!(changed(&mut index).is_empty());
    assert!(is_served(&index, &uids[0]));
}

#[test]
fn invalid_policy_that_was_never_valid_is_the_strictest_policy() {
    let text = pod("shop", "web", "web") + &policy("facts", "withoutProfile: Facts");
    let (mut index, uids) = index(&text);
    index.set_policy(invalid_policy("other"));
    assert_eq!(changed(&mut index), uids);
    assert!(!is_served(&index, &uids[0]));
    assert!(index.policies.contains(&Policy::strictest("other".into())));
    index.remove_policy("other");
    assert_eq!(changed(&mut index), uids);
    assert!(is_served(&index, &uids[0]));
}

fn invalid_policy(name: &str) -> PolicyObject {
    let error = FieldError { field: "spec.maxHopLimit".into(), message: "is not a number".into() };
    PolicyObject { name: name.into(), spec: Err(vec![error]) }
}

#[test]
fn pod_whose_compilation_panics_is_denied_with_a_finding_and_others_are_compiled() {
    let text = pod("shop", "bad", "web") + &pod("shop", "good", "web") + &profile("web", "web", "");
    let objects = objects(&text);
    let mut index = Index::new(Settings::default());
    index.compile_fn = |facts, profiles, policies, config_map_values, settings| {
        assert!(facts.pod.metadata.name != "bad", "a defect");
        podmeta_metadata::compile::compile(facts, profiles, policies, config_map_values, settings)
    };
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    assert_eq!(compile(&mut index).len(), 2);
    assert!(!index.has_pending_pods());
    let [bad, good] = [0, 1].map(|pod| objects.pods[pod].facts.pod.metadata.uid.clone());
    assert!(is_served(&index, &good));
    let compiled = compiled_for(&index, &bad).unwrap();
    let Outcome::Denied(denied) = &compiled.item.outcome else { panic!("served") };
    assert!(denied.reason.message.starts_with("internal error"), "{denied:?}");
    let [finding] = &compiled.findings[..] else { panic!("{:?}", compiled.findings) };
    assert_eq!(finding.reason, FindingReason::InternalError);
    assert_eq!(finding.profile.as_ref().map(ProfileKey::of), Some(key("web")));
    assert!(finding.message.contains("pod bad"), "{finding:?}");
}

#[test]
fn result_of_a_pod_that_changed_meanwhile_is_dropped() {
    let pods = pod("shop", "one", "web") + &pod("shop", "two", "web");
    let (mut index, uids) = index(&pods);
    apply_all(&mut index, &(pods + &profile("web", "web", "")));
    let batch = index.take_batch(usize::MAX);
    let compiled = batch.compile(|| false);
    assert!(!index.has_pending_pods());

    // The profile is deleted after the batch was taken. Its result must not be served.
    index.remove_profile(&key("web"));
    assert_eq!(index.apply_compiled(&batch, compiled), []);
    assert!(!is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));
    assert!(index.has_pending_pods());
    assert!(compile(&mut index).is_empty());
    assert!(!is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));
}

#[test]
fn result_of_a_pod_that_was_deleted_meanwhile_is_dropped() {
    let text = pod("shop", "one", "web") + &profile("web", "web", "");
    let objects = objects(&text);
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    let batch = index.take_batch(usize::MAX);
    index.remove_pod(&objects.pods[0].facts.pod.metadata.uid);
    assert_eq!(index.apply_compiled(&batch, batch.compile(|| false)), []);
    assert!(!index.has_pending_pods());
}

#[test]
fn batch_that_must_stop_leaves_the_other_pods_pending() {
    let pods: String = (0..3).map(|number| pod("shop", &format!("web-{number}"), "web")).collect();
    let objects = objects(&(pods + &profile("web", "web", "")));
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    for left in [true, true, false] {
        let batch = index.take_batch(usize::MAX);
        assert_eq!(index.apply_compiled(&batch, batch.compile(|| true)).len(), 1);
        assert_eq!(index.has_pending_pods(), left);
    }
    assert!(objects.pods.iter().all(|pod| is_served(&index, &pod.facts.pod.metadata.uid)));
}

#[test]
fn batch_shares_its_inputs_with_the_index() {
    let hops = profile("web", "web", ", metadataOptions: {httpPutResponseHopLimit: 5}");
    let text = pod("shop", "web", "web") + &hops + &policy("p", "maxHopLimit: 3");
    let objects = objects(&text);
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().for_each(|update| apply(&mut index, update));
    let known = |index: &Index| Arc::strong_count(index.profile(&key("web")).unwrap().profile().unwrap());
    let before = known(&index);
    let batch = index.take_batch(usize::MAX);
    assert_eq!((known(&index), Arc::strong_count(&index.policies)), (before + 1, 2));
    // An edit does not change the inputs of the batch.
    index.remove_policy("p");
    assert_eq!((index.policies.len(), Arc::strong_count(&index.policies)), (0, 1));
    let (_, compiled) = batch.compile(|| false).remove(0);
    let hops = compiled.unwrap().item.outcome.workload().unwrap().options.http_put_response_hop_limit;
    assert_eq!(hops.get(), 3);
    drop(batch);
    assert_eq!(known(&index), before);
}
