//! Starts and stops the operator: the watches, the reconcile task, leader election and the agents' API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use podmeta_agent_api::Epoch;
use podmeta_metadata::compile::UnlistedClaims;
use podmeta_metadata::signature::Signer;
use podmeta_service::admin::Admin;
use podmeta_service::limits;
use podmeta_service::listener::Acceptor;
use podmeta_service::log::{self, LogGuard};
use podmeta_service::signals::Signals;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as watch_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::agents::api::{Api, ApiContext};
use crate::agents::listener;
use crate::agents::token_review::TokenReviewer;
use crate::args::Args;
use crate::cluster::cluster_id::ClusterId;
use crate::cluster::watch_client::watch_client;
use crate::cluster::{FIELD_MANAGER, cluster_id, references, secrets, watch};
use crate::credentials::issuer::{CredentialsIssuer, IsCurrent};
use crate::credentials::pod_token::PodTokens;
use crate::credentials::providers::{Providers, operator_credentials};
use crate::credentials::request;
use crate::credentials::token_policy::{TokenPolicyState, TokenPolicyTest};
use crate::identity_key;
use crate::leader::lease::{LeaderElector, Leadership, forward_leadership};
use crate::leader::node_findings;
use crate::leader::node_guard_writer::NodeGuardWriter;
use crate::leader::startup_taint;
use crate::leader::status_writer::StatusWriter;
use crate::metrics::Metrics;
use crate::model::node_guard::AgentAccount;
use crate::model::state::OperatorState;
use crate::model::update::StateUpdate;
use crate::reconcile::{Reconciler, SharedState, UPDATE_QUEUE_SIZE};
use crate::tls::serving_certificate::{CertificateLoader, ServingCertificate};

/// The maximum duration of a graceful shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs the operator until it gets a signal to stop.
///
/// # Errors
/// If it cannot start, or the reconcile task fails.
pub fn main(args: Args) -> Result<()> {
    let filter = EnvFilter::try_new(log_directives(&args.log));
    let filter = filter.with_context(|| format!("--log {:?} is not a valid filter", args.log))?;
    let log = log::init(filter);
    limits::disable_core_dumps().context("cannot disable core dumps")?;
    limits::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args, &log))
}

/// Returns the directives of the log: limits for libraries that would log tokens, credentials and Secrets in bodies, then
/// `filter`, the value of `--log`. The callers of these libraries log errors with more context.
#[must_use]
pub(crate) fn log_directives(filter: &str) -> String {
    format!(
        "kube_client::client=off,aws_config=warn,aws_runtime=warn,aws_sdk_sts=warn,aws_sigv4=warn,aws_smithy_http_client=warn,\
         aws_smithy_runtime=warn,aws_smithy_runtime_api=warn,{filter}"
    )
}

async fn run(args: Args, log: &LogGuard) -> Result<()> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let config = Config::infer().await;
    let config = config.context("cannot find an API server: run the operator in a pod, or set KUBECONFIG")?;
    let watch_client = watch_client(config.clone())?;
    let client = Client::try_from(config)?;

    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.sub_registry_with_prefix("podmeta_operator").register_collector(Box::new(log.dropped_lines()));
    let admin = Admin::new(registry);
    let listener = TcpListener::bind(args.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} (--admin-listen)", args.admin_listen))?;
    admin.serve(listener, &Acceptor::default(), stop.clone())?;

    let (certificate, signer, cluster_id) = tokio::select! {
        keys = load_keys(&args, &client, &tasks, &stop) => keys?,
        _ = signals.next() => return Ok(()),
    };

    let reconciler = Reconciler::new(
        OperatorState::new(args.cluster.settings(UnlistedClaims::NotSigned), new_epoch()?),
        metrics.clone(),
    );
    let shared = reconciler.shared();
    let (updates_tx, updates_rx) = mpsc::channel(UPDATE_QUEUE_SIZE);
    let watches = start_watches(&args, &shared, &watch_client, &client, &updates_tx);
    let mut reconcile = tokio::spawn(reconciler.run(updates_rx));

    let address = SocketAddr::new(args.address, args.listen.port()).to_string();
    let elector = LeaderElector::new(client.clone(), &args.namespace, &args.lease, args.identity.clone(), address);
    let (leadership, election) = elector.run(stop.clone());
    tasks.spawn(count_leader(metrics.clone(), leadership.clone()));
    tasks.spawn(forward_leadership(leadership.is_leader.clone(), updates_tx.clone()));

    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(args.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let status_writer = StatusWriter::new(shared.clone(), updates_tx.clone(), client.clone(), recorder.clone());
    tasks.spawn(status_writer.run(leadership.is_leader.clone(), stop.clone()));
    let agents = AgentAccount { namespace: args.namespace.clone(), name: args.agent_service_account.clone() };
    let guard_writer =
        NodeGuardWriter::new(shared.clone(), updates_tx.clone(), client.clone(), recorder.clone(), agents);
    tasks.spawn(guard_writer.run(leadership.is_leader.clone(), stop.clone()));

    let tokens = start_token_policy_test(&args, &client, &tasks, &stop);
    let providers = Providers::new(&args.credentials, operator_credentials(&args.credentials), tokens);
    let calls_per_second = args.credentials.sts_calls_per_second;
    let is_current = is_current_role(shared.clone(), cluster_id.clone());
    let (issuer_metrics, events) = (metrics.clone(), recorder.clone());
    let clock = Timestamp::now;
    let issuer =
        CredentialsIssuer::new(cluster_id, providers, calls_per_second, issuer_metrics, events, is_current, clock);
    tasks.spawn(Arc::clone(&issuer).run(stop.clone()));
    if args.remove_startup_taint {
        tasks.spawn(startup_taint::run(shared.clone(), client.clone(), stop.clone()));
    }
    tasks.spawn(node_findings::run(shared.clone(), recorder.clone(), stop.clone()));

    let reviewer = Arc::new(TokenReviewer::new(client, &args.namespace, &args.agent_service_account));
    let context = ApiContext {
        shared: shared.clone(),
        updates_tx,
        reviewer,
        leadership,
        issuer,
        signer,
        recorder,
        stop: stop.clone(),
    };
    let api = Api::new(context);
    let listener = listener::bind(args.listen).await?;
    let serve = listener::serve(listener, certificate, api.router(), metrics, stop.clone());
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot serve the agents' API; agents cannot use this replica until it restarts"
            );
        }
    });

    // A replica can become the leader only after it has read the cluster.
    tasks.spawn(run_when_synced(shared, admin, election, stop.clone()));

    let result = tokio::select! {
        _ = signals.next() => Ok(()),
        _ = &mut reconcile => Err("internal error: the reconcile task has ended"),
    };
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("shutdown timed out; stopping the operator before all its tasks ended");
    }
    watches.iter().for_each(JoinHandle::abort);
    match result {
        Ok(()) => Ok(()),
        Err(error) => bail!(error),
    }
}

