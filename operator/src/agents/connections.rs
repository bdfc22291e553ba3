//! Limits of connections to the agents' API. A node agent has up to three connections, so an address with many is not
//! a node agent.

use std::net::IpAddr;
use std::sync::Arc;

use podmeta_service::connections::ConnectionLimits;
use tokio::sync::SetOnce;

/// The limits: three connections for each of 5,000 agents, and a reserve. A used connection takes about 50 KiB.
pub const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits { total: 20_480, per_address: 32 };

/// The connection that a request came from, and whether an agent has authenticated on it.
#[derive(Clone, Debug)]
pub struct PeerConnection {
    /// The address of the peer.
    pub address: IpAddr,
    authenticated: Arc<SetOnce<()>>,
}

impl PeerConnection {
    /// Creates the value for a connection that is not authenticated yet.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, authenticated: Arc::default() }
    }

    /// Marks the connection as authenticated. This ends [`Self::wait_until_authenticated`].
    pub fn set_authenticated(&self) {
        // Every request after the first sets it again.
        let _already_set = self.authenticated.set(());
    }

    /// Returns true if the connection is authenticated.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated.initialized()
    }

    /// Waits until the connection is authenticated.
    pub async fn wait_until_authenticated(&self) {
        self.authenticated.wait().await;
    }
}
