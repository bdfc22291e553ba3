//! Finds the owners of clients' sockets with the link daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use futures_util::future::BoxFuture;
use podmeta_link::alias::Alias;
use podmeta_link::client::socket_owner;
use podmeta_link::protocol::{MAX_OWNER_CALLS, SocketOwner, SocketQuery};
use tokio::sync::Semaphore;

use crate::edge::FindOwner;

/// Calls the link daemon for owners.
#[derive(Clone, Debug)]
pub(super) struct OwnerClient {
    /// Socket of the link daemon.
    socket: Arc<PathBuf>,
    permits: Arc<Semaphore>,
}

impl OwnerClient {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::new(socket), permits: Arc::new(Semaphore::new(MAX_OWNER_CALLS)) }
    }

    /// Returns the finder for a connection of a link. `remote` and `local` are its ends as the agent sees them.
    pub(super) fn of_connection(&self, alias: Arc<Alias>, remote: SocketAddr, local: SocketAddr) -> Arc<dyn FindOwner> {
        Arc::new(LinkSocket { client: self.clone(), alias, remote, local })
    }
}

/// The client's socket of a connection of a link.
#[derive(Debug)]
struct LinkSocket {
    client: OwnerClient,
    alias: Arc<Alias>,
    remote: SocketAddr,
    local: SocketAddr,
}

impl FindOwner for LinkSocket {
    fn find_owner(&self) -> BoxFuture<'_, Result<u32>> {
        Box::pin(async {
            let _permit = self.client.permits.acquire().await?;
            let query = SocketQuery {
                pod: self.alias.pod.clone(),
                sandbox: self.alias.sandbox.clone(),
                client: canonical(self.remote),
                service: canonical(self.local),
            };
            match socket_owner(&self.client.socket, query).await? {
                SocketOwner::User(user) => Ok(user),
                SocketOwner::Nobody(reason) => bail!(reason),
            }
        })
    }
}

/// Returns an address without a scope, and an IPv4-mapped one as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_address_is_sent_as_ipv4() {
        let mapped = "[::ffff:169.254.240.2]:4000".parse().unwrap();
        assert_eq!(canonical(mapped), "169.254.240.2:4000".parse().unwrap());
        let scoped = "[fe80::1%3]:4000".parse().unwrap();
        assert_eq!(canonical(scoped), "[fe80::1]:4000".parse().unwrap());
    }
}
