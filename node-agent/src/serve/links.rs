//! Serves the links of the node's pods: gets sockets of the agent namespace from the link daemon, and finds the pod of each
//! connection by the link at which it arrived.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use podmeta_link::alias::Alias;
use podmeta_link::client;
use podmeta_link::findings::log_changes;
use podmeta_link::host_pods::addresses::service_of;
use podmeta_link::identity::{LinkChange, LinkOwner, LinkTable, bind_to_arrival_interface};
use podmeta_link::netns::NetnsId;
use podmeta_link::protocol::HostPodsMode;
use podmeta_link::requirements::kernel_release;
use podmeta_link::sockets::AgentSockets;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::node_finding::NodeFindings;
use podmeta_metadata::request::IpFamily;
use podmeta_metadata::workload::{Link, MacAddress};
use podmeta_service::listener::{Acceptor, TcpConnection, adopt};
use tokio::runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::edge::{Arrival, EdgeServer};
use crate::serve::NodeState;
use crate::serve::host_pods::HostPodServer;
use crate::serve::link_findings::LinkFindings;
use crate::serve::link_metrics::LinkMetrics;
use crate::serve::owners::OwnerClient;

/// Interval of checks whether the agent namespace was replaced.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Timeout of one check. It makes up to three calls of the link daemon, each of which ends within 10 s.
const CHECK_TIMEOUT: Duration = Duration::from_secs(40);

/// Delay before the link daemon is called again after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves the connections of all links of the node.
#[derive(Clone)]
pub(super) struct LinkServer {
    /// Socket of the link daemon.
    pub(super) socket: PathBuf,
    pub(super) owners: OwnerClient,
    pub(super) host_pods: HostPodServer,
    pub(super) acceptor: Acceptor,
    pub(super) server: EdgeServer,
    pub(super) node: Arc<NodeState>,
    /// The runtime that follows the operator.
    pub(super) sync_runtime: runtime::Handle,
    pub(super) metrics: LinkMetrics,
    /// Ends the listeners.
    pub(super) stop: CancellationToken,
}

impl LinkServer {
    /// Serves the links until the task is cancelled. Calls `set_open` after each check with open sockets. If the agent
    /// namespace is replaced, gets sockets of the new one.
    pub(super) async fn serve(self, set_open: impl Fn() + Send) -> Infallible {
        let (mut current, mut findings) = (None, LinkFindings::default());
        let mut reported = NodeFindings::new();
        let kernel_release = kernel_release();
        loop {
            let check = timeout(CHECK_TIMEOUT, self.check(&mut current, &mut findings)).await;
            let result = check.unwrap_or_else(|_| Err(anyhow!("the check did not end within {CHECK_TIMEOUT:?}")));
            let found = findings.record_check(result.as_ref().err(), &kernel_release, Instant::now());
            log_changes(&reported, &found);
            self.metrics.record_findings(&found);
            self.node.set_findings(found.clone());
            self.node.set_guard(findings.guard(Instant::now()));
            reported = found;
            let delay = match result {
                Ok(()) => {
                    set_open();
                    CHECK_INTERVAL
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        is_serving = current.is_some(),
                        "cannot get the sockets of the links; retrying. If `is_serving` is false, the node's pods get no response: \
                         read the log of the link daemon on this node"
                    );
                    if current.is_some() { CHECK_INTERVAL } else { RETRY_DELAY }
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// Opens the listener if there is none, if the agent namespace was replaced, or if the open sockets no
    /// longer work.
    async fn check(&self, current: &mut Option<OpenSockets>, findings: &mut LinkFindings) -> Result<()> {
        let status = blocking(&self.socket, client::node_status).await?;
        self.metrics.record(&status.counters);
        let namespace = status.namespace;
        self.report_node_pods(status.host_pods).await;
        findings.record_status(status, Instant::now());
        if let Some(open) = current.as_ref().filter(|open| open.namespace == namespace) {
            match open.refresh().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "cannot use the open sockets of the links; opening new ones"
                ),
            }
        }
        let (namespace, sockets) = blocking(&self.socket, client::receive_sockets).await?;
        *current = Some(self.open(namespace, sockets).await?);
        tracing::info!("serving the links of the node's pods");
        Ok(())
    }

    /// Reports the pods that use the node's own metadata service, if pods on the host network are redirected.
    async fn report_node_pods(&self, mode: HostPodsMode) {
        self.node.set_host_pods(mode);
        if mode == HostPodsMode::NotServed {
            return;
        }
        // An agent that knows no pods yet would end the exemption of all.
        let Some(pods) = self.node.node_pods() else { return };
        let socket = self.socket.clone();
        let report = tokio::task::spawn_blocking(move || client::set_node_pods(&socket, pods)).await;
        if let Err(error) = report.map_err(anyhow::Error::from).flatten() {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot report to the link daemon which pods use the node's own metadata service; \
                 retrying"
            );
        }
    }

