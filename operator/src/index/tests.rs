use jiff::Timestamp;
use podmeta_crds::objects::{File, Objects, load};
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::facts::Taint;
use podmeta_metadata::finding::FindingReason;

use super::*;

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

fn objects(text: &str) -> Objects {
    let file = File { name: "test.yaml".into(), text: format!("{NAMESPACES}{text}") };
    let (objects, problems) = load(&[file], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    objects
}

/// Everything that objects say, one change each.
fn changes(objects: &Objects) -> Vec<Change> {
    let mut all = Vec::new();
    for pod in &objects.pods {
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        all.push(Change::Pod { facts: Box::new(pod.facts.pod.clone()), addresses });
        all.push(Change::Namespace(pod.facts.namespace.clone()));
        all.extend(pod.facts.node.clone().map(Change::Node));
    }
    all.extend(objects.profiles.iter().map(|profile| Change::Profile(Box::new(profile.clone()))));
    all.extend(objects.policies.iter().map(|policy| Change::Policy(Box::new(policy.clone()))));
    all
}

/// Compiles all that was touched.
fn compile(index: &mut Index) -> Vec<Update> {
    let compiled = index.compile(usize::MAX);
    index.take(compiled)
}

fn compiled_for<'i>(index: &'i Index, uid: &PodUid) -> Option<&'i Arc<Entry>> {
    index.pod_on(uid)?.1
}

/// An index of some objects, and the pods' UIDs in their order.
fn index(text: &str) -> (Index, Vec<PodUid>) {
    let objects = objects(text);
    let mut index = Index::new(Settings::default());
    changes(&objects).into_iter().for_each(|change| index.note(change));
    assert_eq!(compile(&mut index).len(), objects.pods.len());
    let uids = objects.pods.iter().map(|pod| pod.facts.pod.metadata.uid.clone());
    (index, uids.collect())
}

/// The pods for which something changed after these objects were noted.
fn after(index: &mut Index, text: &str) -> Vec<PodUid> {
    changes(&objects(text)).into_iter().for_each(|change| index.note(change));
    touched(index)
}

/// The pods for which something changed since the last time.
fn touched(index: &mut Index) -> Vec<PodUid> {
    compile(index).into_iter().map(|update| update.pod).collect()
}

fn outcome<'i>(index: &'i Index, uid: &PodUid) -> &'i Outcome {
    &compiled_for(index, uid).unwrap().item.outcome
}

fn is_served(index: &Index, uid: &PodUid) -> bool {
    matches!(outcome(index, uid), Outcome::Served(_))
}

#[test]
fn objects_in_any_order_come_to_the_same() {
    let hops = profile("web", "web", ", metadataOptions: {httpPutResponseHopLimit: 5}");
    let text = pod("shop", "web", "web") + &hops + &policy("one", "maxHopLimit: 3") + &policy("two", "maxHopLimit: 3");
    let objects = objects(&text);
    let forwards = changes(&objects);
    let mut backwards = forwards.clone();
    backwards.reverse();
    let uid = &objects.pods[0].facts.pod.metadata.uid;
    let [one, other] = [forwards, backwards].map(|changes| {
        let mut index = Index::new(Settings::default());
        for change in changes {
            index.note(change);
            compile(&mut index);
        }
        Arc::clone(compiled_for(&index, uid).unwrap())
    });
    assert_eq!(one, other);
    assert!(matches!(one.item.outcome, Outcome::Served(_)));
}

#[test]
fn what_changes_nothing_compiles_nothing() {
    let text = pod("shop", "web", "web") + &profile("web", "web", "");
    let (mut index, _) = index(&text);
    changes(&objects(&text)).into_iter().for_each(|change| index.note(change));
    assert!(index.dirty.is_empty());
}

#[test]
fn a_profile_touches_the_pods_that_it_selects_now_and_those_before() {
    let pods = pod("shop", "one", "one")
        + &pod("shop", "two", "two")
        + &pod("shop", "three", "three")
        + &pod("other", "one", "one");
    let (mut index, uids) = index(&(pods.clone() + &profile("p", "one", "")));
    assert_eq!(uids.iter().map(|uid| is_served(&index, uid)).collect::<Vec<_>>(), [true, false, false, false]);

    for change in changes(&objects(&(pods.clone() + &profile("p", "two", "")))) {
        index.note(change);
    }
    let selected: BTreeSet<_> = [uids[0].clone(), uids[1].clone()].into();
    assert_eq!(index.dirty, selected, "neither the third pod nor one of another namespace");
    assert_eq!(compile(&mut index).len(), 2);
    assert!(!is_served(&index, &uids[0]) && is_served(&index, &uids[1]));

    index.note(Change::ProfileGone { namespace: "shop".into(), name: "p".into() });
    assert_eq!(touched(&mut index), [uids[1].clone()]);
    assert!(!is_served(&index, &uids[1]));
}

#[test]
fn many_changes_of_one_pod_are_one_update() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    for priority in 1..=5 {
        let text = pod("shop", "web", "web")
            + &profile("web", "web", &format!(", priority: {priority}, limits: {{connections: {priority}}}"));
        changes(&objects(&text)).into_iter().for_each(|change| index.note(change));
    }
    assert_eq!(touched(&mut index), uids);
}

