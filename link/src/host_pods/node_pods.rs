//! The pods that the operator leaves to the node's own metadata service (mode `Node`), as the node agent has reported them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use podmeta_metadata::names::PodUid;

/// The pods of the last report, shared by the daemon's socket and its checks.
#[derive(Debug, Default)]
pub struct NodePods(Mutex<Option<BTreeSet<PodUid>>>);

impl NodePods {
    /// Replaces the pods.
    pub fn set(&self, pods: BTreeSet<PodUid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
    }

    /// Returns the pods, or `None` until an agent has reported them.
    #[must_use]
    pub fn get(&self) -> Option<BTreeSet<PodUid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The pods on the host network that are exempt: they use the node's own metadata service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnredirectedPods {
    /// The pods that are known to be exempt.
    pub pods: BTreeSet<PodUid>,
    /// Treatment of all other pods that were exempt before.
    pub others: OtherPods,
}

/// Treatment of pods that were exempt before and are not in the current list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherPods {
    /// They are no longer exempt.
    #[default]
    Redirect,
    /// They stay exempt while they run: no agent has reported its pods since the daemon started.
    Keep,
}
