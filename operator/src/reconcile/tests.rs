use podmeta_agent_api::calls::Report;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::credentials::SecretData;
use tokio::sync::oneshot;

use super::*;
use crate::model::index::SecretUnavailable;

const NOISY: &str = "noisy";

/// The number of pods of the namespace `noisy`: more than one batch.
const NOISY_PODS: usize = COMPILE_BATCH_SIZE + 200;

fn reconciler() -> Reconciler {
    let state = OperatorState::new(Settings::default(), "e1".parse().unwrap());
    let mut reconciler = Reconciler::new(state, Metrics::default());
    reconciler.reconcile(WatchedKind::ALL.map(StateUpdate::ListComplete).into(), Instant::now());
    reconciler
}

#[test]
fn state_is_synced_after_all_kinds_are_listed() {
    let state = OperatorState::new(Settings::default(), "e1".parse().unwrap());
    let mut reconciler = Reconciler::new(state, Metrics::default());
    let (synced, references) = (reconciler.shared.synced(), reconciler.shared.references());
    for kind in WatchedKind::ALL {
        assert!(!*synced.borrow());
        assert_eq!(references.borrow().is_some(), kind > WatchedKind::Profiles);
        reconciler.reconcile(vec![StateUpdate::ListComplete(kind)], Instant::now());
    }
    assert!(*synced.borrow());
}

/// The channel keeps the order: the Secret was read before it was deleted.
#[test]
fn queued_secret_does_not_come_back_after_it_was_deleted() {
    let mut reconciler = reconciler();
    let secret = |data| StateUpdate::Secret { namespace: "shop".to_owned(), name: "keys".to_owned(), data };
    reconciler.reconcile(vec![secret(Some(SecretData::default())), secret(None)], Instant::now());
    assert_eq!(reconciler.shared.read().index().secret("shop", "keys"), Err(SecretUnavailable::NotUsable));
}

/// Returns a task that has all objects of the fixture and the namespace `noisy`, but no complete list.
fn reconciler_with_noisy_namespace() -> Reconciler {
    let mut reconciler = fixture::empty_reconciler();
    let mut updates = fixture::updates();
    let pods = updates.iter().find_map(|update| match update {
        StateUpdate::Pod { facts, addresses } => Some((facts.clone(), addresses.clone())),
        _ => None,
    });
    let (facts, addresses) = pods.unwrap();
    let namespace = updates.iter().find_map(|update| match update {
        StateUpdate::Namespace(facts) => Some(facts.clone()),
        _ => None,
    });
    let mut namespace = namespace.unwrap();
    namespace.metadata.name = NOISY.to_owned();
    updates.push(StateUpdate::Namespace(namespace));
    for index in 0..NOISY_PODS {
        let mut facts = facts.clone();
        facts.metadata.namespace = NOISY.to_owned();
        facts.metadata.uid = format!("noisy-{index}").try_into().unwrap();
        updates.push(StateUpdate::Pod { facts, addresses: addresses.clone() });
    }
    reconciler.reconcile(updates, Instant::now());
    reconciler
}

/// Returns an update of the profile that selects all pods of the namespace `noisy`.
fn edit_noisy_profile(generation: i64) -> StateUpdate {
    let profile = fixture::updates().into_iter().find_map(|update| match update {
        StateUpdate::Profile(object) => Some(object),
        _ => None,
    });
    let mut object = profile.unwrap();
    object.reference.namespace = NOISY.to_owned();
    object.reference.generation = generation;
    let spec = object.spec.as_mut().unwrap();
    Arc::make_mut(&mut spec.profile).object = object.reference.clone();
    StateUpdate::Profile(object)
}

#[test]
fn profile_that_changes_all_the_time_does_not_delay_the_initial_sync() {
    let mut reconciler = reconciler_with_noisy_namespace();
    let synced = reconciler.shared.synced();
    reconciler.reconcile(WatchedKind::ALL.map(StateUpdate::ListComplete).into(), Instant::now());
    assert!(!*synced.borrow(), "more pods than one batch");
    for generation in 1..100 {
        reconciler.reconcile(vec![edit_noisy_profile(generation)], Instant::now());
        assert!(reconciler.has_pending_pods());
        if *synced.borrow() {
            return;
        }
    }
    panic!("not synced");
}

#[test]
fn pod_that_is_deleted_before_it_is_compiled_does_not_delay_the_initial_sync() {
    let mut reconciler = reconciler_with_noisy_namespace();
    let synced = reconciler.shared.synced();
    reconciler.reconcile(WatchedKind::ALL.map(StateUpdate::ListComplete).into(), Instant::now());
    assert!(!*synced.borrow());
    let deleted = (0..NOISY_PODS).map(|index| StateUpdate::PodDeleted(format!("noisy-{index}").try_into().unwrap()));
    reconciler.reconcile(deleted.collect(), Instant::now());
    assert!(*synced.borrow());
}

#[test]
fn changed_profiles_are_queued_each_second_while_pods_are_pending() {
    let mut reconciler = reconciler_with_noisy_namespace();
    let start = Instant::now();
    let mut updates = vec![StateUpdate::Leadership(true)];
    updates.extend(WatchedKind::ALL.map(StateUpdate::ListComplete));
    reconciler.reconcile(updates, start);
    while reconciler.has_pending_pods() {
        reconciler.reconcile(Vec::new(), start);
    }
    let shared = reconciler.shared();
    drop(shared.status_queue().take());
    for (generation, milliseconds, is_queued) in [(1, 0, false), (2, 999, false), (3, 1000, true), (4, 1999, false)] {
        reconciler.reconcile(vec![edit_noisy_profile(generation)], start + Duration::from_millis(milliseconds));
        assert!(reconciler.has_pending_pods());
        assert_eq!(!shared.status_queue().take().is_empty(), is_queued, "{milliseconds}");
    }
}

#[tokio::test]
async fn reports_are_recorded_in_the_order_of_leadership_changes() {
    let (updates_tx, updates_rx) = mpsc::channel(8);
    let mut recorded = Vec::new();
    for update in [None, Some(true), None, Some(false), None] {
        let update = match update {
            Some(is_leader) => StateUpdate::Leadership(is_leader),
            None => {
                let (recorded_tx, recorded_rx) = oneshot::channel();
                recorded.push(recorded_rx);
                StateUpdate::Report {
                    node: "n1".into(),
                    report: Report::default(),
                    received: tokio::time::Instant::now(),
                    recorded: recorded_tx,
                }
            }
        };
        updates_tx.send(update).await.unwrap();
    }
    drop(updates_tx);
    reconciler().run(updates_rx).await;
    let recorded: Vec<bool> = recorded.into_iter().map(|mut recorded| recorded.try_recv().unwrap()).collect();
    assert_eq!(recorded, [false, true, false]);
}
