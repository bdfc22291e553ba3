//! Limits of open connections, of all addresses and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum numbers of open connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The connections of all addresses.
    pub total: usize,
    /// The connections of one address. It does not apply to loopback addresses, which belong to a proxy in the same pod.
    pub per_address: usize,
}

/// The open connections of a listener.
#[derive(Clone, Debug)]
pub struct ConnectionRegistry {
    limits: ConnectionLimits,
    open: Arc<Mutex<OpenConnections>>,
}

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

impl ConnectionRegistry {
    /// Creates a registry without connections.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// Registers a connection, or returns `None` if a limit is reached.
    #[must_use]
    pub fn register(&self, address: IpAddr) -> Option<ConnectionGuard> {
        let address = address.to_canonical();
        let mut open = self.open();
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let is_limited = of_address >= self.limits.per_address && !address.is_loopback();
        if is_limited || open.total >= self.limits.total {
            return None;
        }
        open.total += 1;
        *open.by_address.entry(address).or_default() += 1;
        Some(ConnectionGuard { registry: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { total: 200, per_address: 32 };

    fn address(number: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn connections_of_one_address_are_limited_unless_it_is_loopback() {
        let registry = ConnectionRegistry::new(LIMITS);
        let mut guards: Vec<_> = (0..LIMITS.per_address).filter_map(|_| registry.register(address(1))).collect();
        assert_eq!(guards.len(), LIMITS.per_address);
        assert!(registry.register(address(1)).is_none());
        assert!(registry.register("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address, mapped to IPv6");
        assert!(registry.register(address(2)).is_some());
        guards.pop();
        assert!(registry.register(address(1)).is_some(), "one connection was closed");
        let loopback: Vec<_> =
            (0..=LIMITS.per_address).filter_map(|_| registry.register([127, 0, 0, 6].into())).collect();
        assert_eq!(loopback.len(), LIMITS.per_address + 1);
    }

    #[test]
    fn all_connections_are_limited_and_closed_ones_are_forgotten() {
        let registry = ConnectionRegistry::new(LIMITS);
        let guards: Vec<_> = (0..).map_while(|number| registry.register(address(number))).collect();
        assert_eq!(guards.len(), LIMITS.total);
        drop(guards);
        let open = registry.open();
        assert!(open.total == 0 && open.by_address.is_empty());
    }
}
