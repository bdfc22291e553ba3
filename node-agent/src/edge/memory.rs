//! Byte budgets for the memory of connections: one for each pod, one for the agent. The state of a connection determines its
//! charge. Over the pod's budget, a connection of the pod is evicted: the oldest with an unread response, else the oldest.
//! Over the agent's budget, the pod with the largest charge loses connections first. New connections of a pod over its
//! budget wait ([`reconnect_delay`]).

mod reconnect_delay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::{Future as _, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use reconnect_delay::ReconnectDelay;
use tokio::time::{Instant, sleep_until};

use crate::edge::limit::PodKey;

/// Maximum charge of the connections of one pod, in bytes. It suffices for 1,228 connections with a partial head.
const POD_BUDGET: usize = 24 * 1024 * 1024;

/// Maximum charge of all connections, in bytes. With the rest of the agent it is below half of the chart's limit of
/// 256 MiB.
const AGENT_BUDGET: usize = 96 * 1024 * 1024;

/// State of a connection that determines its charge. A charge is an upper bound of user and kernel memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferState {
    /// The client has sent nothing.
    Idle,
    /// The client has sent bytes: hyper holds a read buffer of 8 KiB and a write buffer of 8 KiB. A connection
    /// that `ReconnectDelay` delays has this state too: the kernel's receive buffer holds at most 16 KiB of its client, and
    /// the kernel's overhead.
    Receiving,
    /// The kernel's send buffer may hold more than 4 KiB that the client has not received.
    Sent,
    /// The client does not read its response: both socket buffers may be full too.
    Unread,
}

impl BufferState {
    /// Returns the charge in bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Idle => 9 * 1024,
            Self::Receiving => 20 * 1024,
            Self::Sent => 52 * 1024,
            Self::Unread => 96 * 1024,
        }
    }
}

/// The charges of all connections.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryBudget(Arc<Mutex<Charges>>);

#[derive(Debug, Default)]
struct Charges {
    total: usize,
    pods: BTreeMap<PodKey, PodCharges>,
    next_id: u64,
}

#[derive(Debug, Default)]
struct PodCharges {
    total: usize,
    /// By connection ID. IDs increase, so the oldest connection is first.
    connections: BTreeMap<u64, Charge>,
    delay: ReconnectDelay,
}

#[derive(Debug)]
struct Charge {
    state: BufferState,
    eviction: Arc<Eviction>,
}

/// Signals a connection that it is evicted.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Eviction {
    /// Returns true if the connection must be closed.
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The charge of one connection. Dropping it frees the charge.
#[derive(Debug)]
pub(super) struct ConnectionCharge {
    budget: MemoryBudget,
    pod: PodKey,
    id: u64,
    state: BufferState,
    eviction: Arc<Eviction>,
    /// The time before which the connection may not be served.
    start: Option<Instant>,
}

impl MemoryBudget {
    /// Charges a new connection of a pod.
    pub(super) fn open(&self, pod: PodKey, now: Instant) -> ConnectionCharge {
        let eviction = Arc::<Eviction>::default();
        let mut charges = self.lock();
        let id = charges.next_id;
        charges.next_id += 1;
        let of_pod = charges.pods.entry(pod).or_default();
        let start = of_pod.delay.reserve_start(now);
        let state = if start.is_some() { BufferState::Receiving } else { BufferState::Idle };
        of_pod.total += state.bytes();
        of_pod.connections.insert(id, Charge { state, eviction: Arc::clone(&eviction) });
        charges.total += state.bytes();
        charges.evict(pod, now);
        drop(charges);
        ConnectionCharge { budget: self.clone(), pod, id, state, eviction, start }
    }

    fn lock(&self) -> MutexGuard<'_, Charges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charges {
    /// Evicts connections until the charges of `pod` and of the agent are within their budgets.
    fn evict(&mut self, pod: PodKey, now: Instant) {
        while let Some(charges) = self.pods.get_mut(&pod).filter(|charges| charges.total > POD_BUDGET) {
            charges.delay.record_eviction(now);
            self.evict_one(pod);
        }
        while self.total > AGENT_BUDGET {
            let largest = self.pods.iter().max_by_key(|(_, charges)| charges.total);
            let Some(pod) = largest.map(|(pod, _)| *pod) else { return };
            self.evict_one(pod);
        }
    }

    /// Evicts a connection of the pod: the oldest one with an unread response, else the oldest one.
    fn evict_one(&mut self, pod: PodKey) {
        let Some(PodCharges { connections, .. }) = self.pods.get(&pod) else { return };
        let unread = connections.iter().find(|(_, charge)| charge.state == BufferState::Unread);
        if let Some(id) = unread.or_else(|| connections.iter().next()).map(|(id, _)| *id)
            && let Some(charge) = self.remove(pod, id)
        {
            charge.eviction.evict();
        }
    }

    fn remove(&mut self, pod: PodKey, id: u64) -> Option<Charge> {
        let charges = self.pods.get_mut(&pod)?;
        let charge = charges.connections.remove(&id)?;
        charges.total -= charge.state.bytes();
        self.total -= charge.state.bytes();
        if charges.connections.is_empty() {
            self.pods.remove(&pod);
        }
        Some(charge)
    }

    /// Changes the state of a connection. Returns false if it was evicted.
    fn set(&mut self, pod: PodKey, id: u64, state: BufferState, now: Instant) -> bool {
        let Some(charges) = self.pods.get_mut(&pod) else { return false };
        let Some(charge) = charges.connections.get_mut(&id) else { return false };
        let old = std::mem::replace(&mut charge.state, state);
        charges.total = charges.total - old.bytes() + state.bytes();
        self.total = self.total - old.bytes() + state.bytes();
        self.evict(pod, now);
        self.pods.get(&pod).is_some_and(|charges| charges.connections.contains_key(&id))
    }
}

impl ConnectionCharge {
    /// Returns the state that is charged.
    pub(super) fn state(&self) -> BufferState {
        self.state
    }

    /// Charges another state.
    ///
    /// # Errors
    /// If the connection was evicted, now or before. It must be closed.
    pub(super) fn set(&mut self, state: BufferState) -> io::Result<()> {
        self.state = state;
        let kept = self.budget.lock().set(self.pod, self.id, state, Instant::now());
        if kept { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    /// Waits until the connection may be served. Returns immediately, unless the pod was over its budget within the last second.
    ///
    /// # Errors
    /// If the connection was evicted. It must be closed.
    pub(super) async fn wait_for_start(&self) -> io::Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let mut sleep = Box::pin(sleep_until(start)); // on the heap, because few connections wait
        poll_fn(|cx| {
            let polled = sleep.as_mut().poll(cx).map(Ok);
            self.poll_or_evicted(cx, polled)
        })
        .await
    }

    /// Returns the eviction of the connection.
    pub(super) fn eviction(&self) -> &Arc<Eviction> {
        &self.eviction
    }

    /// Returns `polled`, or an error if it is pending and the connection was evicted. A later eviction wakes the task.
    pub(super) fn poll_or_evicted<T>(&self, cx: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.eviction.waker.register(cx.waker());
            if self.eviction.is_evicted() {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
        }
        polled
    }
}

impl Drop for ConnectionCharge {
    fn drop(&mut self) {
        drop(self.budget.lock().remove(self.pod, self.id)); // `None` if it was evicted
    }
}
