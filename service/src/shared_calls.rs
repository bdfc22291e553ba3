//! Calls that concurrent requests share.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The calls in flight, by key. Requests with the same key share one call. The call continues if they all stop waiting,
/// so that a client cannot cause more calls by closing its connections.
#[derive(Debug)]
pub struct SharedCalls<K, T>(CallsInFlight<K, T>);

type CallsInFlight<K, T> = Arc<Mutex<BTreeMap<K, watch::Receiver<Option<T>>>>>;

impl<K, T> Default for SharedCalls<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Ord + Send + 'static, T: Clone + Send + Sync + 'static> SharedCalls<K, T> {
    /// Returns the result of the call in flight with this key. Starts `call` if there is none. Returns `None` if the call
    /// panics.
    pub async fn join(&self, key: K, call: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut result = self.join_or_start(key, call);
        let result = result.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// Starts `call` unless a call with this key is in flight. Does not wait for it.
    pub fn start(&self, key: K, call: impl Future<Output = T> + Send + 'static) {
        drop(self.join_or_start(key, call));
    }

    fn join_or_start(&self, key: K, call: impl Future<Output = T> + Send + 'static) -> watch::Receiver<Option<T>> {
        let mut calls = lock(&self.0);
        if let Some(result) = calls.get(&key) {
            return result.clone();
        }
        let (result_tx, result_rx) = watch::channel(None);
        calls.insert(key.clone(), result_rx.clone());
        let guard = SharedCallGuard { calls: Arc::clone(&self.0), key };
        tokio::spawn(async move {
            let result = call.await;
            drop(guard);
            result_tx.send_replace(Some(result));
        });
        result_rx
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a call when it ends or panics.
struct SharedCallGuard<K: Ord, T> {
    calls: CallsInFlight<K, T>,
    key: K,
}

impl<K: Ord, T> Drop for SharedCallGuard<K, T> {
    fn drop(&mut self) {
        lock(&self.calls).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn requests_with_one_key_share_a_call_and_others_do_not() {
        let (shared, calls) = (SharedCalls::default(), Arc::new(AtomicUsize::new(0)));
        let join = |key: &'static str| {
            let calls = Arc::clone(&calls);
            shared.join(key, async move {
                tokio::task::yield_now().await;
                calls.fetch_add(1, Ordering::Relaxed)
            })
        };
        let results = join_all((0..100).map(|_| join("a"))).await;
        assert!(results.iter().all(|result| *result == Some(0)), "{results:?}");
        let results = join_all([join("a"), join("b")]).await;
        assert_ne!(results[0], results[1], "two calls");
        assert!(lock(&shared.0).is_empty());
    }

    #[tokio::test]
    async fn call_continues_without_its_first_request() {
        let (shared, release) = (SharedCalls::default(), Arc::new(Semaphore::new(0)));
        let released = Arc::clone(&release);
        let first = shared.join("a", async move { released.acquire().await.is_ok() });
        tokio::select! {
            biased;
            _ = first => panic!("the call is not released yet"),
            () = std::future::ready(()) => {}
        }
        let second = shared.join("a", async { panic!("a second call is started") });
        release.add_permits(1);
        assert_eq!(second.await, Some(true));
    }

    #[tokio::test]
    async fn call_that_is_started_again_while_in_flight_adds_no_task() {
        let (shared, tasks) = (SharedCalls::<_, ()>::default(), tokio::runtime::Handle::current().metrics());
        for _ in 0..20 {
            shared.start("a", std::future::pending());
        }
        assert_eq!(tasks.num_alive_tasks(), 1);
    }

    #[tokio::test]
    async fn panicking_call_ends_its_requests_and_the_next_call_starts() {
        let shared = SharedCalls::<_, u32>::default();
        assert_eq!(shared.join("a", async { panic!("a test panics here") }).await, None);
        assert_eq!(shared.join("a", async { 1 }).await, Some(1));
    }
}
