//! Tests of the memory budgets.

use std::time::Duration;

use super::*;

/// Opens a connection of a pod. Any two different keys are different pods.
fn open(budget: &MemoryBudget, pod: usize) -> ConnectionCharge {
    budget.open(PodKey(pod), Instant::now())
}

fn evicted(connections: &[ConnectionCharge]) -> usize {
    connections.iter().filter(|charge| charge.eviction.is_evicted()).count()
}

#[test]
fn pod_over_its_budget_loses_connections_with_unread_responses() {
    let budget = MemoryBudget::default();
    let mut other = open(&budget, 2);
    other.set(BufferState::Unread).unwrap();
    let mut idle = (0..10).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    let mut unread = (0..POD_BUDGET / BufferState::Unread.bytes()).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    for charge in &mut unread {
        charge.set(BufferState::Unread).unwrap();
    }
    assert_eq!((evicted(&idle), evicted(&unread)), (0, 1), "the idle ones are over the budget together with these");
    assert!(unread[0].eviction.is_evicted() && !other.eviction.is_evicted());
    assert!(budget.lock().pods[&PodKey(1)].total <= POD_BUDGET);
    for charge in &mut idle {
        charge.set(BufferState::Receiving).unwrap();
    }
}

#[test]
fn agent_over_its_budget_evicts_from_the_largest_pod() {
    let budget = MemoryBudget::default();
    let small = (0..10).map(|_| open(&budget, 0)).collect::<Vec<_>>();
    let of_pod = POD_BUDGET / BufferState::Idle.bytes();
    let large = (0..5 * of_pod).map(|number| open(&budget, 1 + number / of_pod)).collect::<Vec<_>>();
    assert!(budget.lock().total <= AGENT_BUDGET);
    assert!(evicted(&large) >= of_pod - 1, "five pods want five quarters of the budget");
    let late = open(&budget, 6);
    assert!(evicted(&small) == 0 && !late.eviction.is_evicted(), "small pods keep and get connections");
}

#[test]
fn closed_and_evicted_connections_free_their_charge_once() {
    let budget = MemoryBudget::default();
    let connections = (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    assert!(connections[0].eviction.is_evicted(), "the oldest is evicted first");
    assert!(!connections.last().unwrap().eviction.is_evicted());
    drop(connections);
    let charges = budget.lock();
    assert_eq!((charges.total, charges.pods.len()), (0, 0));
}

#[test]
fn evicted_connection_cannot_change_its_charge() {
    let budget = MemoryBudget::default();
    let mut first = open(&budget, 1);
    let _others = (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    assert_eq!(first.set(BufferState::Receiving).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}

#[tokio::test]
async fn eviction_wakes_a_pending_connection() {
    let budget = MemoryBudget::default();
    let first = open(&budget, 1);
    let pending = std::future::poll_fn(|cx| first.poll_or_evicted::<()>(cx, Poll::Pending));
    let evict = async { (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>() };
    let (result, _others) = tokio::join!(pending, evict);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}

#[tokio::test(start_paused = true)]
async fn new_connections_of_a_pod_that_loses_connections_wait() {
    let (budget, started) = (MemoryBudget::default(), Instant::now());
    let connections = (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    open(&budget, 2).wait_for_start().await.unwrap();
    connections[1].wait_for_start().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "another pod, and a connection before the first eviction");
    connections.last().unwrap().wait_for_start().await.unwrap();
    assert!(started.elapsed() > Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_evicted_while_it_waits_is_closed_immediately() {
    let (budget, started) = (MemoryBudget::default(), Instant::now());
    let mut connections = (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>();
    let waiting = connections.pop().unwrap();
    let evict = async { (0..3000).map(|_| open(&budget, 1)).collect::<Vec<_>>() };
    let (result, _others) = tokio::join!(waiting.wait_for_start(), evict);
    assert_eq!((result.unwrap_err().kind(), started.elapsed()), (io::ErrorKind::OutOfMemory, Duration::ZERO));
}
