mod host_network;
mod last_valid;
mod mirror_pods;
mod secrets;

use std::collections::BTreeMap;

use jiff::Timestamp;
use podmeta_agent_api::WatchChange;
use podmeta_agent_api::calls::{CredentialsRequest, CredentialsResponse, PodReport, ProfileGeneration};
use podmeta_crds::field::FieldError;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_crds::metadataprofile::LastValid;
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::credentials::{FailureCause, not_usable};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::facts::PodFacts;
use podmeta_metadata::finding::FindingReason;
use podmeta_metadata::node_finding::NodeFindingKind;
use podmeta_metadata::policy::{Glob, Policy};
use podmeta_metadata::profile::{HostNetwork, KeyRef, Profile};
use podmeta_metadata::role::ProviderKind;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::reports::MAX_REPORT_MESSAGE_LENGTH;
use super::*;
use crate::agents::broker::{self, BrokerError, RoleSource};
use crate::credentials::request::CloudRole;
use crate::model::index::SecretUnavailable;
use crate::model::profile::{InvalidSpec, ProfileObject, ValidSpec};
use crate::model::status::ObservedProfile;
use crate::model::update::{PolicyObject, SecretScope};

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, uid: u1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: 'i:1'}]}
";

/// Returns a profile for pods with the label `app=web`. `more` is YAML text at the end of its spec.
fn profile(name: &str, generation: i64, more: &str) -> ProfileObject {
    let text = format!(
        "apiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {{namespace: shop, name: {name}, generation: {generation}}}\n\
         spec: {{dialects: [ec2], podSelector: {{matchLabels: {{app: web}}}}{more}}}\n"
    );
    let (objects, problems) = load(&[ManifestFile { name: "p.yaml".into(), text }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let profile = objects.profiles[0].clone();
    let written = LastValid { generation, spec: "{}".into() };
    ProfileObject {
        reference: profile.object.clone(),
        spec: Ok(ValidSpec { profile: profile.into(), written }),
        status: None,
    }
}

/// Returns a profile whose spec is invalid, and that has no last valid generation.
fn invalid(name: &str, generation: i64) -> ProfileObject {
    let valid = profile(name, generation, "");
    let deny_all =
        valid.spec.ok().map(|valid| Profile { dialects: BTreeSet::new(), ..(*valid.profile).clone() }.into());
    let errors = vec![FieldError { field: "spec.metadata[0].expression".into(), message: "is not valid CEL".into() }];
    ProfileObject { spec: Err(InvalidSpec { errors, last_valid: None, deny_all }), ..profile(name, generation, "") }
}

fn new_state() -> OperatorState {
    let (objects, problems) =
        load(&[ManifestFile { name: "o.yaml".into(), text: OBJECTS.into() }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let mut state = OperatorState::new(Settings::default(), "e1".parse().unwrap());
    for pod in objects.pods {
        state.apply(StateUpdate::Namespace(pod.facts.namespace));
        state.apply(StateUpdate::Node {
            facts: pod.facts.node.unwrap(),
            incarnation: crate::model::node_guard::NodeIncarnation::default(),
            guarded: None,
        });
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        state.apply(StateUpdate::Pod { facts: Box::new(pod.facts.pod), addresses });
    }
    state
}

/// Returns the facts of pod `web`.
fn new_pod_facts() -> PodFacts {
    let (mut objects, _) = load(&[ManifestFile { name: "o.yaml".into(), text: OBJECTS.into() }], Timestamp::UNIX_EPOCH);
    objects.pods.remove(0).facts.pod
}

/// Applies an update and compiles the pods that it affects.
fn apply(state: &mut OperatorState, update: StateUpdate) {
    state.apply(update);
    let batch = state.take_batch(usize::MAX);
    state.apply_compiled(&batch, batch.compile(|| false));
}

fn uid() -> PodUid {
    "u1".try_into().unwrap()
}

fn key(name: &str) -> ProfileKey {
    ProfileKey { namespace: "shop".into(), name: name.into() }
}

/// Returns true for each of EC2 and ECS that pod `web` is served in, or `None` if it is not served.
fn dialects(state: &OperatorState) -> Option<(bool, bool)> {
    match &state.pod_on_node("n1", &uid())?.item.outcome {
        Outcome::Served(workload) => {
            Some((workload.part(Dialect::Ec2).is_some(), workload.part(Dialect::Ecs).is_some()))
        }
        Outcome::Denied(_) | Outcome::Node(_) => None,
    }
}

/// Applies a report. Returns true if the state recorded it.
fn report(state: &mut OperatorState, node: &str, report: Report) -> bool {
    let (recorded_tx, mut recorded) = oneshot::channel();
    state.apply(StateUpdate::Report { node: node.into(), report, received: Instant::now(), recorded: recorded_tx });
    recorded.try_recv().unwrap()
}

/// Returns the report of an agent that holds pod `web` with this generation of a profile.
fn report_of(profile: &ProfileRef, generation: i64) -> Report {
    let profile = Some(ProfileGeneration { uid: profile.uid.clone(), generation });
    let pods = BTreeMap::from([(uid(), PodReport { profile, linked: Some(true), ..PodReport::default() })]);
    Report { pods, ..Report::default() }
}

fn observe_web(state: &OperatorState) -> ObservedProfile {
    state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2
}

#[test]
fn pod_is_found_only_on_its_own_node() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    assert!(state.pod_on_node("n1", &uid()).is_some());
    assert!(state.pod_on_node("n2", &uid()).is_none());
    apply(&mut state, StateUpdate::PodDeleted(uid()));
    assert!(state.pod_on_node("n1", &uid()).is_none());
}

#[test]
fn pod_is_programmed_after_a_report_of_its_generation() {
    let mut state = new_state();
    state.apply(StateUpdate::Leadership(true));
    let profile = profile("web", 2, "");
    let reference = profile.reference.clone();
    apply(&mut state, StateUpdate::Profile(Box::new(profile)));
    let observed = |state: &OperatorState| state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert!(observed(&state).has_unreported_nodes && !observed(&state).pods[0].is_programmed);
    state.take_changed_profiles();
    report(&mut state, "n2", report_of(&reference, 2));
    assert!(observed(&state).has_unreported_nodes, "the report of another node does not count");
    report(&mut state, "n1", report_of(&ProfileRef { uid: "another".into(), ..reference.clone() }, 2));
    assert!(!observed(&state).pods[0].is_programmed, "a deleted profile with the same name");
    report(&mut state, "n1", report_of(&reference, 1));
    assert!(!observed(&state).has_unreported_nodes && !observed(&state).pods[0].is_programmed, "an older generation");
    report(&mut state, "n1", report_of(&reference, 2));
    assert!(observed(&state).pods[0].is_programmed);
    assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]));
    report(&mut state, "n1", report_of(&reference, 2));
    assert!(state.take_changed_profiles().is_empty(), "an unchanged report changes nothing");
}

