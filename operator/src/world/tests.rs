use jiff::Timestamp;
use podmeta_agent_api::calls::{Credentials, Generation, PodInDialect, Reported};
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::LastValid;
use podmeta_crds::objects::{File, load};
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::finding::FindingReason;
use podmeta_metadata::profile::Profile;
use zeroize::Zeroizing;

use super::*;
use crate::broker::{self, Refusal};
use crate::profile::{Invalid, Valid};

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

/// A profile for `app=web`, of a generation.
fn profile(name: &str, generation: i64, more: &str) -> ProfileObject {
    let text = format!(
        "apiVersion: podmeta.dev/v1alpha1\nkind: MetadataProfile\nmetadata: {{namespace: shop, name: {name}, generation: {generation}}}\n\
         spec: {{dialects: [ec2], podSelector: {{matchLabels: {{app: web}}}}{more}}}\n"
    );
    let (objects, problems) = load(&[File { name: "p.yaml".into(), text }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let profile = objects.profiles[0].clone();
    let written = LastValid { generation, spec: "{}".into() };
    ProfileObject { reference: profile.object.clone(), spec: Ok(Valid { profile, written }), status: None }
}

fn invalid(name: &str, generation: i64) -> ProfileObject {
    let valid = profile(name, generation, "");
    let shut = valid.spec.ok().map(|valid| Profile { dialects: BTreeSet::new(), ..valid.profile });
    let errors = vec![FieldError { field: "spec.metadata[0].expression".into(), message: "is no CEL".into() }];
    ProfileObject { spec: Err(Invalid { errors, last_valid: None, shut }), ..profile(name, generation, "") }
}

fn world() -> World {
    let (objects, problems) = load(&[File { name: "o.yaml".into(), text: OBJECTS.into() }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let mut world = World::new(Settings::default(), "e1".parse().unwrap());
    for pod in objects.pods {
        world.note(Input::Index(Change::Namespace(pod.facts.namespace)));
        world.note(Input::Index(Change::Node(pod.facts.node.unwrap())));
        let addresses = vec!["10.0.0.7".parse().unwrap()];
        world.note(Input::Index(Change::Pod { facts: Box::new(pod.facts.pod), addresses }));
    }
    world
}

fn note(world: &mut World, input: Input) {
    world.note(input);
    let compiled = world.compile(usize::MAX);
    world.take(compiled);
}

fn uid() -> PodUid {
    "u1".try_into().unwrap()
}

fn key(name: &str) -> ProfileKey {
    ProfileKey { namespace: "shop".into(), name: name.into() }
}

fn dialects(world: &World) -> Option<(bool, bool)> {
    match &world.pod_on("n1", &uid())?.item.outcome {
        Outcome::Served(workload) => {
            Some((workload.part(Dialect::Ec2).is_some(), workload.part(Dialect::Ecs).is_some()))
        }
        Outcome::Denied(_) | Outcome::Node(_) => None,
    }
}

fn report(profile: &ProfileRef, generation: i64) -> Report {
    let profile = Some(Generation { uid: profile.uid.clone(), generation });
    Report { pods: BTreeMap::from([(uid(), Reported { profile, ..Reported::default() })]) }
}

#[test]
fn a_pod_is_known_on_its_own_node_alone() {
    let mut world = world();
    note(&mut world, Input::Profile(Box::new(profile("web", 1, ""))));
    assert!(world.pod_on("n1", &uid()).is_some());
    assert!(world.pod_on("n2", &uid()).is_none());
    note(&mut world, Input::Index(Change::PodGone(uid())));
    assert!(world.pod_on("n1", &uid()).is_none());
}

#[test]
fn an_edit_that_is_wrong_takes_nothing_away_and_is_told() {
    let mut world = world();
    note(&mut world, Input::Profile(Box::new(profile("web", 1, ""))));
    note(&mut world, Input::Profile(Box::new(invalid("web", 2))));
    assert_eq!(dialects(&world), Some((true, false)));
    let (reference, _, observed) = world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((reference.generation, observed.generation, observed.invalid.len()), (2, 2, 1));
    assert_eq!(observed.pods.len(), 1);
    note(&mut world, Input::Profile(Box::new(profile("web", 3, ", priority: 3"))));
    assert!(world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2.invalid.is_empty());
}

/// A wrong generation of `web`, and a valid one that the status has, which is about this generation.
fn wrong(generation: i64, last_valid: i64, observed_generation: i64) -> Input {
    let mut wrong = invalid("web", generation);
    let valid = profile("web", last_valid, "").spec.unwrap();
    let last_valid = Some(valid.written.clone());
    let observed_generation = Some(observed_generation);
    wrong.status = Some(MetadataProfileStatus { observed_generation, last_valid, ..Default::default() });
    if let Err(invalid) = &mut wrong.spec {
        invalid.last_valid = Some(valid);
    }
    Input::Profile(Box::new(wrong))
}

fn last_valid(world: &World) -> Option<i64> {
    let observed = world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    observed.last_valid.map(|last| last.generation)
}

#[test]
fn a_replica_that_starts_after_a_wrong_edit_serves_what_the_status_has() {
    let mut world = world();
    note(&mut world, wrong(4, 2, 4));
    assert_eq!((dialects(&world), last_valid(&world)), (Some((true, false)), Some(2)));
}

#[test]
fn a_replica_serves_the_newest_valid_generation_it_saw_until_the_leader_has_said_which() {
    let mut world = world();
    note(&mut world, Input::Profile(Box::new(profile("web", 5, ""))));
    note(&mut world, wrong(6, 2, 4));
    assert_eq!(last_valid(&world), Some(5), "nobody has said anything of the sixth");
    note(&mut world, wrong(6, 2, 6));
    assert_eq!(last_valid(&world), Some(2), "the leader never saw the fifth");
}

#[test]
fn a_last_valid_generation_that_this_version_cannot_read_stays_in_the_status() {
    let mut world = world();
    let mut unreadable = invalid("web", 3);
    let last_valid = Some(LastValid { generation: 2, spec: "of another version".into() });
    unreadable.status = Some(MetadataProfileStatus { last_valid: last_valid.clone(), ..Default::default() });
    note(&mut world, Input::Profile(Box::new(unreadable)));
    let observed = world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert_eq!((observed.last_valid, observed.held), (last_valid, false));
}

#[test]
fn a_profile_that_never_was_valid_shuts_its_pods_and_lets_no_other_have_them() {
    let mut world = world();
    note(&mut world, Input::Profile(Box::new(profile("low", 1, ", priority: -1"))));
    note(&mut world, Input::Profile(Box::new(invalid("web", 1))));
    assert_eq!(dialects(&world), Some((false, false)));
    note(&mut world, Input::ProfileGone(key("web")));
    assert_eq!(dialects(&world), Some((true, false)));
    assert!(world.observe(&key("web"), Timestamp::UNIX_EPOCH).is_none());
}

#[test]
fn a_pod_is_programmed_when_its_node_s_agent_says_so_for_that_generation() {
    let mut world = world();
    let profile = profile("web", 2, "");
    let reference = profile.reference.clone();
    note(&mut world, Input::Profile(Box::new(profile)));
    let observed = |world: &World| world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert!(observed(&world).unreported && !observed(&world).pods[0].programmed);
    world.touched();
    world.report("n2", report(&reference, 2));
    assert!(observed(&world).unreported, "another node's agent has no say");
    world.report("n1", report(&ProfileRef { uid: "another".into(), ..reference.clone() }, 2));
    assert!(!observed(&world).pods[0].programmed, "a profile of the same name that is gone");
    world.report("n1", report(&reference, 1));
    assert!(!observed(&world).unreported && !observed(&world).pods[0].programmed, "an older generation");
    world.report("n1", report(&reference, 2));
    assert!(observed(&world).pods[0].programmed);
    assert_eq!(world.touched(), BTreeSet::from([key("web")]));
    world.report("n1", report(&reference, 2));
    assert!(world.touched().is_empty(), "the same again is nothing new");
}

#[test]
fn a_secret_that_is_not_there_is_told_at_the_role_that_names_it() {
    let mut world = world();
    let secret = Source::Secret { namespace: "shop".into(), name: "keys".into() };
    let user_data = ", userData: {secretKeyRef: {name: keys, key: boot}}";
    note(&mut world, Input::Profile(Box::new(profile("web", 1, user_data))));
    assert_eq!(world.sources().into_keys().next(), Some(secret.clone()), "user data names it too");
    let spec = format!(", roles: [{{name: r, dialect: ec2, secret: {{name: keys}}}}]{user_data}");
    note(&mut world, Input::Profile(Box::new(profile("web", 1, &spec))));
    assert_eq!(world.sources().into_keys().next(), Some(secret.clone()));
    assert!(
        world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2.bad_secrets.is_empty(),
        "it was not looked for yet"
    );
    let told = |data| Input::Secret { namespace: "shop".into(), name: "keys".into(), data };
    world.touched();
    assert_eq!(world.secret("shop", "keys"), Err(NoSecret::Unread));
    note(&mut world, told(None));
    assert_eq!(world.secret("shop", "keys"), Err(NoSecret::Missing));
    assert_eq!(world.touched(), BTreeSet::from([key("web")]));
    let observed = world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert_eq!(
        observed.bad_secrets[0].to_string(),
        "spec.roles[dialect=ec2].secret.name: there is no Secret shop/keys"
    );
    assert_eq!(observed.findings[0].reason, FindingReason::UserDataUnavailable);
    let data = |keys: &[&str]| {
        let value = |key: &&str| ((*key).to_owned(), Zeroizing::new(b"x".to_vec()));
        Some(keys.iter().map(value).collect::<SecretData>())
    };
    note(&mut world, told(data(&["boot"])));
    let observed = world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert!(observed.findings.is_empty());
    assert!(observed.bad_secrets[0].message.contains("accessKeyId is missing"), "{:?}", observed.bad_secrets);
    note(&mut world, told(data(&["boot", "accessKeyId", "secretAccessKey"])));
    assert!(world.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2.bad_secrets.is_empty());
    world.forget(&secret, &BTreeSet::new());
    assert_eq!(world.secret("shop", "keys"), Err(NoSecret::Unread));
}

#[test]
fn a_secret_that_was_not_read_yet_is_no_reason_to_take_credentials_away() {
    let mut world = world();
    let role = ", roles: [{name: r, dialect: ec2, secret: {name: keys}}]";
    note(&mut world, Input::Profile(Box::new(profile("web", 1, role))));
    let asked = PodInDialect { pod: uid(), dialect: Dialect::Ec2, profile: None };
    let answer = |world: &World| {
        let entry = world.pod_on("n1", &uid()).unwrap();
        broker::credentials(world, entry, &asked, Timestamp::UNIX_EPOCH)
    };
    assert_eq!(answer(&world), Err(Refusal::Behind), "the agent asks again, and serves what it has");
    note(&mut world, Input::Secret { namespace: "shop".into(), name: "keys".into(), data: None });
    assert!(matches!(answer(&world), Ok(Credentials::Failed(why)) if why.message == "Secret shop/keys does not exist"));
}

#[test]
fn user_data_is_of_the_key_that_the_agent_knows_or_none() {
    let mut world = world();
    let user_data = ", userData: {secretKeyRef: {name: keys, key: new}}";
    note(&mut world, Input::Profile(Box::new(profile("web", 1, user_data))));
    let data = [("old", "o"), ("new", "n")].map(|(key, text)| (key.to_owned(), Zeroizing::new(text.into())));
    note(&mut world, Input::Secret { namespace: "shop".into(), name: "keys".into(), data: Some(data.into()) });
    let answer = |key: &str| {
        let key = KeyRef { name: "keys".into(), key: key.into() };
        broker::user_data(&world, world.pod_on("n1", &uid()).unwrap(), &key)
    };
    assert_eq!(answer("new").unwrap().data.expose(), "bg==");
    assert_eq!(answer("old"), Err(Refusal::Behind));
}

#[test]
fn pods_that_outlive_their_node_object_are_served_until_they_go() {
    let mut world = world();
    note(&mut world, Input::Profile(Box::new(profile("web", 1, ""))));
    world.report("n1", Report::default());
    note(&mut world, Input::Index(Change::NodeGone("n1".into())));
    let list = world.feed().list("n1");
    assert_eq!(list.items.len(), 1);
    note(&mut world, Input::Index(Change::PodGone(uid())));
    assert!(world.feed().since("n1", &list.resource_version, 1).is_err(), "an agent on a new node of its name lists");
    assert!(world.feed().list("n1").items.is_empty() && world.reports.is_empty() && world.gone.is_empty());
}
