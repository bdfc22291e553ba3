//! Batches of compilations, and changes while one runs.

use super::*;

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
