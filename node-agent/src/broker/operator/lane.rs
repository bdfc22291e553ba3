//! Limits of calls in flight to the operator. Each kind of call has its own lane, so that many calls of one kind do not
//! delay the others. In a lane, each pod has a share, so that many calls of one pod do not delay other pods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use podmeta_agent_api::MAX_CONCURRENT_STREAMS;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::Role;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;

/// Maximum number of calls of one pod that are in flight in one lane.
pub(super) const MAX_CALLS_PER_POD: usize = 2;

/// Maximum number of calls of one pod that wait in one lane or are in flight. Further calls fail immediately.
pub(super) const MAX_QUEUED_PER_POD: usize = 64;

/// Maximum number of calls of all pods that are in flight in each lane.
const SECRET_ROLE_CALLS: usize = 8;
const CLOUD_ROLE_CALLS: usize = 8;
const USER_DATA_CALLS: usize = 8;
const DOCUMENT_CALLS: usize = 8;

// Each lane can use its whole limit on the agent's one connection.
const _: () =
    assert!(SECRET_ROLE_CALLS + CLOUD_ROLE_CALLS + USER_DATA_CALLS + DOCUMENT_CALLS <= MAX_CONCURRENT_STREAMS as usize);

/// The lanes of all calls.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Credentials of roles from Secrets.
    pub(super) secret_roles: Lane,
    /// Credentials of roles from clouds.
    pub(super) cloud_roles: Lane,
    pub(super) user_data: Lane,
    pub(super) documents: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            secret_roles: Lane::new(SECRET_ROLE_CALLS),
            cloud_roles: Lane::new(CLOUD_ROLE_CALLS),
            user_data: Lane::new(USER_DATA_CALLS),
            documents: Lane::new(DOCUMENT_CALLS),
        }
    }
}

impl Lanes {
    /// Returns the lane of the credentials of a role.
    pub(super) fn of_role(&self, role: &Role) -> &Lane {
        match role.provider.secret_name() {
            Some(_) => &self.secret_roles,
            None => &self.cloud_roles,
        }
    }

    /// Removes the shares of all pods for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&PodUid) -> bool) {
        for lane in [&self.secret_roles, &self.cloud_roles, &self.user_data, &self.documents] {
            lock(&lane.pods).retain(|pod, _| keep(pod));
        }
    }
}

/// Calls of one kind.
#[derive(Debug)]
pub(super) struct Lane {
    slots: Semaphore,
    pods: Mutex<HashMap<PodUid, PodShare>>,
}

/// The calls of one pod in a lane.
#[derive(Clone, Debug)]
struct PodShare {
    queue: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
}

/// A place in the queue of a pod. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct QueuedCall {
    share: PodShare,
    _place: OwnedSemaphorePermit,
}

impl Lane {
    fn new(calls: usize) -> Self {
        Self { slots: Semaphore::new(calls), pods: Mutex::default() }
    }

    /// Enters the queue of a pod, or returns `None` if it is full.
    pub(super) fn queue(&self, pod: &PodUid) -> Option<QueuedCall> {
        let new = || PodShare {
            queue: Arc::new(Semaphore::new(MAX_QUEUED_PER_POD)),
            in_flight: Arc::new(Semaphore::new(MAX_CALLS_PER_POD)),
        };
        let share = lock(&self.pods).entry(pod.clone()).or_insert_with(new).clone();
        let place = Arc::clone(&share.queue).try_acquire_owned().ok()?;
        Some(QueuedCall { share, _place: place })
    }

    /// Runs one attempt of a call when the lane has a free slot. Waits between attempts hold no slot.
    pub(super) async fn attempt<T>(&self, call: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        call.await
    }
}

impl QueuedCall {
    /// Waits until the pod has fewer calls in flight than its limit. The call counts until the permit is dropped. Never returns
    /// `None`: the semaphore is never closed.
    pub(super) async fn start(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.share.in_flight).acquire_owned().await.ok()
    }
}
