//! The user that owns the client's socket of a connection. It is looked up with the first request that needs it, and stays
//! the same for the connection: a socket that is passed to another process keeps its owner.

use std::fmt::Debug;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::future::BoxFuture;
use podmeta_metadata::evaluate::SocketUser;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::edge::EdgePod;

/// Longest wait for an owner. SDKs give up after one second.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);

/// Finds the user that owns the client's socket of one connection.
pub trait FindOwner: Debug + Send + Sync {
    /// Returns the user ID in the pod. Must not block.
    fn find_owner(&self) -> BoxFuture<'_, Result<u32, FindOwnerError>>;
}

/// Reason why the owner of a socket is not found. The text is for a log.
#[derive(Debug, thiserror::Error)]
pub enum FindOwnerError {
    /// The kernel has no such socket, or its owner has no ID in the pod.
    #[error("{0}")]
    NotFound(String),
    /// The lookup failed. The next one can succeed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// The lookups of owners of one pod.
#[derive(Debug)]
pub(super) struct OwnerLookups {
    /// Admits one lookup at a time, so that a pod with many connections does not delay the lookups of others.
    permit: Semaphore,
    /// Limits the log lines of failed lookups.
    log: Mutex<LogThrottle>,
}

impl Default for OwnerLookups {
    fn default() -> Self {
        Self { permit: Semaphore::new(1), log: Mutex::default() }
    }
}

/// The owner of the client's socket of one connection.
#[derive(Debug, Default)]
pub(super) struct ClientOwner(OnceLock<SocketUser>);

impl ClientOwner {
    /// Returns true if the owner was looked up.
    pub(super) fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Returns true if the lookup found no owner or failed. The requests of the connection are then rejected, and it must
    /// close: a lookup for the next connection can succeed.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.0.get(), Some(SocketUser::NotFound | SocketUser::LookupFailed))
    }

    /// Returns the result of the lookup. Before the lookup, it counts as failed.
    pub(super) fn user(&self) -> SocketUser {
        self.0.get().copied().unwrap_or(SocketUser::LookupFailed)
    }

    /// Looks the owner up, unless that was done before. Logs a failure, once a second for each pod.
    pub(super) async fn look_up(&self, finder: Option<&dyn FindOwner>, pod: &EdgePod) {
        if self.is_known() {
            return;
        }
        let found = async {
            let no_socket = || FindOwnerError::NotFound("the connection has no client socket".to_owned());
            let finder = finder.ok_or_else(no_socket)?;
            let _permit = pod.owner_lookups.permit.acquire().await.context("internal error")?;
            finder.find_owner().await
        };
        let found = timeout(LOOKUP_TIMEOUT, found).await;
        let found = found.unwrap_or_else(|_| Err(anyhow!("the lookup took longer than {LOOKUP_TIMEOUT:?}").into()));
        let user = match found {
            Ok(user) => SocketUser::Known(user),
            Err(error) => {
                log_failure(pod, &error);
                match error {
                    FindOwnerError::NotFound(_) => SocketUser::NotFound,
                    FindOwnerError::Failed(_) => SocketUser::LookupFailed,
                }
            }
        };
        // HTTP/1 requests of a connection are served one after another, so no other lookup has set it.
        let _set_before = self.0.set(user);
    }
}

fn log_failure(pod: &EdgePod, error: &FindOwnerError) {
    let status = match error {
        FindOwnerError::NotFound(_) => 403,
        FindOwnerError::Failed(_) => 503,
    };
    let suppressed = pod.owner_lookups.log.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
    if let Some(suppressed) = suppressed {
        tracing::warn!(
            pod = %pod.reference(),
            error = format!("{error:#}"),
            suppressed,
            "cannot find the user of a client, which allowedUsers or deniedUsers need; responding {status}"
        );
    }
}
