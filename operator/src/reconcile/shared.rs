//! The state, shared with other tasks. They read it and wait for changes. Only the reconcile task writes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;
use crate::model::compiled_pod::ProfileKey;
use crate::model::state::OperatorState;
use crate::model::update::References;

/// The state, and the notifications of its changes.
#[derive(Debug)]
pub struct SharedState {
    state: RwLock<OperatorState>,
    /// The time of the last change of each node that is watched.
    watches: Mutex<HashMap<String, watch::Sender<Instant>>>,
    status_queue: StatusQueue,
    /// The objects that profiles refer to, or `None` until all profiles are listed.
    references: watch::Sender<Option<References>>,
    synced: watch::Sender<bool>,
    /// The metrics.
    pub metrics: Metrics,
}

impl SharedState {
    pub(super) fn new(state: OperatorState, metrics: Metrics) -> Self {
        Self {
            state: RwLock::new(state),
            watches: Mutex::default(),
            status_queue: StatusQueue::default(),
            references: watch::Sender::new(None),
            synced: watch::Sender::new(false),
            metrics,
        }
    }

    /// Locks the state for reading. The guard must not be held across an `await`.
    pub fn read(&self) -> RwLockReadGuard<'_, OperatorState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, OperatorState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a receiver. Its value becomes true when the state holds all objects that existed at the start of the
    /// operator, and their pods are compiled.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Returns a receiver of the time of the last change of a node's workloads.
    #[must_use]
    pub fn watch_node(&self, node: &str) -> watch::Receiver<Instant> {
        let mut watches = self.watches();
        let sender = watches.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(Instant::now()));
        sender.subscribe()
    }

    /// Returns a receiver of the objects that profiles refer to. The value is `None` until all profiles are listed.
    #[must_use]
    pub fn references(&self) -> watch::Receiver<Option<References>> {
        self.references.subscribe()
    }

    /// Returns the queue of the profiles whose status the leader must check.
    #[must_use]
    pub fn status_queue(&self) -> &StatusQueue {
        &self.status_queue
    }

    /// Publishes the objects that profiles refer to, if they changed.
    pub(super) fn publish_references(&self) {
        let references = self.read().index().references();
        self.references.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&references);
            *known = Some(references);
            changed
        });
    }

    pub(super) fn set_synced(&self) {
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    pub(super) fn wake_watches(&self, nodes: &[String]) {
        let mut watches = self.watches();
        watches.retain(|_, sender| sender.receiver_count() > 0);
        for node in nodes {
            if let Some(sender) = watches.get(node) {
                sender.send_replace(Instant::now());
            }
        }
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Instant>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The profiles whose status may have changed. Empty unless this replica is the leader.
#[derive(Debug, Default)]
pub struct StatusQueue {
    profiles: Mutex<BTreeSet<ProfileKey>>,
    added: Notify,
}

impl StatusQueue {
    /// Waits until a profile is added.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Returns and clears the profiles.
    #[must_use]
    pub fn take(&self) -> BTreeSet<ProfileKey> {
        std::mem::take(&mut self.profiles())
    }

    pub(super) fn add(&self, profiles: BTreeSet<ProfileKey>) {
        if !profiles.is_empty() {
            self.profiles().extend(profiles);
            self.added.notify_one();
        }
    }

    pub(super) fn clear(&self) {
        self.profiles().clear();
    }

    fn profiles(&self) -> MutexGuard<'_, BTreeSet<ProfileKey>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
