//! Shares the worker thread among pods. A pod that used more than its share of the thread is served in the background:
//! round robin with other such pods, in batches, and only while no other connection is ready. An attack of many pods delays
//! another pod by at most the time of one batch.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

/// A pod's share of the thread is 1 divided by this number. All pods of a node together use at most about half of the
/// thread before they are served in the background.
const SHARE_DIVISOR: u32 = 200;

/// Time of the thread that an idle pod can use before it is over its share.
const BURST: Duration = Duration::from_micros(500);

/// Longest time after which an idle pod is within its share again.
const MAX_RECOVERY: Duration = Duration::from_secs(1);

/// Time of background work after which other connections are served first.
const BATCH_TIME: Duration = Duration::from_micros(100);

/// The use of the thread by one pod, or by all unknown pods together.
#[derive(Debug, Default)]
pub(super) struct ThreadShare(Mutex<ShareState>);

#[derive(Debug, Default)]
struct ShareState {
    /// The time at which the pod has not used any of its share.
    recovered_at: Option<Instant>,
    /// Turns that tasks of the pod wait for, the first one first.
    waiting: VecDeque<Arc<Turn>>,
}

/// A turn that a task waits for.
#[derive(Debug, Default)]
struct Turn {
    is_granted: AtomicBool,
    /// The task has ended.
    is_cancelled: AtomicBool,
    waker: AtomicWaker,
}

/// The turn of a waiting task. If it is dropped before the task used it, the next one follows immediately.
struct WaitingTurn {
    queue: BackgroundQueue,
    turn: Arc<Turn>,
    is_used: bool,
}

impl Drop for WaitingTurn {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let mut queue = self.queue.lock();
        self.turn.is_cancelled.store(true, Ordering::Release);
        if self.turn.is_granted.load(Ordering::Acquire) {
            queue.end_turn(Duration::ZERO, true);
        }
    }
}

/// The pods that are served in the background.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundQueue(Arc<Mutex<QueueState>>);

#[derive(Debug, Default)]
struct QueueState {
    /// Pods with waiting tasks, in round-robin order.
    pods: VecDeque<Arc<ThreadShare>>,
    /// Time of background polls since other connections were served.
    batch: Duration,
    /// True if a task grants turns.
    is_granting: bool,
}

/// How a task is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollMode {
    /// Does not wait, and is not charged: few connections are open.
    Free,
    /// Does not wait, but is charged.
    Urgent,
    /// Is charged, and waits for a turn while the pod is over its share.
    Shared,
}

impl ThreadShare {
    /// Returns true if the pod has used more than its share.
    fn is_over(&self, now: Instant) -> bool {
        let recovery = self.lock().recovered_at.map(|at| at.saturating_duration_since(now));
        recovery.is_some_and(|recovery| recovery > BURST * SHARE_DIVISOR)
    }

    /// Charges the time of a poll.
    fn charge(&self, started: Instant, cost: Duration) {
        let mut state = self.lock();
        let from = state.recovered_at.map_or(started, |at| at.max(started));
        state.recovered_at = Some((from + cost * SHARE_DIVISOR).min(started + MAX_RECOVERY));
    }

    fn lock(&self) -> MutexGuard<'_, ShareState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackgroundQueue {
    /// Polls a task of a pod until it is ready. `mode` returns the mode of each poll. Must be called in a runtime.
    pub(super) async fn run<F: Future>(
        &self,
        share: &Arc<ThreadShare>,
        mode: impl Fn() -> PollMode,
        mut task: Pin<&mut F>,
    ) -> F::Output {
        let mut turn = None;
        poll_fn(|cx| {
            let mode = mode();
            if mode != PollMode::Shared {
                turn = None;
            }
            if mode == PollMode::Free {
                return task.as_mut().poll(cx);
            }
            let mut started = Instant::now();
            let (is_over, had_turn) = (share.is_over(started), turn.is_some());
            if mode == PollMode::Shared && (is_over || had_turn) {
                ready!(self.poll_turn(share, &mut turn, cx));
                started = Instant::now();
            }
            let polled = task.as_mut().poll(cx);
            let cost = started.elapsed();
            share.charge(started, cost);
            if is_over || had_turn {
                self.lock().end_turn(cost, had_turn);
            }
            polled
        })
        .await
    }

    /// Waits for a turn. `turn` is the one that the task already waits for.
    fn poll_turn(&self, share: &Arc<ThreadShare>, turn: &mut Option<WaitingTurn>, cx: &Context<'_>) -> Poll<()> {
        if turn.is_none() && self.lock().has_time() {
            return Poll::Ready(());
        }
        let waiting = turn.get_or_insert_with(|| self.add_turn(share));
        waiting.turn.waker.register(cx.waker());
        if waiting.turn.is_granted.load(Ordering::Acquire) {
            waiting.is_used = true;
            *turn = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Adds a turn of a pod to the queue.
    fn add_turn(&self, share: &Arc<ThreadShare>) -> WaitingTurn {
        let turn = Arc::<Turn>::default();
        let mut queue = self.lock();
        let mut state = share.lock();
        if state.waiting.is_empty() {
            queue.pods.push_back(Arc::clone(share));
        }
        state.waiting.push_back(Arc::clone(&turn));
        if !std::mem::replace(&mut queue.is_granting, true) {
            tokio::spawn(self.clone().grant());
        }
        WaitingTurn { queue: self.clone(), turn, is_used: false }
    }

    /// Starts batches until no task waits. tokio polls a task that yields after all others that are ready, and after it
    /// has checked the sockets.
    async fn grant(self) {
        loop {
            tokio::task::yield_now().await;
            if !self.lock().start_batch() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    /// Returns true if a task can be polled in the background without waiting for a turn.
    fn has_time(&self) -> bool {
        self.pods.is_empty() && self.batch < BATCH_TIME
    }

    /// Starts a batch with the first turn. Returns false if no task waits.
    fn start_batch(&mut self) -> bool {
        self.batch = Duration::ZERO;
        self.is_granting = self.grant_next();
        self.is_granting
    }

    /// Charges a background poll to the batch. The next turn follows a granted one until the batch ends.
    fn end_turn(&mut self, cost: Duration, was_granted: bool) {
        self.batch += cost;
        if was_granted && self.batch < BATCH_TIME {
            self.grant_next();
        }
    }

    /// Grants the next pod's first turn. Skips turns of tasks that have ended. Returns false if no task waits.
    fn grant_next(&mut self) -> bool {
        while let Some(share) = self.pods.pop_front() {
            let mut state = share.lock();
            let turn = std::iter::from_fn(|| state.waiting.pop_front())
                .find(|turn| !turn.is_cancelled.load(Ordering::Acquire));
            let is_waiting = !state.waiting.is_empty();
            drop(state);
            if is_waiting {
                self.pods.push_back(share);
            }
            if let Some(turn) = turn {
                turn.is_granted.store(true, Ordering::Release);
                turn.waker.wake();
                return true;
            }
        }
        false
    }
}