    async fn open(&self, namespace: NetnsId, sockets: AgentSockets) -> Result<OpenSockets> {
        let AgentSockets { listener, events, requests } = sockets;
        // A pod can cause many events, so they are not received on the edge runtime.
        let (table, changes) = self.sync_runtime.spawn(LinkTable::open(events, requests)).await??;
        self.node.clear_links();
        // A list of many pods holds the lock of the pods for a long time. It must not delay requests.
        let changes = self.sync_runtime.spawn(apply_changes(changes, Arc::clone(&self.node)));
        let (stop, server) = (self.stop.child_token(), self.server.clone());
        let (links, owners, host_pods) = (table.clone(), self.owners.clone(), self.host_pods.clone());
        let handle = move |connection| {
            serve_connection(connection, links.clone(), owners.clone(), host_pods.clone(), server.clone())
        };
        let accept_loop = self.acceptor.spawn(adopt(listener)?, None, stop.clone(), handle)?;
        Ok(OpenSockets { namespace, table, stop, accept_loop, changes })
    }
}

/// The sockets in use. Their listener ends on drop.
struct OpenSockets {
    namespace: NetnsId,
    table: LinkTable,
    stop: CancellationToken,
    accept_loop: JoinHandle<()>,
    changes: JoinHandle<()>,
}

impl OpenSockets {
    /// Reads the links again.
    ///
    /// # Errors
    /// If a route socket failed, or a task has panicked. The sockets must then be replaced.
    async fn refresh(&self) -> Result<()> {
        let is_accepting = self.stop.is_cancelled() || !self.accept_loop.is_finished();
        ensure!(is_accepting, "internal error: the accept loop of the links ended");
        ensure!(!self.changes.is_finished(), "internal error: the task that applies changes of links ended");
        self.table.refresh().await.context("cannot read the links of the node")
    }
}

impl Drop for OpenSockets {
    fn drop(&mut self) {
        self.stop.cancel();
        self.changes.abort();
    }
}

/// Calls the link daemon in a thread for blocking calls.
async fn blocking<T: Send + 'static>(socket: &Path, call: fn(&Path) -> Result<T>) -> Result<T> {
    let socket = socket.to_owned();
    tokio::task::spawn_blocking(move || call(&socket)).await?
}

/// Applies changes of links to the pods of the node.
async fn apply_changes(mut changes: UnboundedReceiver<LinkChange>, node: Arc<NodeState>) {
    while let Some(change) = changes.recv().await {
        match change {
            LinkChange::Added(alias) => node.set_link(&alias.pod, alias.sandbox.as_str(), link(&alias)),
            LinkChange::Removed(alias) => node.remove_link(&alias.pod, alias.sandbox.as_str()),
        }
    }
}

fn link(alias: &Alias) -> Link {
    Link {
        ipv4: alias.ipv4.into_iter().collect(),
        ipv6: alias.ipv6.into_iter().collect(),
        mac: alias.mac.unwrap_or_else(|| MacAddress::from_uid(&alias.pod)),
    }
}

/// Serves one connection of a link. A connection that arrived at no link is closed.
async fn serve_connection(
    connection: TcpConnection,
    table: LinkTable,
    owners: OwnerClient,
    host_pods: HostPodServer,
    server: EdgeServer,
) {
    let TcpConnection { stream, remote, local } = connection;
    let interface = match bind_to_arrival_interface(&stream) {
        Ok(interface) => interface,
        Err(error) => return tracing::debug!(%error, "closing connection: its link is gone"),
    };
    let alias = match table.find(interface).await {
        Ok(Some(LinkOwner::Pod(alias))) => alias,
        Ok(Some(LinkOwner::Node)) => return host_pods.serve(stream, remote, local, server).await,
        Ok(None) => return tracing::warn!(interface, "closing connection: its interface is not a link"),
        Err(error) => return tracing::warn!(interface, %error, "closing connection: cannot read its link"),
    };
    let service = local.ip().to_canonical();
    if service_of(service).is_some() {
        return tracing::debug!(%service, "closing connection: its address belongs to the node's link");
    }
    let arrival = Arrival {
        pod: alias.pod.clone(),
        service,
        family: if service.is_ipv6() { IpFamily::Ipv6 } else { IpFamily::Ipv4 },
        host_rule: &HostRule::POD_LINK,
        owner: Some(owners.of_connection(alias, remote, local)),
    };
    server.serve(stream, Box::new(arrival)).await;
}