/// Returns the check that the issuer makes before each call.
fn is_current_role(shared: Arc<SharedState>, cluster: ClusterId) -> IsCurrent {
    Arc::new(move |request| request::is_current(&shared.read(), request, &cluster, Timestamp::now()))
}

/// Starts the tests of the admission policy. Returns the source of pod tokens, which gives tokens only while the tests pass.
fn start_token_policy_test(args: &Args, client: &Client, tasks: &TaskTracker, stop: &CancellationToken) -> PodTokens {
    let (state_tx, state) = watch_channel::channel(TokenPolicyState::Unknown);
    let audiences = args.credentials.token_audiences.clone();
    let test = TokenPolicyTest {
        client: client.clone(),
        namespace: args.namespace.clone(),
        service_account: args.service_account.clone(),
        pod: args.identity.clone(),
        audiences: audiences.clone(),
    };
    tasks.spawn(test.run(state_tx, stop.clone()));
    PodTokens::new(client.clone(), audiences, state)
}

/// Loads the serving certificate, the signing key of identity documents, and the ID of the cluster. Starts the renewal of the
/// certificate.
async fn load_keys(
    args: &Args,
    client: &Client,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Arc<ServingCertificate>, Signer, ClusterId)> {
    let loader = CertificateLoader {
        client: client.clone(),
        source: args.certificate_source(),
        namespace: args.namespace.clone(),
        object_name: args.tls_secret.clone(),
        dns_name: format!("{}.{}.svc", args.service, args.namespace),
    };
    let (certificate, renewal) = loader.start(stop.clone()).await?;
    tasks.spawn(renewal);
    let key = identity_key::load(client, &args.namespace, &args.identity_secret).await?;
    let cluster_id = match &args.credentials.cluster_id {
        Some(id) => id.clone(),
        None => cluster_id::load(client).await?,
    };
    Ok((certificate, key.signer()?, cluster_id))
}

fn start_watches(
    args: &Args,
    shared: &Arc<SharedState>,
    watch_client: &Client,
    client: &Client,
    updates_tx: &mpsc::Sender<StateUpdate>,
) -> [JoinHandle<()>; 7] {
    [
        tokio::spawn(watch::namespaces(watch_client.clone(), updates_tx.clone())),
        tokio::spawn(watch::nodes(watch_client.clone(), updates_tx.clone())),
        tokio::spawn(watch::policies(watch_client.clone(), updates_tx.clone())),
        tokio::spawn(watch::profiles(watch_client.clone(), updates_tx.clone())),
        tokio::spawn(watch::pods(watch_client.clone(), updates_tx.clone())),
        tokio::spawn(secrets::run(args.secret_namespaces.scopes(), watch_client.clone(), updates_tx.clone())),
        tokio::spawn(references::run(shared.clone(), client.clone(), updates_tx.clone())),
    ]
}

async fn count_leader(metrics: Metrics, leadership: Leadership) {
    let mut is_leader = leadership.is_leader;
    while is_leader.changed().await.is_ok() {
        metrics.set_leader(*is_leader.borrow_and_update());
    }
}

/// Waits until the state is synced, then sets readiness and runs the leader election.
async fn run_when_synced(
    shared: Arc<SharedState>,
    admin: Arc<Admin>,
    election: impl Future<Output = ()>,
    stop: CancellationToken,
) {
    let mut synced = shared.synced();
    let is_synced = async { synced.wait_for(|synced| *synced).await.is_ok() };
    if stop.run_until_cancelled(is_synced).await == Some(true) {
        admin.set_ready(true);
        let (pods, profiles) = shared.read().index().counts();
        tracing::info!(pods, profiles, "cluster state is synced; serving agents");
        election.await;
    }
}

/// Returns a random epoch, which no other operator process has.
fn new_epoch() -> Result<Epoch> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("cannot generate random bytes")?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)).parse()?)
}
