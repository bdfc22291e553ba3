//! The sockets of the dev server: one for each pod and dialect, opened and closed as pods come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::HeaderCheck;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::Family;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dev::address::{Addresses, ports};
use crate::dev::args::Listen;
use crate::dev::host;
use crate::edge::{Arrival, Peer, Server};

/// How many connections may wait to be accepted: a pod's processes may all ask in the same moment. With tokio's 128 the
/// rest are dropped, and come again a second later.
const BACKLOG: i32 = 1024;

/// A socket that a pod should have.
pub(super) type Wanted = BTreeMap<(String, Dialect), PodUid>;

/// A socket that is open, and the task that accepts from it.
struct Socket {
    pod: PodUid,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// The sockets that are open.
pub(super) struct Listeners {
    server: Server,
    stop: CancellationToken,
    tasks: TaskTracker,
    chosen: Vec<Listen>,
    open: BTreeMap<(String, Dialect), Socket>,
    /// Every address that was ever given, so that a pod that comes back has it again.
    addresses: Addresses,
}

impl Listeners {
    /// No socket yet. All of them close when `stop` is cancelled.
    #[must_use]
    pub(super) fn new(server: Server, stop: CancellationToken, chosen: Vec<Listen>) -> Self {
        Self { server, stop, tasks: TaskTracker::new(), chosen, open: BTreeMap::new(), addresses: Addresses::new() }
    }

    /// Opens the sockets that are wanted and are not open, and closes those that are not wanted any more.
    ///
    /// # Errors
    /// If a chosen address cannot be had, or no port is free.
    pub(super) async fn set(&mut self, wanted: Wanted) -> Result<()> {
        let unwanted = self.open.extract_if(.., |place, socket| wanted.get(place) != Some(&socket.pod));
        for (_, socket) in unwanted.collect::<Vec<_>>() {
            socket.stop.cancel();
            // The port is free again once the task has ended.
            drop(socket.accepting.await);
        }
        for (place, uid) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            let listener = self.bind(&place).await?;
            self.addresses.insert(place.clone(), listener.local_addr()?);
            let stop = self.stop.child_token();
            let accepting = self.accept(listener, uid.clone(), place.1, "/proc/self/net".into(), stop.clone())?;
            self.open.insert(place, Socket { pod: uid, stop, accepting });
        }
        Ok(())
    }

    /// The address of an open socket.
    #[must_use]
    pub(super) fn address(&self, pod: &str, dialect: Dialect) -> Option<SocketAddr> {
        let place = (pod.to_owned(), dialect);
        self.open.get(&place).and_then(|_| self.addresses.get(&place)).copied()
    }

    async fn bind(&self, place: &(String, Dialect)) -> Result<TcpListener> {
        let (pod, dialect) = place;
        if let Some(listen) = self.chosen.iter().find(|listen| listen.pod == *pod && listen.dialect == *dialect) {
            let bound = TcpListener::bind(listen.address).await;
            return bound.with_context(|| format!("cannot listen on {} for {pod}/{dialect}", listen.address));
        }
        let before = self.addresses.get(place).map(|address| address.port());
        let taken = self.addresses.iter().filter(|(other, _)| *other != place).map(|(_, address)| address.port());
        let taken = taken.collect::<BTreeSet<_>>();
        for port in before.into_iter().chain(ports(pod, *dialect)).filter(|port| !taken.contains(port)) {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
            }
        }
        anyhow::bail!("no loopback port is free for {pod}/{dialect}; choose one with --listen {pod}/{dialect}=ADDRESS")
    }

    /// Serves what a socket accepts as requests of one pod, until `stop` is cancelled.
    ///
    /// # Errors
    /// If the kernel does not let as many connections wait.
    pub(super) fn accept(
        &self,
        listener: TcpListener,
        pod: PodUid,
        dialect: Dialect,
        sockets: PathBuf,
        stop: CancellationToken,
    ) -> io::Result<JoinHandle<()>> {
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let (server, tasks) = (self.server.clone(), self.tasks.clone());
        Ok(self.tasks.spawn(async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let (stream, remote) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted; raise the limit of open files if this goes on");
                        // Without a free descriptor accept fails at once, again and again.
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Ok(local) = stream.local_addr() else { continue };
                drop(stream.set_nodelay(true));
                let family = if local.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
                let peer = Some(Peer { remote, local, sockets: sockets.clone() });
                // A loopback port stands for a service address, and browsers can reach it.
                let header_check = local.ip().is_loopback().then_some(host::check as HeaderCheck);
                let service = dialect.service_address(local.ip());
                let arrival = Arrival { pod: pod.clone(), service, family, header_check, peer };
                let server = server.clone();
                tasks.spawn(async move { server.serve(stream, arrival).await });
            }
        }))
    }

    /// Waits until every connection has ended; all sockets must be stopped.
    pub(super) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
