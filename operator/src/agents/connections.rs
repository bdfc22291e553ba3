//! Limits of connections that are not authenticated yet. A node agent has a few connections, so an address with many is
//! not a node agent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::SetOnce;

/// The maximum number of connections: three for each of 5,000 agents, and a reserve. A used connection takes about 50 KiB.
const MAX_CONNECTIONS: usize = 20_480;

/// The maximum number of connections of one address. It does not apply to loopback addresses, which belong to a proxy in
/// the operator's own pod.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 32;

/// The open connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionRegistry(Arc<Mutex<OpenConnections>>);

#[derive(Debug, Default)]
struct OpenConnections {
    by_address: HashMap<IpAddr, usize>,
    total: usize,
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    registry: ConnectionRegistry,
    address: IpAddr,
}

/// The connection of a request.
#[derive(Clone, Debug)]
pub struct PeerConnection {
    /// The address of the peer.
    pub address: IpAddr,
    authenticated: Arc<SetOnce<()>>,
}

impl ConnectionRegistry {
    /// Registers a connection, or returns `None` if a limit is reached.
    #[must_use]
    pub fn register(&self, address: IpAddr) -> Option<ConnectionGuard> {
        let address = address.to_canonical();
        let mut open = self.open();
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let is_limited = of_address >= MAX_CONNECTIONS_PER_ADDRESS && !address.is_loopback();
        if is_limited || open.total >= MAX_CONNECTIONS {
            return None;
        }
        open.total += 1;
        *open.by_address.entry(address).or_default() += 1;
        Some(ConnectionGuard { registry: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut open = self.registry.open();
        open.total -= 1;
        if let Some(of_address) = open.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl PeerConnection {
    /// Creates the value for a connection that is not authenticated yet.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, authenticated: Arc::default() }
    }

    /// Marks the connection as authenticated.
    pub fn set_authenticated(&self) {
        // Every request after the first sets it again.
        let _already_set = self.authenticated.set(());
    }

    /// Waits until the connection is authenticated.
    pub async fn authenticated(&self) {
        self.authenticated.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn connections_of_one_address_are_limited_unless_it_is_loopback() {
        let registry = ConnectionRegistry::default();
        let mut guards: Vec<_> =
            (0..MAX_CONNECTIONS_PER_ADDRESS).filter_map(|_| registry.register(address(1))).collect();
        assert_eq!(guards.len(), MAX_CONNECTIONS_PER_ADDRESS);
        assert!(registry.register(address(1)).is_none());
        assert!(registry.register("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address, mapped to IPv6");
        assert!(registry.register(address(2)).is_some());
        guards.pop();
        assert!(registry.register(address(1)).is_some(), "one connection was closed");
        let loopback: Vec<_> =
            (0..=MAX_CONNECTIONS_PER_ADDRESS).filter_map(|_| registry.register([127, 0, 0, 6].into())).collect();
        assert_eq!(loopback.len(), MAX_CONNECTIONS_PER_ADDRESS + 1);
    }

    #[test]
    fn all_connections_are_limited_and_closed_ones_are_forgotten() {
        let registry = ConnectionRegistry::default();
        let guards: Vec<_> = (0..).map_while(|number| registry.register(address(number))).collect();
        assert_eq!(guards.len(), MAX_CONNECTIONS);
        drop(guards);
        let open = registry.open();
        assert!(open.total == 0 && open.by_address.is_empty());
    }
}
