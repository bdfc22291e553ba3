//! Shares the worker thread among pods. A pod that used more than its share of the thread is served in the background:
//! round robin with other such pods, in batches, and only while no other connection is ready. An attack of many pods delays
//! another pod by at most the time of one batch.

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

/// The turn of a waiting task. If it is dropped before the task used it, the next one follows at once.
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
    /// Polls a task of a pod until it is ready. While the pod is over its share, each poll waits for a turn, unless
    /// `is_urgent` returns true. Must be called in a runtime.
    pub(super) async fn run<F: Future>(
        &self,
        share: &Arc<ThreadShare>,
        is_urgent: impl Fn() -> bool,
        mut task: Pin<&mut F>,
    ) -> F::Output {
        let mut turn = None;
        poll_fn(|cx| {
            let mut started = Instant::now();
            let (is_over, had_turn) = (share.is_over(started), turn.is_some());
            if (is_over || had_turn) && !is_urgent() {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    /// Longest time that a test waits for a task. A task that gets no turn would wait forever.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A task of a pod that uses the thread for longer than a batch.
    struct BusyTask {
        name: &'static str,
        share: Arc<ThreadShare>,
        is_urgent: bool,
    }

    fn task(name: &'static str, share: &Arc<ThreadShare>) -> BusyTask {
        BusyTask { name, share: Arc::clone(share), is_urgent: false }
    }

    fn share_over() -> Arc<ThreadShare> {
        let share = Arc::<ThreadShare>::default();
        share.charge(Instant::now(), MAX_RECOVERY);
        share
    }

    /// Spawns tasks in this order. Returns their names in the order in which they end.
    async fn run_all(queue: &BackgroundQueue, tasks: impl IntoIterator<Item = BusyTask>) -> Vec<&'static str> {
        let ended = Arc::<Mutex<Vec<&'static str>>>::default();
        let spawn = |BusyTask { name, share, is_urgent }: BusyTask| {
            let (queue, ended) = (queue.clone(), Arc::clone(&ended));
            tokio::spawn(async move {
                let work = async {
                    let started = Instant::now();
                    while started.elapsed() < BATCH_TIME {
                        std::hint::spin_loop();
                    }
                    ended.lock().unwrap().push(name);
                };
                queue.run(&share, || is_urgent, pin!(work)).await;
            })
        };
        for handle in tasks.into_iter().map(spawn).collect::<Vec<_>>() {
            tokio::time::timeout(DEADLINE, handle).await.expect("a task gets no turn").unwrap();
        }
        Arc::into_inner(ended).unwrap().into_inner().unwrap()
    }

    #[test]
    fn pod_is_over_its_share_after_its_burst_and_recovers_within_a_second() {
        let (share, start) = (ThreadShare::default(), Instant::now());
        assert!(!share.is_over(start));
        share.charge(start, BURST);
        assert!(!share.is_over(start));
        share.charge(start, Duration::from_micros(1));
        assert!(share.is_over(start));
        assert!(!share.is_over(start + SHARE_DIVISOR * Duration::from_micros(1)), "its share of that time");
        share.charge(start, Duration::from_secs(100));
        assert!(share.is_over(start + MAX_RECOVERY / 2) && !share.is_over(start + MAX_RECOVERY));
    }

    #[tokio::test]
    async fn pod_within_its_share_is_served_before_waiting_tasks_of_others() {
        let (over, within) = (share_over(), Arc::default());
        let tasks = (0..50).map(|_| task("over", &over)).chain([task("within", &within)]);
        let ended = run_all(&BackgroundQueue::default(), tasks).await;
        let position = ended.iter().position(|name| *name == "within").unwrap();
        assert!(position <= 1, "after {position} of {} tasks", ended.len());
        assert_eq!(ended.len(), 51);
    }

    #[tokio::test]
    async fn pods_over_their_share_are_served_in_turn() {
        let (first, second) = (share_over(), share_over());
        let tasks = (0..50).map(|_| task("first", &first)).chain([task("second", &second)]);
        let ended = run_all(&BackgroundQueue::default(), tasks).await;
        let position = ended.iter().position(|name| *name == "second").unwrap();
        assert!(position <= 3, "after {position} of {} tasks", ended.len());
    }

    #[tokio::test]
    async fn urgent_task_does_not_wait_for_a_turn() {
        let over = share_over();
        let urgent = BusyTask { is_urgent: true, ..task("urgent", &over) };
        let tasks = (0..50).map(|_| task("over", &over)).chain([urgent]);
        let ended = run_all(&BackgroundQueue::default(), tasks).await;
        assert!(ended.iter().position(|name| *name == "urgent").unwrap() <= 1, "{ended:?}");
    }

    /// Returns a queue whose batches the test starts, and a share that is over.
    fn queue_without_time() -> (BackgroundQueue, Arc<ThreadShare>) {
        let queue = BackgroundQueue::default();
        queue.lock().batch = BATCH_TIME;
        queue.lock().is_granting = true;
        (queue, share_over())
    }

    #[test]
    fn turn_of_an_ended_task_costs_no_batch() {
        let (queue, over) = queue_without_time();
        let cx = Context::from_waker(std::task::Waker::noop());
        let (mut ended, mut waiting) = (None, None);
        assert!(queue.poll_turn(&over, &mut ended, &cx).is_pending());
        assert!(queue.poll_turn(&over, &mut waiting, &cx).is_pending());
        drop(ended);
        assert!(queue.lock().start_batch());
        assert!(queue.poll_turn(&over, &mut waiting, &cx).is_ready());
        assert!(!queue.lock().start_batch(), "no turn is left");
    }

    #[test]
    fn granted_turn_of_an_ended_task_passes_to_the_next_one() {
        let (queue, over) = queue_without_time();
        let cx = Context::from_waker(std::task::Waker::noop());
        let (mut ended, mut waiting) = (None, None);
        assert!(queue.poll_turn(&over, &mut ended, &cx).is_pending());
        assert!(queue.poll_turn(&over, &mut waiting, &cx).is_pending());
        assert!(queue.lock().start_batch());
        drop(ended);
        assert!(queue.poll_turn(&over, &mut waiting, &cx).is_ready());
    }

    #[tokio::test]
    async fn tasks_that_stop_waiting_do_not_delay_others() {
        let (queue, over) = (BackgroundQueue::default(), share_over());
        queue.lock().batch = BATCH_TIME;
        for _ in 0..10 {
            let task = pin!(std::future::pending::<()>());
            assert!(queue.run(&over, || false, task).now_or_never().is_none());
        }
        assert_eq!(over.lock().waiting.len(), 10, "turns that no task waits for");
        assert_eq!(run_all(&queue, [task("over", &over)]).await, ["over"]);
    }

    #[test]
    fn turns_are_granted_until_the_batch_has_used_its_time() {
        let (mut queue, share, turns) =
            (QueueState::default(), Arc::<ThreadShare>::default(), [(); 3].map(|()| Arc::<Turn>::default()));
        share.lock().waiting.extend(turns.iter().cloned());
        queue.pods.push_back(share);
        let granted = || turns.iter().filter(|turn| turn.is_granted.load(Ordering::Acquire)).count();
        assert!(queue.start_batch());
        assert_eq!(granted(), 1);
        queue.end_turn(BATCH_TIME / 2, true);
        assert_eq!(granted(), 2);
        queue.end_turn(BATCH_TIME / 2, true);
        assert_eq!(granted(), 2, "the batch has ended");
        assert!(queue.start_batch());
        assert_eq!(granted(), 3);
        assert!(!queue.start_batch(), "no task waits");
    }
}
