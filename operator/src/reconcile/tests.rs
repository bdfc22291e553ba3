use podmeta_agent_api::calls::Report;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::credentials::SecretData;
use tokio::sync::oneshot;

use super::*;
use crate::model::index::SecretUnavailable;

fn reconciler() -> Reconciler {
    let state = OperatorState::new(Settings::default(), "e1".parse().unwrap());
    let mut reconciler = Reconciler::new(state, Metrics::default());
    reconciler.reconcile(WatchedKind::ALL.map(StateUpdate::ListComplete).into());
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
        reconciler.reconcile(vec![StateUpdate::ListComplete(kind)]);
    }
    assert!(*synced.borrow());
}

/// The channel keeps the order: the Secret was read before it was deleted.
#[test]
fn queued_secret_does_not_come_back_after_it_was_deleted() {
    let mut reconciler = reconciler();
    let secret = |data| StateUpdate::Secret { namespace: "shop".to_owned(), name: "keys".to_owned(), data };
    reconciler.reconcile(vec![secret(Some(SecretData::default())), secret(None)]);
    assert_eq!(reconciler.shared.read().index().secret("shop", "keys"), Err(SecretUnavailable::NotUsable));
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
                StateUpdate::Report { node: "n1".into(), report: Report::default(), recorded: recorded_tx }
            }
        };
        updates_tx.send(update).await.unwrap();
    }
    drop(updates_tx);
    reconciler().run(updates_rx).await;
    let recorded: Vec<bool> = recorded.into_iter().map(|mut recorded| recorded.try_recv().unwrap()).collect();
    assert_eq!(recorded, [false, true, false]);
}
