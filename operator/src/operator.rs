//! Puts the operator together: watches, the world, the agents' API, the Lease, and what the leader says.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use podmeta_agent_api::Epoch;
use podmeta_service::admin::Admin;
use podmeta_service::limits;
use podmeta_service::signals::Signals;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::api::Api;
use crate::args::Args;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::reconcile::{self, Shared};
use crate::report::MANAGER;
use crate::reviewer::Reviewer;
use crate::world::World;
use crate::{certificates, report, serving, sources, watch};

/// How many changes may wait to be taken in: then the watches wait.
const QUEUE: usize = 8192;

/// After how long without a byte a connection of a watch is dead: a watch without a change ends before that.
const DEAD: std::time::Duration = std::time::Duration::from_secs(watch::LIFE as u64 + 15);

/// How long the last tasks may take once the operator is asked to end.
const END: std::time::Duration = std::time::Duration::from_secs(8);

/// Runs the operator until it is asked to end.
///
/// # Errors
/// If it cannot begin, or something that it cannot be without has ended.
pub fn main(args: Args) -> Result<()> {
    // What the client itself says of a failure is said again, with what it was about, by who asked. A response that it cannot
    // read it would log as a whole, and that may be a Secret.
    let filter = EnvFilter::try_new(format!("kube_client::client=off,{}", args.log));
    let filter = filter.with_context(|| format!("--log {:?} is no filter", args.log))?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    limits::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let mut signals = Signals::hear()?;
    let stop = CancellationToken::new();
    let config = Config::infer().await;
    let config = config.context("there is no API server to be found: run the operator in a pod, or set KUBECONFIG")?;
    let watcher = Client::try_from(of_watches(config.clone()))?;
    let client = Client::try_from(config)?;
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let admin = Admin::new(registry);
    let listener = TcpListener::bind(args.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} (--admin-listen)", args.admin_listen))?;
    let tasks = TaskTracker::new();
    tasks.spawn(admin.clone().serve(listener, stop.clone()));

    let name = format!("{}.{}.svc", args.service, args.namespace);
    let (source, namespace, object) = (args.certificates(), args.namespace.clone(), args.tls_secret.clone());
    let wanted = certificates::Wanted { source, namespace, object, name };
    let begun = async {
        let serving = certificates::serving(client.clone(), wanted, stop.clone()).await?;
        let identity = certificates::identity(&client, &args.namespace, &args.identity_secret).await?;
        anyhow::Ok((serving, identity.signer()?))
    };
    let ((certificate, renewing), signer) = tokio::select! {
        begun = begun => begun?,
        _ = signals.next() => return Ok(()),
    };
    tasks.spawn(renewing);

    let shared = Shared::new(World::new(args.cluster.settings(), epoch()?), metrics.clone());
    let (told, tell) = mpsc::channel(QUEUE);
    let watches = [
        tokio::spawn(watch::namespaces(watcher.clone(), told.clone())),
        tokio::spawn(watch::nodes(watcher.clone(), told.clone())),
        tokio::spawn(watch::policies(watcher.clone(), told.clone())),
        tokio::spawn(watch::profiles(watcher.clone(), told.clone())),
        tokio::spawn(watch::pods(watcher, told.clone())),
        tokio::spawn(sources::run(shared.clone(), client.clone(), told)),
    ];
    let mut reconciling = tokio::spawn(reconcile::run(shared.clone(), tell));

    let address = SocketAddr::new(args.address, args.listen.port()).to_string();
    let candidate = Candidate::new(client.clone(), &args.namespace, &args.lease, args.identity.clone(), address);
    let (leadership, standing) = candidate.run(stop.clone());
    let counted = metrics.clone();
    let mut leads = leadership.leads.clone();
    tasks.spawn(async move {
        while leads.changed().await.is_ok() {
            counted.leads(*leads.borrow_and_update());
        }
    });
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(args.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let leads = leadership.leads.clone();
    tasks.spawn(report::run(shared.clone(), client.clone(), recorder.clone(), leads, stop.clone()));

    let reviewer = Reviewer::new(client, &args.namespace, &args.agent_service_account);
    let api = Api::new(shared.clone(), reviewer, leadership, signer, recorder, stop.clone());
    let listener = serving::bind(args.listen).await?;
    tasks.spawn({
        let (router, metrics, stop) = (api.router(), metrics.clone(), stop.clone());
        async move {
            if let Err(error) = serving::serve(listener, certificate, router, metrics, stop).await {
                tracing::error!("agents cannot be served: {error:#}");
            }
        }
    });

    // A replica stands for the Lease once it knows what it would say.
    let mut synced = shared.synced();
    let ending = stop.clone();
    tasks.spawn(async move {
        let all = async { synced.wait_for(|synced| *synced).await.is_ok() };
        if ending.run_until_cancelled(all).await == Some(true) {
            admin.set_ready();
            let (pods, profiles) = shared.world().counts();
            tracing::info!(pods, profiles, "everything is read; agents are served");
            standing.await;
        }
    });
    let ended = tokio::select! {
        _ = signals.next() => Ok(()),
        _ = &mut reconciling => Err("the task that compiles pods has ended"),
    };
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(END, tasks.wait()).await.is_err() {
        tracing::info!("not everything ended in time");
    }
    watches.iter().for_each(tokio::task::JoinHandle::abort);
    match ended {
        Ok(()) => Ok(()),
        Err(why) => bail!("{why}, by a mistake of podmeta's"),
    }
}

/// How watches reach the API server: a list or a watch on a connection that is dead ends, and is begun again at the pace of
/// the watches alone.
fn of_watches(mut config: Config) -> Config {
    (config.read_timeout, config.reset_reader_on_write) = (Some(DEAD), true);
    config.default_retry = false;
    config
}

/// A name that no other operator process has.
fn epoch() -> Result<Epoch> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)).parse()?)
}
