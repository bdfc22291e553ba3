//! Accepts connections of one pod within its share of the worker thread.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use podmeta_metadata::names::PodUid;
use podmeta_service::listener::Listener;

use crate::edge::Edge;

/// A listener of one pod. While the pod is over its share, connections are accepted in the background.
pub struct FairListener<L> {
    listener: L,
    pod: PodUid,
    edge: Arc<Edge>,
}

impl<L> FairListener<L> {
    pub(super) fn new(listener: L, pod: PodUid, edge: Arc<Edge>) -> Self {
        Self { listener, pod, edge }
    }
}

impl<L: Listener> Listener for FairListener<L> {
    type Connection = L::Connection;

    fn configure(&self, backlog: i32) -> io::Result<()> {
        self.listener.configure(backlog)
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        let share = self.edge.share(&self.pod);
        let is_urgent = || self.edge.has_few_connections();
        self.edge.background.run(&share, is_urgent, pin!(self.listener.accept())).await
    }
}
