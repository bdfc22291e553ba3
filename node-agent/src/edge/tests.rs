use podmeta_metadata::compile::{DenialReason, Denied};
use podmeta_metadata::session::KeyBytes;
use podmeta_metadata::workload::PodRef;

use super::*;
use crate::broker::OperatorBroker;
use crate::operator_client::{OperatorClient, OperatorEndpoint};

fn edge() -> Arc<Edge> {
    let url = "https://operator".parse().unwrap();
    let endpoint = OperatorEndpoint { url, ca: "/none".into(), token: "/none".into() };
    let broker = Broker::Operator(OperatorBroker::new(OperatorClient::new(endpoint), Default::default()));
    let keys = Keyring::new(KeyBytes::new([1; 32]), Timestamp::UNIX_EPOCH);
    Edge::new(keys, broker, Arc::new(|| Timestamp::UNIX_EPOCH))
}

fn denied(name: &str, reason: &str) -> (PodUid, PodView) {
    let uid = PodUid::try_from(name).unwrap();
    let pod = PodRef { namespace: "shop".into(), name: name.into(), uid: uid.clone() };
    (uid, PodView::Denied(Denied { pod, reason: DenialReason::without_profile(reason) }))
}

#[test]
fn publish_keeps_a_pod_whose_view_is_the_same_and_removes_missing_pods() {
    let edge = edge();
    edge.publish([denied("a", "one"), denied("b", "one"), denied("c", "one")]);
    let pods = ["a", "b"].map(|name| edge.pod(&name.try_into().unwrap()).unwrap());
    edge.publish([denied("a", "one"), denied("b", "two")]);
    assert!(Arc::ptr_eq(&pods[0], &edge.pod(&"a".try_into().unwrap()).unwrap()));
    assert!(!Arc::ptr_eq(&pods[1], &edge.pod(&"b".try_into().unwrap()).unwrap()));
    assert!(edge.pod(&"c".try_into().unwrap()).is_none());
}

#[test]
fn update_keeps_pods_that_are_not_named() {
    let edge = edge();
    edge.publish([denied("a", "one"), denied("b", "one"), denied("c", "one")]);
    let unchanged = edge.pod(&"a".try_into().unwrap()).unwrap();
    let (b, two) = denied("b", "two");
    edge.update([(b.clone(), Some(two.clone())), ("c".try_into().unwrap(), None)]);
    assert!(Arc::ptr_eq(&unchanged, &edge.pod(&"a".try_into().unwrap()).unwrap()));
    assert_eq!(*edge.pod(&b).unwrap().view(), two);
    assert!(edge.pod(&"c".try_into().unwrap()).is_none());
}

#[test]
fn changed_pod_keeps_its_limits_in_use() {
    let edge = edge();
    let (uid, one) = denied("a", "one");
    edge.publish([(uid.clone(), one)]);
    let now = tokio::time::Instant::now();
    let _permit = edge.pod(&uid).unwrap().connections.open(1, now).unwrap();
    edge.update([denied("a", "two")].map(|(uid, view)| (uid, Some(view))));
    assert!(edge.pod(&uid).unwrap().connections.open(1, now).is_err());
}
