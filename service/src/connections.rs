//! Limits of open connections, of all addresses and of one address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The maximum numbers of open connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The connections of all addresses.
    pub total: usize,
    /// The connections of one address. It does not apply to loopback addresses, which belong to a proxy in the same pod.
    pub per_address: usize,
}

/// The open connections of a listener, by address. It enforces [`ConnectionLimits`].
#[derive(Clone, Debug)]
pub struct ConnectionRegistry {
    limits: ConnectionLimits,
    open: Arc<Mutex<OpenConnections>>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    /// The evictions by address and connection ID. IDs increase, so the oldest connection is first.
    by_address: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    total: usize,
    next_id: u64,
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    registry: ConnectionRegistry,
    address: IpAddr,
    id: u64,
    evicted: CancellationToken,
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
        if self.is_limited(&open, address) { None } else { self.add(&mut open, address) }
    }

    /// Registers a connection. At the limit of its address, evicts the oldest connection of the address. Returns `None` if
    /// the limit of all connections is reached.
    #[must_use]
    pub fn register_or_evict(&self, address: IpAddr) -> Option<ConnectionGuard> {
        let address = address.to_canonical();
        let mut open = self.open();
        if self.is_limited(&open, address) {
            open.evict_oldest(address);
        }
        self.add(&mut open, address)
    }

    /// Returns true if the limit of the address is reached.
    fn is_limited(&self, open: &OpenConnections, address: IpAddr) -> bool {
        let of_address = open.by_address.get(&address).map_or(0, BTreeMap::len);
        of_address >= self.limits.per_address && !address.is_loopback()
    }

    /// Adds a connection, or returns `None` if the limit of all connections is reached.
    fn add(&self, open: &mut OpenConnections, address: IpAddr) -> Option<ConnectionGuard> {
        if open.total >= self.limits.total {
            return None;
        }
        let (id, evicted) = (open.next_id, CancellationToken::new());
        open.next_id += 1;
        open.total += 1;
        open.by_address.entry(address).or_default().insert(id, evicted.clone());
        Some(ConnectionGuard { registry: self.clone(), address, id, evicted })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn evict_oldest(&mut self, address: IpAddr) {
        let oldest = self.by_address.get(&address).and_then(|of_address| of_address.keys().next().copied());
        if let Some(evicted) = oldest.and_then(|id| self.remove(address, id)) {
            evicted.cancel();
        }
    }

    fn remove(&mut self, address: IpAddr, id: u64) -> Option<CancellationToken> {
        let of_address = self.by_address.get_mut(&address)?;
        let removed = of_address.remove(&id)?;
        if of_address.is_empty() {
            self.by_address.remove(&address);
        }
        self.total -= 1;
        Some(removed)
    }
}

impl ConnectionGuard {
    /// Returns the token that is cancelled when the connection is evicted. The connection must then be closed.
    #[must_use]
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        drop(self.registry.open().remove(self.address, self.id)); // `None` if it was evicted
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
    fn oldest_connection_of_an_address_at_its_limit_is_evicted() {
        let registry = ConnectionRegistry::new(LIMITS);
        let register = |number| registry.register_or_evict(address(number)).unwrap();
        let other = register(2);
        let mut guards: Vec<_> = (0..LIMITS.per_address).map(|_| register(1)).collect();
        assert!(guards.iter().all(|guard| !guard.evicted().is_cancelled()));
        guards.push(register(1));
        let evicted: Vec<_> = guards.iter().map(|guard| guard.evicted().is_cancelled()).collect();
        assert!(evicted[0] && !evicted[1..].contains(&true) && !other.evicted().is_cancelled(), "{evicted:?}");
        drop(guards.remove(0));
        assert_eq!(registry.open().total, LIMITS.per_address + 1, "the evicted one is counted once");
        guards.push(register(1));
        assert!(guards[0].evicted().is_cancelled());
        drop((guards, other));
        let open = registry.open();
        assert!(open.total == 0 && open.by_address.is_empty());
    }

    #[test]
    fn eviction_keeps_the_limit_of_all_connections() {
        let registry = ConnectionRegistry::new(ConnectionLimits { total: 2, per_address: 1 });
        let first = registry.register_or_evict(address(1)).unwrap();
        let _second = registry.register_or_evict(address(2)).unwrap();
        assert!(registry.register_or_evict(address(3)).is_none());
        assert!(registry.register_or_evict(address(1)).is_some() && first.evicted().is_cancelled());
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
