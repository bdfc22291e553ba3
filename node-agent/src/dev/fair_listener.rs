//! Accepts connections of one pod within its share of the worker thread. Only in dev mode, where each pod has its own listeners.
//! In a cluster, all links of a node share one listener, so the pod of a connection is known only after it is accepted.

use std::io;

use podmeta_metadata::names::PodUid;
use podmeta_service::listener::Listener;

use crate::edge::EdgeServer;

/// A listener of one pod. It accepts connections within the share of the pod: see [`EdgeServer::run_within_share`].
pub(super) struct FairListener<L> {
    pub(super) listener: L,
    pub(super) pod: PodUid,
    pub(super) server: EdgeServer,
}

impl<L: Listener> Listener for FairListener<L> {
    type Connection = L::Connection;

    fn configure(&self, backlog: i32) -> io::Result<()> {
        self.listener.configure(backlog)
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        self.server.run_within_share(&self.pod, self.listener.accept()).await
    }
}
