//! The agent of a node: serves the node's pods with the operator's data. It uses no Kubernetes API and changes nothing
//! on the node.

#[cfg(test)]
pub(crate) mod fixture;
mod host_pods;
mod leftovers;
mod link_findings;
mod link_metrics;
mod links;
mod node_state;
mod owners;
mod state_file;
mod sync;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use jiff::Timestamp;
use podmeta_metadata::node_guard::NodeGuardState;
use podmeta_service::admin::Admin;
use podmeta_service::limits;
use podmeta_service::log::{self, LogGuard};
use podmeta_service::signals::{Signals, StopSignal};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::broker::{Broker, OperatorBroker};
use crate::debug;
use crate::edge::{Edge, EdgeServer};
use crate::keys::{self, KeyFile};
use crate::operator_client::{OperatorClient, OperatorEndpoint};
use crate::private_file;
use host_pods::HostPodServer;
use link_metrics::LinkMetrics;
use links::LinkServer;
use owners::OwnerClient;
use podmeta_service::listener::Acceptor;

pub use node_state::NodeState;
pub use state_file::{SavedState, StateFile};

/// Time that open connections get to finish when the agent stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the pods of this node with the operator's data. The chart runs it.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// URL of the operator's Service.
    #[arg(long, value_name = "URL")]
    pub operator: Uri,

    /// Certificates of the operator's CAs, in PEM.
    #[arg(long, default_value = "/etc/podmeta/operator-ca/ca.crt", value_name = "FILE")]
    pub operator_ca: PathBuf,

    /// ServiceAccount token of the agent, with the operator's audience.
    #[arg(long, default_value = "/var/run/secrets/podmeta.dev/token", value_name = "FILE")]
    pub token: PathBuf,

    /// Directory for session keys and saved pods. Use a tmpfs of this node: the files contain secrets.
    #[arg(long, default_value = "/run/podmeta/serve", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Address for health, readiness and metrics.
    #[arg(long, default_value = "[::]:8081", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Debug socket for `podmeta-node-agent query`. Root on the node can query every pod through it. Off if not given.
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = debug::DEFAULT_PATH)]
    pub debug_socket: Option<PathBuf>,

    /// Socket of the link daemon on this node. Without it, no pod reaches the agent.
    #[arg(long, value_name = "PATH")]
    pub link_socket: Option<PathBuf>,

    /// Log filter, such as info, or info,access=debug to log each request.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Runs `serve` until it receives a termination signal.
