//! The HTTP edge: evaluates and serves requests of the published pods. Each request looks its pod up again, so that a
//! change or deletion applies to open connections too. The edge does not know where pods and connections come from.

mod access;
mod access_log;
mod connection;
mod fair_share;
#[cfg(test)]
pub(crate) mod fixture;
mod handler;
mod hop_limit;
mod idle_timeout;
mod limit;
mod memory;
mod metered;
pub mod metrics;
mod owner;
mod pod;
mod respond;
#[cfg(test)]
mod tests;
mod unknown_pods;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::session::Keyring;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::watch;
use tokio::time::timeout;

pub use connection::{Arrival, EdgeServer};
use fair_share::PollMode;
pub use hop_limit::SetHopLimit;
pub use metered::SendBuffer;
#[cfg(target_os = "linux")]
pub(crate) use owner::LOOKUP_TIMEOUT;
pub use owner::{FindOwner, FindOwnerError};
pub use pod::EdgePod;
pub use podmeta_metadata::compile::PodView;
use unknown_pods::UnknownPods;

use crate::broker::Broker;
use metrics::EdgeMetrics;

/// Longest wait of a request for the workload of its pod. SDKs give up after one second.
const UNKNOWN_POD_WAIT: Duration = Duration::from_millis(800);

/// Maximum number of open connections of all pods with which no pod is served in the background.
const FEW_CONNECTIONS: i64 = 128;

/// Returns the current time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The state that all requests share.
pub struct Edge {
    pods: ArcSwap<HashMap<PodUid, Arc<EdgePod>>>,
    keys: ArcSwap<Keyring>,
    broker: Broker,
    unknown_pods: UnknownPods,
    /// Changes with each publication.
    published: watch::Sender<()>,
    /// Limits the memory of all connections.
    memory: memory::MemoryBudget,
    /// Pods that are over their share of the worker thread.
    background: fair_share::BackgroundQueue,
    /// Limits the log lines of rejections of all unknown pods together.
    unknown_pod_rejection_log: Mutex<LogThrottle>,
    clock: Clock,
    metrics: EdgeMetrics,
}

impl Edge {
    /// Creates an edge without pods.
    #[must_use]
    pub fn new(keys: Keyring, broker: Broker, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            pods: ArcSwap::default(),
            keys: ArcSwap::from_pointee(keys),
            broker,
            unknown_pods: UnknownPods::default(),
            published: watch::Sender::default(),
            memory: memory::MemoryBudget::default(),
            background: fair_share::BackgroundQueue::default(),
            unknown_pod_rejection_log: Mutex::default(),
            clock,
            metrics: EdgeMetrics::default(),
        })
    }

    /// Replaces all pods atomically. A pod whose view is the same is kept. A pod whose view changed keeps its request rate
    /// and connection counts.
    pub fn publish(&self, views: impl IntoIterator<Item = (PodUid, PodView)>) {
        let current = self.pods.load();
        let pods = views.into_iter().map(|(uid, view)| {
            let pod = EdgePod::replacing(current.get(&uid), view);
            (uid, pod)
        });
        self.store(pods.collect());
    }

    /// Replaces some pods atomically, and removes those without a view. All other pods are kept. There must be one writer.
    pub fn update(&self, changes: impl IntoIterator<Item = (PodUid, Option<PodView>)>) {
        let mut pods = HashMap::clone(&self.pods.load());
        for (uid, view) in changes {
            match view {
                Some(view) => {
                    let pod = EdgePod::replacing(pods.get(&uid), view);
                    pods.insert(uid, pod);
                }
                None => drop(pods.remove(&uid)),
            }
        }
        self.store(pods);
    }

    fn store(&self, pods: HashMap<PodUid, Arc<EdgePod>>) {
        self.pods.store(Arc::new(pods));
        self.published.send_replace(());
    }

    /// Replaces the session keys.
    pub fn set_keys(&self, keys: Keyring) {
        self.keys.store(Arc::new(keys));
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> &EdgeMetrics {
        &self.metrics
    }

    /// Returns a published pod, or `None` if the pod is unknown.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<Arc<EdgePod>> {
        self.pods.load().get(uid).map(Arc::clone)
    }

    /// Returns a pod. Waits for an unknown one, because a new pod can send before its workload arrives. Returns `None` after
    /// [`UNKNOWN_POD_WAIT`].
    async fn wait_for_pod(&self, uid: &PodUid) -> Option<Arc<EdgePod>> {
        if let Some(pod) = self.pod(uid) {
            return Some(pod);
        }
        let mut published = self.published.subscribe();
        let published = async {
            loop {
                if let Some(pod) = self.pod(uid) {
                    return Some(pod);
                }
                published.changed().await.ok()?;
            }
        };
        timeout(UNKNOWN_POD_WAIT, published).await.ok().flatten()
    }

    /// Returns the mode of polls. No pod is served in the background while few connections are open: they delay each other
    /// little, and the background costs processor time.
    fn poll_mode(&self) -> PollMode {
        if self.metrics.open_connections() <= FEW_CONNECTIONS { PollMode::Free } else { PollMode::Shared }
    }

    /// Returns the share of the worker thread of a pod.
    fn share(&self, uid: &PodUid) -> Arc<fair_share::ThreadShare> {
        self.pod(uid).map_or_else(|| self.unknown_pods.limits(uid).share, |pod| Arc::clone(&pod.share))
    }
}