#[test]
fn pod_whose_agent_reports_no_link_is_not_programmed() {
    let mut state = new_state();
    state.apply(StateUpdate::Leadership(true));
    let profile = profile("web", 2, "");
    let linked = report_of(&profile.reference, 2);
    let mut unlinked = linked.clone();
    unlinked.pods.values_mut().for_each(|pod| pod.linked = Some(false));
    let mut older = linked.clone();
    older.pods.values_mut().for_each(|pod| pod.linked = None);
    apply(&mut state, StateUpdate::Profile(Box::new(profile)));
    for (sent, is_programmed) in [(linked.clone(), true), (unlinked, false), (linked, true), (older, true)] {
        state.take_changed_profiles();
        report(&mut state, "n1", sent);
        assert_eq!(observe_web(&state).pods[0].is_programmed, is_programmed);
        assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]), "the status is checked again");
    }
}

#[test]
fn pod_that_is_not_compiled_for_the_generation_in_effect_is_not_programmed() {
    let mut state = new_state();
    state.apply(StateUpdate::Leadership(true));
    let old = profile("web", 2, "");
    let reference = old.reference.clone();
    apply(&mut state, StateUpdate::Profile(Box::new(old)));
    report(&mut state, "n1", report_of(&reference, 2));
    state.apply(StateUpdate::Profile(Box::new(profile("web", 3, ""))));
    assert!(!state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2.pods[0].is_programmed);
}

/// End of a spec with a role and user data that use the Secret `keys`.
const ROLE_AND_USER_DATA: &str =
    ", roles: [{name: r, dialect: ec2, secret: {name: keys}}], userData: {secretKeyRef: {name: keys, key: boot}}";

