//! The reconcile task: the only writer of [`OperatorState`]. It receives all [`StateUpdate`]s through one channel, compiles
//! the affected pods, and wakes the watches of the node agents and the status writer.

#[cfg(test)]
pub(crate) mod fixture;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use shared::SharedState;

use crate::metrics::Metrics;
use crate::model::state::OperatorState;
use crate::model::update::{StateUpdate, WatchedKind};

/// The number of updates that the channel holds. Senders wait while it is full.
pub const UPDATE_QUEUE_SIZE: usize = 8192;

/// The maximum number of updates that are applied before pods are compiled.
const UPDATE_BATCH_SIZE: usize = 4096;

/// The maximum number of pods that are compiled before agents get them and more updates are applied.
const COMPILE_BATCH_SIZE: usize = 1024;

/// The time after which a batch ends early. Its remaining pods are compiled in later batches. The result of a pod does not
/// depend on it.
const COMPILE_BATCH_DURATION: Duration = Duration::from_millis(100);

/// The maximum time for which changed profiles wait for pending pods before the status writer gets them.
const STATUS_QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// The reconcile task.
#[derive(Debug)]
pub struct Reconciler {
    shared: Arc<SharedState>,
    /// The kinds whose initial list is not complete.
    unlisted: BTreeSet<WatchedKind>,
    /// The time at which the status writer last got the changed profiles.
    profiles_queued: Option<Instant>,
}

impl Reconciler {
    /// Creates the task for an empty state.
    #[must_use]
    pub fn new(state: OperatorState, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(SharedState::new(state, metrics)),
            unlisted: BTreeSet::from(WatchedKind::ALL),
            profiles_queued: None,
        }
    }

    /// Returns the state for reading.
    #[must_use]
    pub fn shared(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// Applies updates until all senders are dropped, or until a panic.
    pub async fn run(mut self, mut updates_rx: mpsc::Receiver<StateUpdate>) {
        loop {
            let mut updates = Vec::new();
            if self.has_pending_pods() {
                while updates.len() < UPDATE_BATCH_SIZE
                    && let Ok(update) = updates_rx.try_recv()
                {
                    updates.push(update);
                }
            } else if updates_rx.recv_many(&mut updates, UPDATE_BATCH_SIZE).await == 0 {
                return;
            }
            // Compiling blocks for too long for an async task.
            let reconcile = move || {
                self.reconcile(updates, Instant::now());
                self
            };
            match tokio::task::spawn_blocking(reconcile).await {
                Ok(reconciler) => self = reconciler,
                Err(error) => {
                    tracing::error!(%error, "internal error: updates were lost; the operator exits and restarts");
                    return;
                }
            }
        }
    }

    fn has_pending_pods(&self) -> bool {
        self.unlisted.is_empty() && self.shared.read().has_pending_pods()
    }

    /// Applies updates, then compiles one batch of pending pods. No pod is compiled before all kinds are listed. The state is
    /// synced once the pods that were pending then are compiled. Later changes do not delay it.
    fn reconcile(&mut self, updates: Vec<StateUpdate>, now: Instant) {
        let has_updates = !updates.is_empty();
        let was_listed = self.unlisted.is_empty();
        self.apply(updates);
        if has_updates && !self.unlisted.contains(&WatchedKind::Profiles) {
            self.shared.publish_references();
        }
        if !self.unlisted.is_empty() {
            return;
        }
        if !was_listed {
            self.shared.write().begin_initial_sync();
        }
        self.compile_batch();
        if self.shared.read().has_initial_pods() {
            return;
        }
        self.shared.set_synced();
        let is_due = |queued| now.saturating_duration_since(queued) >= STATUS_QUEUE_INTERVAL;
        if !self.has_pending_pods() || self.profiles_queued.is_none_or(is_due) {
            self.queue_changed_profiles();
            self.profiles_queued = Some(now);
        }
    }

    fn apply(&mut self, updates: Vec<StateUpdate>) {
        let mut state = self.shared.write();
        for update in updates {
            match &update {
                StateUpdate::ListComplete(kind) => drop(self.unlisted.remove(kind)),
                StateUpdate::Leadership(false) => self.shared.status_queue().clear(),
                _ => {}
            }
            state.apply(update);
        }
    }

    fn compile_batch(&self) {
        let started = Instant::now();
        let batch = self.shared.write().take_batch(COMPILE_BATCH_SIZE);
        // The state is not locked meanwhile.
        let compiled = batch.compile(|| started.elapsed() >= COMPILE_BATCH_DURATION);
        let pods = compiled.len();
        let (nodes, changed_pods) = self.shared.write().apply_compiled(&batch, compiled);
        if pods > 0 {
            self.shared.metrics.record_compile(pods, changed_pods, started.elapsed());
        }
        self.shared.wake_watches(&nodes);
        let (pods, profiles) = self.shared.read().index().counts();
        self.shared.metrics.set_objects(pods, profiles);
    }

    /// Hands changed profiles to the status writer. A replica that is not the leader drops them.
    fn queue_changed_profiles(&self) {
        let mut state = self.shared.write();
        let profiles = state.take_changed_profiles();
        if state.is_leader() {
            self.shared.status_queue().add(profiles);
        }
    }
}