///
/// # Errors
/// If the agent cannot start, or the task that serves the links ends (internal error).
pub fn main(args: ServeArgs) -> Result<ExitCode> {
    let filter =
        EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?} is not a valid filter", args.log))?;
    let log = log::init(filter);
    limits::disable_core_dumps().context("cannot disable core dumps")?;
    limits::raise_open_files();
    keys::initialize_random();
    ensure!(
        args.operator.scheme_str() == Some("https") && args.operator.host().is_some(),
        "--operator {} is not a URL such as https://podmeta-operator.podmeta-system.svc:8443",
        args.operator
    );
    private_file::create_dir(&args.state_dir)
        .with_context(|| format!("cannot create {} (--state-dir)", args.state_dir.display()))?;
    if let Err(error) = leftovers::remove(&args.state_dir, SystemTime::now()) {
        tracing::warn!(
            directory = %args.state_dir.display(),
            %error,
            "cannot remove temporary files of earlier agents; leaving them"
        );
    }
    // The operator's data is parsed in a runtime of its own, so that a list of many pods delays no request.
    let sync_runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let edge_runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = edge_runtime.block_on(serve(args, sync_runtime.handle(), &log));
    sync_runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(args: ServeArgs, sync_runtime: &runtime::Handle, log: &LogGuard) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (stop, acceptor) = (CancellationToken::new(), Acceptor::default());
    let key_file = KeyFile::at(args.state_dir.join("session-keys.json"));
    let state_file = StateFile::in_dir(&args.state_dir);
    let saved = state_file.read()?;
    let restored = saved.is_some();
    let mut saved = saved.unwrap_or_default();

    let endpoint = OperatorEndpoint { url: args.operator, ca: args.operator_ca, token: args.token };
    // Connections belong to the runtime that uses them, so each runtime has its own client.
    let (broker_client, sync_client) = (OperatorClient::new(endpoint.clone()), OperatorClient::new(endpoint));
    let broker = OperatorBroker::new(broker_client, std::mem::take(&mut saved.broker_state));
    let keys = key_file.load(Timestamp::now())?;
    let edge = Edge::new(keys, Broker::Operator(Arc::clone(&broker)), Arc::new(Timestamp::now));
    let node = NodeState::new(Arc::clone(&edge), Arc::clone(&broker), saved);

    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    registry.sub_registry_with_prefix("podmeta_agent").register_collector(Box::new(log.dropped_lines()));
    let link_metrics = LinkMetrics::register(&mut registry);
    let admin = Admin::new(registry);
    let listener = TcpListener::bind(args.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} (--admin-listen)", args.admin_listen))?;
    admin.serve(listener, &Acceptor::default(), stop.clone())?;
    if restored {
        tracing::info!("serving saved state until the operator is reachable");
    }
    let published = Arc::clone(&edge);
    tokio::spawn(key_file.refresh(move |keys| published.set_keys(keys)));
    let (has_pods_tx, has_pods) = watch::channel(restored);
    sync_runtime.spawn(sync::follow(Arc::clone(&sync_client), Arc::clone(&node), move |is_ready| {
        has_pods_tx.send_replace(is_ready);
    }));
    sync_runtime.spawn(sync::report(sync_client, Arc::clone(&node), Arc::clone(&broker)));
    sync_runtime.spawn(sync::save(state_file.clone(), Arc::clone(&node), broker, stop.clone()));

    if let Some(path) = &args.debug_socket {
        let (listener, server) = (debug::bind(path)?, EdgeServer::new(Arc::clone(&edge), stop.clone()));
        let node = Arc::clone(&node);
        debug::serve(listener, &acceptor, stop.clone(), server, move |pod| node.find(pod))?;
        tracing::warn!(socket = %path.display(), "debug socket enabled: root on this node can query every pod of the node");
    }
    let (links_are_open_tx, links_are_open) = watch::channel(true);
    if args.link_socket.is_none() {
        node.set_guard(NodeGuardState::Unknown);
    }
    let mut links_task = tokio::spawn(std::future::pending::<()>());
    if let Some(socket) = args.link_socket {
        links_are_open_tx.send_replace(false);
        let server = EdgeServer::new(Arc::clone(&edge), stop.clone());
        let owners = OwnerClient::new(socket.clone());
        let links = LinkServer {
            host_pods: HostPodServer::new(owners.clone()),
            owners,
            socket,
            acceptor: acceptor.clone(),
            server,
            node: Arc::clone(&node),
            sync_runtime: sync_runtime.clone(),
            metrics: link_metrics,
            stop: stop.clone(),
        };
        let mut has_pods = has_pods.clone();
        links_task = tokio::spawn(async move {
            // Connections arrive as soon as the sockets are open, so the pods must be known first.
            if has_pods.wait_for(|has_pods| *has_pods).await.is_ok() {
                links.serve(move || _ = links_are_open_tx.send_replace(true)).await;
            }
        });
    }
    tokio::spawn(report_readiness(admin, has_pods, links_are_open));
    wait_until_stopped(signals.next(), links_task).await?;
    stop.cancel();
    if acceptor.drain(SHUTDOWN_TIMEOUT).await.is_err() {
        tracing::warn!(timeout = ?SHUTDOWN_TIMEOUT, "shutdown timed out; closing open connections");
    }
    // The state is saved after each change. A write now could replace the newer state of the next agent.
    Ok(())
}

/// Waits for a signal.
///
/// # Errors
/// If the task that serves the links ends first, which is a panic. An agent that serves no link must not run.
async fn wait_until_stopped(signal: impl Future<Output = StopSignal>, links_task: JoinHandle<()>) -> Result<()> {
    tokio::select! {
        _signal = signal => Ok(()),
        _panic = links_task => bail!("internal error: the task that serves the links ended"),
    }
}

/// Sets the readiness of the agent: it has a state of its pods and its listeners are open.
async fn report_readiness(
    admin: Arc<Admin>,
    mut has_pods: watch::Receiver<bool>,
    mut links_are_open: watch::Receiver<bool>,
) {
    loop {
        admin.set_ready(*has_pods.borrow_and_update() && *links_are_open.borrow_and_update());
        let changed = tokio::select! {
            changed = has_pods.changed() => changed,
            // The sender ends with the listeners' task, and this value stays.
            Ok(()) = links_are_open.changed() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_of_the_links_task_ends_the_agent_with_an_error() {
        let panicked = tokio::spawn(async { panic!("a panic of this test") });
        let result = wait_until_stopped(std::future::pending(), panicked).await;
        assert!(result.unwrap_err().to_string().contains("the task that serves the links ended"));
    }

    #[tokio::test]
    async fn signal_ends_the_agent_without_an_error() {
        let links_task = tokio::spawn(std::future::pending());
        assert!(wait_until_stopped(std::future::ready(StopSignal::Terminate), links_task).await.is_ok());
    }
}
