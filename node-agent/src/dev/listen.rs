//! The listeners of the dev server: one for each pod and dialect, opened and closed as pods are added and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::IpFamily;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::dev::address::ports;
use crate::dev::args::ListenArg;
use crate::dev::fair_listener::FairListener;
use crate::dev::{SocketPair, host_rule};
use crate::edge::{Arrival, EdgeServer};
use podmeta_service::listener::{Acceptor, TcpConnection};

/// A pod, as `NAMESPACE/NAME`, and a dialect.
type ListenerKey = (String, Dialect);

/// The listeners that should be open, and the UIDs of their pods.
pub(super) type WantedListeners = BTreeMap<ListenerKey, PodUid>;

/// An open listener.
struct PodListener {
    pod: PodUid,
    stop: CancellationToken,
    accept_loop: JoinHandle<()>,
}

/// All open listeners.
pub(super) struct PodListeners {
    server: EdgeServer,
    stop: CancellationToken,
    acceptor: Acceptor,
    listen_args: Vec<ListenArg>,
    open: BTreeMap<ListenerKey, PodListener>,
    /// All addresses that were assigned, so that a pod that is added again gets the same one.
    addresses: BTreeMap<ListenerKey, SocketAddr>,
}

impl PodListeners {
    /// Creates an empty set. All listeners close when `stop` is cancelled.
    pub(super) fn new(server: EdgeServer, stop: CancellationToken, listen_args: Vec<ListenArg>) -> Self {
        let (acceptor, open, addresses) = (Acceptor::default(), BTreeMap::new(), BTreeMap::new());
        Self { server, stop, acceptor, listen_args, open, addresses }
    }

    /// Opens the wanted listeners and closes all others.
    ///
    /// # Errors
    /// If an address of `--listen` cannot be bound, or no port is free.
    pub(super) async fn set(&mut self, wanted: WantedListeners) -> Result<()> {
        let unwanted = self.open.extract_if(.., |key, listener| wanted.get(key) != Some(&listener.pod));
        for (_, listener) in unwanted.collect::<Vec<_>>() {
            listener.stop.cancel();
            // The port is free when the loop has ended.
            drop(listener.accept_loop.await);
        }
        for (key, pod) in wanted {
            if self.open.contains_key(&key) {
                continue;
            }
            let listener = self.bind(&key).await?;
            self.addresses.insert(key.clone(), listener.local_addr()?);
            let stop = self.stop.child_token();
            let accept_loop =
                self.accept(listener, pod.clone(), key.1, Path::new("/proc/self/net").into(), stop.clone())?;
            self.open.insert(key, PodListener { pod, stop, accept_loop });
        }
        Ok(())
    }

    /// Returns the address of an open listener.
    pub(super) fn address(&self, pod: &str, dialect: Dialect) -> Option<SocketAddr> {
        let key = (pod.to_owned(), dialect);
        self.open.get(&key).and_then(|_| self.addresses.get(&key)).copied()
    }

    async fn bind(&self, key: &ListenerKey) -> Result<TcpListener> {
        let (pod, dialect) = key;
        if let Some(listen) = self.listen_args.iter().find(|listen| listen.pod == *pod && listen.dialect == *dialect) {
            let bound = TcpListener::bind(listen.address).await;
            return bound.with_context(|| format!("cannot listen on {} for {pod}/{dialect}", listen.address));
        }
        let earlier = self.addresses.get(key).map(|address| address.port());
        let others = self.addresses.iter().filter(|(other, _)| *other != key).map(|(_, address)| address.port());
        let others = others.collect::<BTreeSet<_>>();
        for port in earlier.into_iter().chain(ports(pod, *dialect)).filter(|port| !others.contains(port)) {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
            }
        }
        anyhow::bail!("no loopback port is free for {pod}/{dialect}; set one with --listen {pod}/{dialect}=ADDRESS")
    }

    /// Serves connections of a listener as a pod's, until `stop` is cancelled. `socket_tables` is the `/proc/…/net`
    /// directory of the clients' network namespace.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub(super) fn accept(
        &self,
        listener: TcpListener,
        pod: PodUid,
        dialect: Dialect,
        socket_tables: Arc<Path>,
        stop: CancellationToken,
    ) -> io::Result<JoinHandle<()>> {
        let server = self.server.clone();
        let listener = FairListener { listener, pod: pod.clone(), server: server.clone() };
        self.acceptor.spawn(listener, None, stop, move |connection| {
            let arrival = arrival(&connection, &pod, dialect, &socket_tables);
            server.clone().serve(connection.stream, Box::new(arrival))
        })
    }

    /// Waits until all connections have ended. All listeners must have been stopped.
    ///
    /// # Errors
    /// If it takes longer than `limit`.
    pub(super) async fn drain(&self, limit: Duration) -> Result<(), tokio::time::error::Elapsed> {
        self.acceptor.drain(limit).await
    }
}

fn arrival(connection: &TcpConnection, pod: &PodUid, dialect: Dialect, socket_tables: &Arc<Path>) -> Arrival {
    let (remote, local) = (connection.remote, connection.local);
    Arrival {
        pod: pod.clone(),
        service: dialect.service_address(local.ip()),
        family: if local.is_ipv6() { IpFamily::Ipv6 } else { IpFamily::Ipv4 },
        host_rule: if local.ip().is_loopback() { &host_rule::LOOPBACK } else { &HostRule::POD_LINK },
        owner: Some(Arc::new(SocketPair { remote, local, tables: Arc::clone(socket_tables) })),
    }
}