#[test]
fn pods_of_a_deleted_node_are_withdrawn() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    state.apply(StateUpdate::Leadership(true));
    assert!(report(&mut state, "n1", Report::default()));
    let list = state.feed().list("n1");
    assert_eq!(list.items.len(), 1);
    apply(&mut state, StateUpdate::NodeDeleted("n1".into()));
    assert!(
        state.feed().since("n1", &list.resource_version, 1).is_err(),
        "an agent on a new node with the same name must list again"
    );
    assert!(state.feed().list("n1").items.is_empty() && state.reports.is_empty() && state.deleted_nodes.is_empty());
    assert_eq!(state.index().pods_of_profile(&key("web")).count(), 0);
}

#[test]
fn report_is_recorded_only_while_this_replica_is_the_leader() {
    let mut state = new_state();
    assert!(!report(&mut state, "n1", Report::default()));
    state.apply(StateUpdate::Leadership(true));
    assert!(report(&mut state, "n1", Report::default()));
    assert_eq!(state.reports.len(), 1);
    state.apply(StateUpdate::Leadership(false));
    assert!(!report(&mut state, "n1", Report::default()), "a report after leadership was lost");
    assert!(state.reports.is_empty());
}

#[test]
fn findings_of_a_node_are_removed_by_its_next_report_its_deletion_or_the_loss_of_leadership() {
    let found = || {
        let findings = NodeFindings::from([(NodeFindingKind::Kernel, "x".repeat(2 * MAX_REPORT_MESSAGE_LENGTH))]);
        Report { findings, ..Report::default() }
    };
    let mut state = new_state();
    assert!(!report(&mut state, "n1", found()) && state.node_findings().is_empty());
    state.apply(StateUpdate::Leadership(true));
    report(&mut state, "n1", found());
    let message = &state.node_findings()["n1"][&NodeFindingKind::Kernel];
    assert_eq!(message.len(), MAX_REPORT_MESSAGE_LENGTH, "a long message is cut");
    report(&mut state, "n1", Report::default());
    assert!(state.node_findings().is_empty());
    report(&mut state, "n1", found());
    apply(&mut state, StateUpdate::NodeDeleted("n1".into()));
    assert!(state.node_findings().is_empty());
    report(&mut state, "n2", found());
    state.apply(StateUpdate::Leadership(false));
    assert!(state.node_findings().is_empty());
}

#[test]
fn reported_message_is_cut_and_has_no_control_characters() {
    let mut state = new_state();
    state.apply(StateUpdate::Leadership(true));
    let message = format!("a\n{}", "x".repeat(2 * MAX_REPORT_MESSAGE_LENGTH));
    let credentials = BTreeMap::from([(Dialect::Ec2, Some(message))]);
    let pods = BTreeMap::from([(uid(), PodReport { credentials, ..PodReport::default() })]);
    report(&mut state, "n1", Report { pods, ..Report::default() });
    let message = state.reports["n1"].pods[&uid()].credentials[&Dialect::Ec2].as_deref().unwrap();
    assert!(message.starts_with("a xx") && message.len() == MAX_REPORT_MESSAGE_LENGTH, "{message}");
}

#[test]
fn new_leader_checks_all_profiles() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    state.take_changed_profiles();
    state.apply(StateUpdate::Leadership(true));
    assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]));
}

#[test]
fn written_status_is_the_previous_status_unless_the_profile_was_replaced() {
    let mut state = new_state();
    let profile = profile("web", 1, "");
    let reference = profile.reference.clone();
    apply(&mut state, StateUpdate::Profile(Box::new(profile)));
    let mut write = |uid: &str, generation| {
        let status = MetadataProfileStatus { observed_generation: Some(generation), ..Default::default() };
        let profile = ProfileRef { uid: uid.into(), ..reference.clone() };
        let (applied, _applied) = oneshot::channel();
        state.apply(StateUpdate::StatusWritten { profile, status, applied });
        let (_, status, _) = state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap();
        status.and_then(|status| status.observed_generation)
    };
    assert_eq!(write(&reference.uid, 1), Some(1));
    assert_eq!(write("another", 2), Some(1));
}
