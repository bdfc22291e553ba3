//! Rate limit of calls to one cloud. Round robin by namespace, so that many pods of one do not delay those of others.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Limits the rate of calls. The calls of each namespace start in their order.
#[derive(Clone, Debug)]
pub struct FairRate(mpsc::UnboundedSender<WaitingStsCall>);

/// A call in the queue.
struct WaitingStsCall {
    namespace: String,
    start: oneshot::Sender<()>,
    /// Returns true if the call must still be made.
    is_needed: Box<dyn Fn() -> bool + Send>,
}

impl FairRate {
    /// Starts the scheduler task. It ends when the limiter and its clones are dropped.
    #[must_use]
    pub fn start(calls_per_second: NonZeroU32) -> Self {
        // The queue has at most one call for each role of a pod, because the issuer shares calls.
        let (calls_tx, calls_rx) = mpsc::unbounded_channel();
        tokio::spawn(schedule_calls(calls_rx, Duration::from_secs(1) / calls_per_second.get()));
        Self(calls_tx)
    }

    /// Waits until a call for a pod of this namespace may start, and returns true. Returns false if `is_needed` returns
    /// false then, or if the scheduler task has ended. Such a call does not delay the next one. Cancel-safe: a call whose
    /// future is dropped does not delay the next one either.
    pub async fn acquire(&self, namespace: &str, is_needed: impl Fn() -> bool + Send + 'static) -> bool {
        let (start, started) = oneshot::channel();
        let call = WaitingStsCall { namespace: namespace.to_owned(), start, is_needed: Box::new(is_needed) };
        // The task ends after this limiter.
        let _sent = self.0.send(call);
        started.await.is_ok()
    }
}

async fn schedule_calls(mut calls_rx: mpsc::UnboundedReceiver<WaitingStsCall>, interval: Duration) {
    let mut queue = FairQueue::default();
    loop {
        while let Ok(call) = calls_rx.try_recv() {
            queue.push(call.namespace.clone(), call);
        }
        match queue.pop() {
            // A call that is cancelled or no longer needed uses no slot.
            Some(call) => {
                if (call.is_needed)() && call.start.send(()).is_ok() {
                    sleep(interval).await;
                }
            }
            None => match calls_rx.recv().await {
                Some(call) => queue.push(call.namespace.clone(), call),
                None => return,
            },
        }
    }
}

/// A round-robin queue of namespaces.
#[derive(Debug)]
struct FairQueue<T> {
    items: BTreeMap<String, VecDeque<T>>,
    /// The namespaces that have items, the next one first.
    turns: VecDeque<String>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), turns: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    fn push(&mut self, namespace: String, item: T) {
        let items = self.items.entry(namespace.clone()).or_default();
        if items.is_empty() {
            self.turns.push_back(namespace);
        }
        items.push_back(item);
    }

    fn pop(&mut self) -> Option<T> {
        let namespace = self.turns.pop_front()?;
        let items = self.items.get_mut(&namespace)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.items.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn namespaces_take_turns_and_items_of_one_keep_their_order() {
        let mut queue = FairQueue::default();
        for (namespace, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            queue.push(namespace.to_owned(), item);
        }
        let popped: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(popped, [1, 4, 5, 2, 6, 3]);
        assert!(queue.items.is_empty() && queue.turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_250_pods_are_spread_over_the_configured_rate() {
        let (rate, start) = (FairRate::start(NonZeroU32::new(10).unwrap()), Instant::now());
        let calls = (0..250).map(|_| async {
            rate.acquire("shop", || true).await;
            start.elapsed()
        });
        let starts = join_all(calls).await;
        let in_first_second = starts.iter().filter(|start| **start < Duration::from_secs(1)).count();
        assert_eq!((in_first_second, starts.into_iter().max().unwrap().as_secs()), (10, 24));
    }

    #[tokio::test(start_paused = true)]
    async fn call_of_another_namespace_does_not_wait_for_many_of_one() {
        let (rate, start) = (FairRate::start(NonZeroU32::new(10).unwrap()), Instant::now());
        let many = join_all((0..100).map(|_| rate.acquire("many", || true)));
        let other = async {
            rate.acquire("other", || true).await;
            start.elapsed()
        };
        let (_, waited) = tokio::join!(many, other);
        assert!(waited <= Duration::from_millis(200), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_no_longer_waits_takes_no_turn() {
        let (rate, start) = (FairRate::start(NonZeroU32::MIN), Instant::now());
        assert!(rate.acquire("a", || true).await);
        for _ in 0..5 {
            assert!(tokio::time::timeout(Duration::from_millis(1), rate.acquire("a", || true)).await.is_err());
        }
        assert!(rate.acquire("a", || true).await);
        assert!(start.elapsed() <= Duration::from_millis(1100), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_is_no_longer_needed_is_not_started_and_does_not_delay_the_next_one() {
        let (rate, start) = (FairRate::start(NonZeroU32::MIN), Instant::now());
        let (obsolete, needed) =
            tokio::join!(join_all((0..100).map(|_| rate.acquire("a", || false))), rate.acquire("a", || true),);
        assert!(needed && !obsolete.contains(&true));
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    }
}