#[test]
fn a_policy_touches_the_namespaces_that_it_holds_for() {
    let pods = pod("shop", "web", "web") + &pod("other", "web", "web");
    let (mut index, uids) = index(&pods);
    let facts = policy("facts", "withoutProfile: Facts, namespaceSelector: {matchLabels: {team: a}}");
    assert_eq!(after(&mut index, &(pods.clone() + &facts)), [uids[0].clone()]);
    assert!(is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));

    let everywhere = policy("facts", "withoutProfile: Facts");
    assert_eq!(after(&mut index, &(pods + &everywhere)), [uids[1].clone()], "the first has the same already");
    index.note(Change::PolicyGone("facts".into()));
    assert_eq!(compile(&mut index).len(), 2);
    assert!(!is_served(&index, &uids[0]) && !is_served(&index, &uids[1]));
}

#[test]
fn a_namespace_s_labels_and_a_node_s_are_felt_by_their_pods() {
    let text = pod("shop", "web", "web")
        + &pod("other", "web", "web")
        + &policy("a", "withoutProfile: Facts, namespaceSelector: {matchLabels: {team: b}}");
    let (mut index, uids) = index(&text);
    let known = objects(&text);
    let mut namespace = known.pods[0].facts.namespace.clone();
    namespace.metadata.labels.insert("team".into(), "b".into());
    index.note(Change::Namespace(namespace));
    assert_eq!(touched(&mut index), [uids[0].clone()]);

    let mut node = known.pods[0].facts.node.clone().unwrap();
    node.metadata.labels.insert("topology.kubernetes.io/region".into(), "eu-west-2".into());
    index.note(Change::Node(node));
    assert_eq!(touched(&mut index), [uids[0].clone()], "the denied one has no region");
    let Outcome::Served(workload) = outcome(&index, &uids[0]) else { panic!("denied") };
    assert_eq!(workload.instance.region.as_deref(), Some("eu-west-2"));
}

#[test]
fn a_config_map_s_value_touches_the_pods_whose_profile_names_it() {
    let user_data = ", userData: {configMapKeyRef: {name: files, key: script}}";
    let text = pod("shop", "web", "web")
        + &pod("shop", "db", "db")
        + &profile("web", "web", user_data)
        + &profile("db", "db", "");
    let file = File { name: "test.yaml".into(), text: format!("{NAMESPACES}{text}") };
    let (objects, _) = load(&[file], Timestamp::UNIX_EPOCH);
    let mut index = Index::new(Settings::default());
    changes(&objects).into_iter().for_each(|change| index.note(change));
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
    let key = KeyRef { name: "files".into(), key: "script".into() };
    let source = |value: Option<Bytes>| Change::Source { namespace: "shop".into(), key: key.clone(), value };
    index.note(source(Some("#!/bin/sh".into())));
    assert_eq!(touched(&mut index), std::slice::from_ref(&web));
    assert!(!finding(&index));
    index.note(source(None));
    compile(&mut index);
    assert!(finding(&index));
}

#[test]
fn nothing_is_compiled_for_a_pod_whose_namespace_is_not_known_or_that_has_no_node() {
    let objects = objects(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    let mut index = Index::new(Settings::default());
    let facts = objects.pods[0].facts.clone();
    index.note(Change::Pod { facts: Box::new(facts.pod.clone()), addresses: Vec::new() });
    assert!(compile(&mut index).is_empty());
    index.note(Change::Namespace(facts.namespace));
    assert_eq!(compile(&mut index).len(), 1);

    let mut waiting = facts.pod;
    waiting.spec.node_name = None;
    waiting.metadata.uid = "11111111-2222-3333-4444-555555555555".try_into().unwrap();
    index.note(Change::Pod { facts: Box::new(waiting), addresses: Vec::new() });
    assert!(compile(&mut index).is_empty());
}

#[test]
fn a_pod_that_is_gone_is_told_to_its_node_once() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.touched();
    index.note(Change::PodGone(uids[0].clone()));
    let web = ProfileKey { namespace: "shop".into(), name: "web".into() };
    assert_eq!(index.touched(), BTreeSet::from([web]), "its profile serves one pod less");
    index.note(Change::PodGone(uids[0].clone()));
    let gone = Update { pod: uids[0].clone(), node: "n1".into(), entry: None };
    assert_eq!(compile(&mut index), [gone]);
    assert!(compile(&mut index).is_empty() && compiled_for(&index, &uids[0]).is_none());
}

#[test]
fn nothing_is_kept_of_a_namespace_and_a_node_that_are_gone() {
    let (mut index, uids) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.note(Change::PodGone(uids[0].clone()));
    index.note(Change::NamespaceGone("shop".into()));
    index.note(Change::ProfileGone { namespace: "shop".into(), name: "web".into() });
    index.note(Change::NodeGone("n1".into()));
    compile(&mut index);
    assert!(index.namespaces.is_empty() && index.nodes.is_empty() && index.pods.is_empty());
    assert!(index.concerned.is_empty());
}

#[test]
fn a_taint_without_a_time_is_as_old_as_when_it_was_seen_first() {
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
    index.note(Change::Node(node(10)));
    compile(&mut index);
    index.note(Change::Node(node(20)));
    assert!(index.dirty.is_empty(), "a heartbeat of a tainted node touches no pod");
    assert_eq!(index.nodes["n1"].facts.as_ref().unwrap().spec.taints[0].time_added.as_second(), 10);
}
