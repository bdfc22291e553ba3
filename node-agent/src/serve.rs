//! `serve`: answers the pods of one node from what the operator says. It knows nothing of Kubernetes and changes nothing
//! of the node.

#[cfg(unix)]
pub mod ask;
pub mod client;
pub mod node;
pub mod sync;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use http::Uri;
use jiff::Timestamp;
use podmeta_service::admin::Admin;
use podmeta_service::limits;
use podmeta_service::signals::Signals;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::broker::{Broker, Operator};
use crate::edge::{Edge, Server};
use crate::keys::{KeyFile, private_folder};
use client::{Client, Place};
use node::{Node, StateFile};

/// Where the socket for asking is, if there is one.
const ASK_SOCKET: &str = "/run/podmeta/ask.sock";

/// Answers the pods of this node, as the operator says. The chart runs it.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The operator's Service.
    #[arg(long, value_name = "URL")]
    pub operator: Uri,

    /// The certificates of the operator's authorities, in PEM.
    #[arg(long, default_value = "/etc/podmeta/operator-ca/ca.crt", value_name = "FILE")]
    pub operator_ca: PathBuf,

    /// The agent's own ServiceAccount token, made for the operator.
    #[arg(long, default_value = "/var/run/secrets/podmeta.dev/token", value_name = "FILE")]
    pub token: PathBuf,

    /// Where session keys and what the operator said are kept: a folder of this node that is in memory.
    #[arg(long, default_value = "/run/podmeta", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Where health, readiness and metrics are served.
    #[arg(long, default_value = "[::]:8081", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// A socket that `ask` asks pods through, for a look at what is served.
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = ASK_SOCKET)]
    pub ask_socket: Option<PathBuf>,

    /// What is logged, such as info, or info,access=debug for a line a request.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Runs `serve` until it is asked to end.
///
/// # Errors
/// If it cannot begin.
pub fn main(args: Args) -> Result<ExitCode> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?} is no filter", args.log))?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    limits::raise_open_files();
    ensure!(
        args.operator.scheme_str() == Some("https") && args.operator.host().is_some(),
        "--operator {} is not like https://podmeta-operator.podmeta-system.svc:8443",
        args.operator
    );
    private_folder(&args.state_dir).with_context(|| format!("cannot make {}", args.state_dir.display()))?;
    // What the operator says is read on a thread of its own, so that a list of many pods holds up no request.
    let following = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let answering = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let served = answering.block_on(serve(args, following.handle()));
    following.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(args: Args, following: &tokio::runtime::Handle) -> Result<()> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let key_file = KeyFile::at(args.state_dir.join("session-keys.json"));
    let file = StateFile::of(&args.state_dir);
    let saved = file.read()?;
    let begins_anew = saved.is_none();
    let mut state = saved.unwrap_or_default();

    let place = Place { url: args.operator, ca: args.operator_ca, token: args.token };
    // Connections belong to the runtime that uses them: calls for pods are made by the one that answers.
    let (calls, follows) = (Client::new(place.clone()), Client::new(place));
    let broker = Operator::new(calls, std::mem::take(&mut state.kept));
    let edge =
        Edge::new(key_file.load(Timestamp::now())?, Broker::Operator(Arc::clone(&broker)), Arc::new(Timestamp::now));
    let node = Node::new(Arc::clone(&edge), Arc::clone(&broker), state);

    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    let admin = Admin::new(registry);
    let listener = TcpListener::bind(args.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} (--admin-listen)", args.admin_listen))?;
    tokio::spawn(Arc::clone(&admin).serve(listener, stop.clone()));
    if !begins_anew {
        tracing::info!("what was served before is served again, until the operator says more");
        admin.set_ready();
    }
    tokio::spawn(crate::keys::keep(key_file, Arc::clone(&edge)));
    following.spawn(sync::follow(Arc::clone(&follows), Arc::clone(&node), move || admin.set_ready()));
    following.spawn(sync::report(follows, Arc::clone(&node), Arc::clone(&broker)));
    following.spawn(sync::save(file.clone(), Arc::clone(&node), broker));

    #[cfg(unix)]
    if let Some(path) = &args.ask_socket {
        tracing::warn!(path = %path.display(), "pods can be asked for through a socket, by whoever is this agent's user on the node");
        tokio::spawn(ask::serve(ask::bind(path)?, Server::new(Arc::clone(&edge), stop.clone()), Arc::clone(&node)));
    }
    let _asked = signals.next().await;
    stop.cancel();
    file.write(&node.state()).context("the state could not be saved")
}
