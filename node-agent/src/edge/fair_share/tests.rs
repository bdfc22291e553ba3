use std::cell::Cell;
use std::pin::pin;

use futures_util::FutureExt as _;

use super::*;

/// Longest time that a test waits for a task. A task that gets no turn would wait forever.
const DEADLINE: Duration = Duration::from_secs(20);

/// A task of a pod that uses the thread for longer than a batch.
struct BusyTask {
    name: &'static str,
    share: Arc<ThreadShare>,
    mode: PollMode,
}

fn task(name: &'static str, share: &Arc<ThreadShare>) -> BusyTask {
    BusyTask { name, share: Arc::clone(share), mode: PollMode::Shared }
}

fn share_over() -> Arc<ThreadShare> {
    let share = Arc::<ThreadShare>::default();
    share.charge(Instant::now(), MAX_RECOVERY);
    share
}

/// Spawns tasks in this order. Returns their names in the order in which they end.
async fn run_all(queue: &BackgroundQueue, tasks: impl IntoIterator<Item = BusyTask>) -> Vec<&'static str> {
    let ended = Arc::<Mutex<Vec<&'static str>>>::default();
    let spawn = |BusyTask { name, share, mode }: BusyTask| {
        let (queue, ended) = (queue.clone(), Arc::clone(&ended));
        tokio::spawn(async move {
            let work = async {
                let started = Instant::now();
                while started.elapsed() < BATCH_TIME {
                    std::hint::spin_loop();
                }
                ended.lock().unwrap().push(name);
            };
            queue.run(&share, || mode, pin!(work)).await;
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
    let urgent = BusyTask { mode: PollMode::Urgent, ..task("urgent", &over) };
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
async fn free_poll_is_not_charged() {
    for (mode, is_charged) in [(PollMode::Free, false), (PollMode::Urgent, true), (PollMode::Shared, true)] {
        let share = Arc::<ThreadShare>::default();
        BackgroundQueue::default().run(&share, || mode, pin!(async {})).await;
        assert_eq!(share.lock().recovered_at.is_some(), is_charged, "{mode:?}");
    }
}

#[test]
fn waiting_task_that_need_not_wait_passes_its_turn_on() {
    for later_mode in [PollMode::Free, PollMode::Urgent] {
        let (queue, over) = queue_without_time();
        let mode = Cell::new(PollMode::Shared);
        let pending = pin!(std::future::pending::<()>());
        let mut task = pin!(queue.run(&over, || mode.get(), pending));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(task.as_mut().poll(&mut cx).is_pending());
        let mut next = None;
        assert!(queue.poll_turn(&over, &mut next, &cx).is_pending());
        queue.lock().batch = Duration::ZERO;
        mode.set(later_mode);
        for _ in 0..3 {
            assert!(task.as_mut().poll(&mut cx).is_pending());
        }
        assert!(queue.poll_turn(&over, &mut next, &cx).is_pending(), "{later_mode:?}: no batch has started");
        assert!(queue.lock().start_batch());
        assert!(queue.poll_turn(&over, &mut next, &cx).is_ready(), "{later_mode:?}: the next turn is granted");
    }
}

#[tokio::test]
async fn tasks_that_stop_waiting_do_not_delay_others() {
    let (queue, over) = (BackgroundQueue::default(), share_over());
    queue.lock().batch = BATCH_TIME;
    for _ in 0..10 {
        let task = pin!(std::future::pending::<()>());
        assert!(queue.run(&over, || PollMode::Shared, task).now_or_never().is_none());
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
