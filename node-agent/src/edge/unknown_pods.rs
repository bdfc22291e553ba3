//! Connections of pods that are not published, such as a new pod whose workload has not arrived yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use podmeta_metadata::names::PodUid;

use crate::edge::fair_share::ThreadShare;
use crate::edge::limit::ConnectionLimiter;

/// The open connections of unknown pods. Each pod has its own limit: one pod cannot use up the limit of another.
#[derive(Debug, Default)]
pub(super) struct UnknownPods(Mutex<HashMap<PodUid, UnknownPod>>);

/// The limits of one unknown pod.
#[derive(Clone, Debug, Default)]
pub(super) struct UnknownPod {
    pub(super) connections: ConnectionLimiter,
    pub(super) share: Arc<ThreadShare>,
}

impl UnknownPods {
    /// Returns the limits of a pod. Removes those of pods without an open connection.
    pub(super) fn limits(&self, pod: &PodUid) -> UnknownPod {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = pods.get(pod) {
            return limits.clone();
        }
        pods.retain(|_, limits| limits.connections.is_in_use());
        pods.entry(pod.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn pod(name: &str) -> PodUid {
        name.try_into().unwrap()
    }

    #[test]
    fn connections_of_one_unknown_pod_do_not_count_for_another() {
        let (pods, now) = (UnknownPods::default(), Instant::now());
        let _permit = pods.limits(&pod("a")).connections.open(1, now).unwrap();
        assert!(pods.limits(&pod("a")).connections.open(1, now).is_err());
        assert!(pods.limits(&pod("b")).connections.open(1, now).is_ok());
    }

    #[test]
    fn pods_without_open_connections_are_removed() {
        let (pods, now) = (UnknownPods::default(), Instant::now());
        let permit = pods.limits(&pod("a")).connections.open(1, now).unwrap();
        drop(pods.limits(&pod("b")).connections.open(1, now).unwrap());
        let _other = pods.limits(&pod("c"));
        let known =
            || pods.0.lock().unwrap().keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(known(), ["a", "c"].map(str::to_owned).into());
        drop(permit);
        let _other = pods.limits(&pod("d"));
        assert_eq!(known(), ["d".to_owned()].into());
    }
}
