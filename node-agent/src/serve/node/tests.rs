use jiff::Timestamp;
use podmeta_metadata::compile::{DenialReason, Denied, PodView};
use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::role::Provider;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::session::{KeyBytes, Keyring};
use podmeta_metadata::signature::SignedDocument;

use super::*;
use crate::broker::Broker;
use crate::broker::operator::{Given, Of};
use crate::serve::client::{Client, Place};

fn uid(name: &str) -> PodUid {
    name.try_into().unwrap()
}

fn item(name: &str, why: &str) -> WorkloadItem {
    let pod = PodRef { namespace: "shop".into(), name: name.into(), uid: uid(name) };
    WorkloadItem {
        outcome: Outcome::Denied(Denied { pod, reason: DenialReason::without_profile(why) }),
        addresses: Vec::new(),
    }
}

fn event(number: u64, change: WatchChange) -> WatchEvent {
    WatchEvent { resource_version: format!("e1:{number}").parse().unwrap(), change }
}

fn saved(pods: &[&str]) -> Saved {
    let of = |pod: &&str| Of { pod: uid(pod), dialect: Dialect::Ec2, value: given() };
    let signed = || SignedDocument { document: "{}".into(), signature: "s".into(), pkcs7: "p".into() };
    let document = |pod: &&str| Of { pod: uid(pod), dialect: Dialect::Ec2, value: signed() };
    Saved { credentials: pods.iter().map(of).collect(), documents: pods.iter().map(document).collect() }
}

fn given() -> Given {
    let role = Role { name: "r".to_owned().try_into().unwrap(), provider: Provider::Secret { name: "keys".into() } };
    let credentials = Credentials {
        access_key_id: "AKIA".into(),
        secret_access_key: SecretString::new("hunter2".into()),
        session_token: SecretString::new(String::new()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::MAX,
    };
    Given { role, credentials }
}

fn node(state: State) -> Arc<Node> {
    let nowhere = Place { url: "https://operator".parse().unwrap(), ca: "/none".into(), token: "/none".into() };
    let State { resource_version, items, kept } = state;
    let broker = Operator::new(Client::new(nowhere), kept);
    let keys = Keyring::new(KeyBytes::new([1; 32]), Timestamp::UNIX_EPOCH);
    let edge = Edge::new(keys, Broker::Operator(Arc::clone(&broker)), Arc::new(|| Timestamp::UNIX_EPOCH));
    Node::new(edge, broker, State { resource_version, items, kept: Saved::default() })
}

fn list(number: u64, items: Vec<WorkloadItem>) -> WorkloadList {
    WorkloadList { resource_version: format!("e1:{number}").parse().unwrap(), items }
}

fn served(node: &Node) -> Vec<&'static str> {
    ["a", "b", "c"].into_iter().filter(|name| node.edge.pod(&uid(name)).is_some()).collect()
}

#[test]
fn a_list_is_all_there_is_and_changes_are_taken_in_order() {
    let node = node(State::default());
    node.list(list(3, vec![item("a", "one"), item("b", "one")]));
    assert_eq!(served(&node), ["a", "b"]);
    node.take(vec![
        event(4, WatchChange::Added { object: Box::new(item("c", "one")) }),
        event(5, WatchChange::Deleted { uid: uid("a") }),
        event(6, WatchChange::Modified { object: Box::new(item("b", "two")) }),
        event(7, WatchChange::Bookmark),
    ]);
    assert_eq!(served(&node), ["b", "c"]);
    assert_eq!(node.version().unwrap().to_string(), "e1:7");
    let edge = node.edge.pod(&uid("b")).unwrap();
    assert!(matches!(edge.view(), PodView::Denied(denied) if denied.reason.message == "two"));
    node.list(list(9, vec![item("c", "one")]));
    assert_eq!(served(&node), ["c"]);
}

#[test]
fn what_is_served_stays_while_everything_is_listed_again() {
    let node = node(State::default());
    node.list(list(3, vec![item("a", "one")]));
    node.list_again();
    assert_eq!((served(&node), node.version()), (vec!["a"], None));
}

#[test]
fn a_bookmark_moves_the_version_and_publishes_nothing() {
    let node = node(State::default());
    node.list(list(3, vec![item("a", "one")]));
    let changes = node.changes();
    node.take(vec![event(4, WatchChange::Bookmark)]);
    assert_eq!(node.version().unwrap().to_string(), "e1:4");
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn credentials_and_documents_go_with_their_pod() {
    let state = State { resource_version: None, items: vec![item("a", "one")], kept: saved(&["a", "b"]) };
    let node = node(state);
    let asked = node.broker.outcomes();
    assert_eq!(asked[&uid("a")][&Dialect::Ec2], None, "after a restart it is still known that there were some");
    node.list(list(3, vec![item("a", "one")]));
    assert_eq!(node.state().kept, saved(&["a"]));
    node.take(vec![event(4, WatchChange::Deleted { uid: uid("a") })]);
    assert_eq!(node.state().kept, Saved::default());
}

#[test]
fn the_state_is_read_as_it_was_written_by_its_owner_alone_and_what_is_no_state_is_none() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = std::env::temp_dir().join(format!("podmeta-state-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = StateFile::of(&folder);
    assert!(file.read().unwrap().is_none());
    let state = State { resource_version: None, items: Vec::new(), kept: saved(&["a"]) };
    let node = node(state);
    node.list(list(3, vec![item("a", "one")]));
    let state = State { kept: saved(&["a"]), ..node.state() };
    file.write(&state).unwrap();
    assert_eq!(fs::metadata(&*file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let again = file.read().unwrap().unwrap();
    assert_eq!((again.items, again.resource_version), (state.items, state.resource_version));
    assert_eq!(again.kept, state.kept);
    fs::write(&*file.path(), "{").unwrap();
    assert!(file.read().unwrap().is_none());
    fs::remove_dir_all(&folder).unwrap();
}
