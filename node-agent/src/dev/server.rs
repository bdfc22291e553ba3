//! Serves the pods on loopback ports and reloads the files when they change.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podmeta_metadata::compile::UnlistedClaims;
use podmeta_service::admin::Admin;
use podmeta_service::listener::Acceptor;
use podmeta_service::signals::Signals;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::broker::FileBroker;
use crate::dev::args::{DevArgs, Output};
use crate::dev::dev_state::{DevPod, DevState};
use crate::dev::input::{InputFile, Inputs};
use crate::dev::listen::{PodListeners, WantedListeners};
use crate::dev::print::{Endpoint, EndpointReport};
use crate::dev::publish;
use crate::dev::reload::{Reload, changes, reload};
use crate::dev::state_dir::StateDir;
use crate::edge::{Edge, EdgeServer, PodView};

/// Interval at which the files are checked for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Time that open connections get to finish when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The dev server, after its pods were published to the edge.
pub(super) struct DevServer {
    pub(super) args: DevArgs,
    pub(super) inputs: Inputs,
    /// The files that were read last.
    pub(super) files: Vec<InputFile>,
    pub(super) state: DevState,
    pub(super) state_dir: StateDir,
    pub(super) edge: Arc<Edge>,
    pub(super) broker: Arc<FileBroker>,
}

impl DevServer {
    /// Serves until SIGINT, SIGTERM or SIGHUP.
    pub(super) async fn run(mut self) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let stop = CancellationToken::new();
        let server = EdgeServer::new(Arc::clone(&self.edge), stop.clone());
        let mut listeners = PodListeners::new(server, stop.clone(), self.args.listen.clone());
        let wanted = wanted_listeners(&self.state);
        self.check_listen_args(&wanted)?;
        listeners.set(wanted).await?;
        let (admin, admin_address) = self.serve_admin(&stop).await?;
        println!("{}", self.report(&listeners, admin_address));
        admin.set_ready(true);
        let edge = Arc::clone(&self.edge);
        let key_refresh = tokio::spawn(self.state_dir.key_file().refresh(move |keys| edge.set_keys(keys)));
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = signals.next() => break,
                _ = poll.tick() => {}
            }
            let files = self.inputs.read();
            if files.as_ref().is_ok_and(|files| *files == self.files) {
                continue;
            }
            match reload(files, &mut self.files, &self.args.cluster.settings(UnlistedClaims::Signed)) {
                Reload::Unchanged => {}
                Reload::Invalid => eprintln!("keeping the previous pods until the files are valid"),
                Reload::Changed(new) => {
                    let changes = changes(&self.state, &new);
                    publish(&self.edge, &self.broker, &new);
                    self.state = *new;
                    listeners.set(wanted_listeners(&self.state)).await?;
                    for change in &changes {
                        eprintln!("reloaded: {change}");
                    }
                    if changes.is_empty() {
                        eprintln!("reloaded: no pod changed");
                    } else {
                        println!("{}", self.report(&listeners, admin_address));
                    }
                }
            }
        }
        key_refresh.abort();
        stop.cancel();
        if listeners.drain(SHUTDOWN_TIMEOUT).await.is_err() {
            eprintln!("warning: closed connections that did not end within {} s", SHUTDOWN_TIMEOUT.as_secs());
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Checks that each `--listen` names a pod and dialect of the files.
    fn check_listen_args(&self, wanted: &WantedListeners) -> Result<()> {
        for listen in &self.args.listen {
            if !wanted.contains_key(&(listen.pod.clone(), listen.dialect)) {
                let known = wanted.keys().map(|(pod, dialect)| format!("{pod}/{dialect}")).collect::<Vec<_>>();
                let (pod, dialect) = (&listen.pod, listen.dialect);
                anyhow::bail!("--listen: no {pod}/{dialect} in the files; choose from: {}", known.join(", "));
            }
        }
        Ok(())
    }

    async fn serve_admin(&self, stop: &CancellationToken) -> Result<(Arc<Admin>, SocketAddr)> {
        let mut registry = Registry::default();
        self.edge.metrics().register(&mut registry);
        let admin = Admin::new(registry);
        let address = self.args.admin_listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} (--admin-listen)"))?;
        let address = listener.local_addr()?;
        admin.serve(listener, &Acceptor::default(), stop.clone())?;
        Ok((admin, address))
    }

    fn report(&self, listeners: &PodListeners, admin: SocketAddr) -> String {
        let certificate = self.state_dir.certificate();
        let report = EndpointReport { endpoints: endpoints(&self.state, listeners), admin, certificate: &certificate };
        match self.args.output {
            Output::Table => report.table(),
            Output::Json => report.json(),
        }
    }
}

fn wanted_listeners(state: &DevState) -> WantedListeners {
    let pods = state.pods.iter();
    let wanted = pods.flat_map(|(name, pod)| pod.dialects().map(|dialect| ((name.clone(), dialect), pod.uid.clone())));
    wanted.collect()
}

fn endpoints(state: &DevState, listeners: &PodListeners) -> Vec<Endpoint> {
    let all = state.pods.iter().flat_map(|(name, pod)| pod.dialects().map(move |dialect| (name, pod, dialect)));
    let endpoint = |(name, pod, dialect): (&String, &DevPod, _)| {
        let url = format!("http://{}", listeners.address(name, dialect)?);
        let (workload, denied) = match &pod.view {
            PodView::Served(workload, _) => (Some(workload), None),
            PodView::Denied(denied) => (None, Some(denied.reason.to_string())),
        };
        Some(Endpoint {
            pod: name.clone(),
            dialect,
            url,
            profile: workload.and_then(|workload| workload.profile.as_ref()).map(|profile| profile.name.clone()),
            http_tokens: workload.map(|workload| workload.options.http_tokens),
            role: workload.and_then(|workload| workload.role(dialect)).map(|role| role.name.to_string()),
            denied,
        })
    };
    all.filter_map(endpoint).collect()
}
