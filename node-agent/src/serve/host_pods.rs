//! Serves pods on the host network. Their connections arrive at the link of the node, and the link daemon finds the pod of each.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use podmeta_link::host_pods::addresses::service_of;
use podmeta_link::host_pods::identity::HostClient;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::request::IpFamily;
use podmeta_service::log_throttle::LogThrottle;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::edge::{Arrival, EdgeServer, FindOwner, FindOwnerError};
use crate::serve::owners::OwnerClient;

/// Maximum number of connections that wait for their pod. More are closed.
const MAX_LOOKUPS: usize = 256;

/// Serves the connections of the node's link.
#[derive(Clone, Debug)]
pub(super) struct HostPodServer {
    owners: OwnerClient,
    lookups: Arc<Semaphore>,
    /// Limits the log lines of closed connections.
    log: Arc<Mutex<LogThrottle>>,
}

impl HostPodServer {
    pub(super) fn new(owners: OwnerClient) -> Self {
        Self { owners, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)), log: Arc::default() }
    }

    /// Serves one connection. A connection of a process that belongs to no pod is closed.
    pub(super) async fn serve(&self, stream: TcpStream, remote: SocketAddr, local: SocketAddr, server: EdgeServer) {
        match self.find(remote, local).await {
            Ok(arrival) => server.serve(stream, Box::new(arrival)).await,
            Err(reason) => {
                let suppressed = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
                if let Some(suppressed) = suppressed {
                    tracing::warn!(peer = %remote, reason, suppressed, "closing connection of the node's link: cannot find its pod");
                }
            }
        }
    }

    async fn find(&self, remote: SocketAddr, local: SocketAddr) -> Result<Arrival, String> {
        let service = service_of(local.ip().to_canonical()).ok_or("its address stands for no service address")?;
        let _permit = self.lookups.try_acquire().map_err(|_| "too many connections wait for their pod")?;
        let pod = match self.owners.host_client(remote, local).await {
            Ok(HostClient::Pod(pod)) => pod,
            Ok(HostClient::Nobody(reason)) => return Err(reason),
            Err(error) => return Err(format!("{error:#}")),
        };
        Ok(Arrival {
            pod,
            service,
            family: if service.is_ipv6() { IpFamily::Ipv6 } else { IpFamily::Ipv4 },
            host_rule: &HostRule::POD_LINK,
            owner: Some(Arc::new(UnknownUser)),
        })
    }
}

/// The owner of a socket in the host's network namespace. The user ID is not looked up: the pod can have a user namespace.
#[derive(Debug)]
struct UnknownUser;

impl FindOwner for UnknownUser {
    fn find_owner(&self) -> BoxFuture<'_, Result<u32, FindOwnerError>> {
        let reason =
            "users of pods on the host network are not known, so allowedUsers and deniedUsers reject all requests";
        async move { Err(FindOwnerError::NotFound(reason.to_owned())) }.boxed()
    }
}
