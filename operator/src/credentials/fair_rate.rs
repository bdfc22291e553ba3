//! The rate of calls to one cloud. Namespaces take turns, so that many pods of one do not delay those of others.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Limits the rate of calls. The calls of each namespace start in their order.
#[derive(Clone, Debug)]
pub struct FairRate(mpsc::UnboundedSender<QueuedCall>);

/// A call that waits for its turn.
#[derive(Debug)]
struct QueuedCall {
    namespace: String,
    start: oneshot::Sender<()>,
}

impl FairRate {
    /// Starts the task that gives the turns. It ends when the limiter and its clones are dropped.
    #[must_use]
    pub fn start(calls_per_second: NonZeroU32) -> Self {
        // The queue has at most one call for each role of a pod, because the issuer shares calls.
        let (calls_tx, calls_rx) = mpsc::unbounded_channel();
        tokio::spawn(give_turns(calls_rx, Duration::from_secs(1) / calls_per_second.get()));
        Self(calls_tx)
    }

    /// Waits until a call for a pod of this namespace may start.
    pub async fn acquire(&self, namespace: &str) {
        let (start, started) = oneshot::channel();
        // The task ends after this limiter.
        let _sent = self.0.send(QueuedCall { namespace: namespace.to_owned(), start });
        let _turn = started.await;
    }
}

async fn give_turns(mut calls_rx: mpsc::UnboundedReceiver<QueuedCall>, interval: Duration) {
    let mut queue = FairQueue::default();
    loop {
        while let Ok(call) = calls_rx.try_recv() {
            queue.push(call.namespace, call.start);
        }
        match queue.pop() {
            // A call that no longer waits takes no time.
            Some(start) => {
                if start.send(()).is_ok() {
                    sleep(interval).await;
                }
            }
            None => match calls_rx.recv().await {
                Some(call) => queue.push(call.namespace, call.start),
                None => return,
            },
        }
    }
}

/// A queue that takes turns between namespaces.
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
            rate.acquire("shop").await;
            start.elapsed()
        });
        let starts = join_all(calls).await;
        let in_first_second = starts.iter().filter(|start| **start < Duration::from_secs(1)).count();
        assert_eq!((in_first_second, starts.into_iter().max().unwrap().as_secs()), (10, 24));
    }

    #[tokio::test(start_paused = true)]
    async fn call_of_another_namespace_does_not_wait_for_many_of_one() {
        let (rate, start) = (FairRate::start(NonZeroU32::new(10).unwrap()), Instant::now());
        let many = join_all((0..100).map(|_| rate.acquire("many")));
        let other = async {
            rate.acquire("other").await;
            start.elapsed()
        };
        let (_, waited) = tokio::join!(many, other);
        assert!(waited <= Duration::from_millis(200), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_no_longer_waits_takes_no_turn() {
        let (rate, start) = (FairRate::start(NonZeroU32::MIN), Instant::now());
        rate.acquire("a").await;
        for _ in 0..5 {
            assert!(tokio::time::timeout(Duration::from_millis(1), rate.acquire("a")).await.is_err());
        }
        rate.acquire("a").await;
        assert!(start.elapsed() <= Duration::from_millis(1100), "{:?}", start.elapsed());
    }
}
