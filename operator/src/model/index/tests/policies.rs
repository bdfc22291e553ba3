//! Policies: the pods that they affect, and invalid ones.

use super::*;

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
