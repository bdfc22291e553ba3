//! Limits the rate of new connections to the operator. A TLS handshake costs both sides more than a call.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, sleep};
use tower_service::Service;

/// Connections that may be opened without a wait.
pub(super) const CONNECT_BURST: u32 = 4;

/// Interval at which further connections may be opened.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// A token bucket (GCRA) for new connections. It stores the time at which the bucket is full again.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectLimiter(Arc<Mutex<Option<Instant>>>);

impl ConnectLimiter {
    /// Returns true if a connection could be opened at `now` without a wait.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        wait(self.full_at(now), now).is_zero()
    }

    /// Reserves a connection and returns how long to wait before it is opened.
    fn reserve(&self, now: Instant) -> Duration {
        let mut full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = full_at.unwrap_or(now).max(now);
        *full_at = Some(start + CONNECT_INTERVAL);
        wait(start, now)
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(now).max(now)
    }
}

fn wait(full_at: Instant, now: Instant) -> Duration {
    (full_at + CONNECT_INTERVAL).saturating_duration_since(now).saturating_sub(CONNECT_INTERVAL * CONNECT_BURST)
}

/// A TCP connector that waits for the limiter first.
#[derive(Clone, Debug)]
pub struct LimitedConnector {
    pub(super) tcp: HttpConnector,
    pub(super) limiter: ConnectLimiter,
}

impl Service<Uri> for LimitedConnector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (mut tcp, limiter) = (self.tcp.clone(), self.limiter.clone());
        Box::pin(async move {
            // Reserves at the first poll, so that a future that was never polled reserves nothing.
            sleep(limiter.reserve(Instant::now())).await;
            tcp.call(uri).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_opened_up_to_the_burst_and_then_once_per_interval() {
        let (limiter, now) = (ConnectLimiter::default(), Instant::now());
        for _ in 0..CONNECT_BURST {
            assert!(limiter.is_free(now));
            assert_eq!(limiter.reserve(now), Duration::ZERO);
        }
        assert!(!limiter.is_free(now));
        assert_eq!(limiter.reserve(now), CONNECT_INTERVAL);
        assert_eq!(limiter.reserve(now), 2 * CONNECT_INTERVAL);
        let later = now + CONNECT_INTERVAL * (CONNECT_BURST + 2);
        for _ in 0..CONNECT_BURST {
            assert_eq!(limiter.reserve(later), Duration::ZERO);
        }
        assert!(!limiter.is_free(later));
    }
}
