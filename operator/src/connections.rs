//! Which connections are let in, before anything is known of who is on them. A node's agent has a few, so an address with
//! many is no agent; and one that shows no agent's token in time is closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::SetOnce;

/// The most connections of all addresses: up to three of each of 5,000 agents, and some more. One that an agent uses takes
/// about 50 KiB.
const MOST: usize = 20_480;

/// The most of one address, but for loopback: what comes from there has come through a proxy in the operator's own pod.
const EACH: usize = 32;

/// The connections that there are.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    by_address: HashMap<IpAddr, usize>,
    all: usize,
}

/// A connection that was let in, as long as it is there.
#[derive(Debug)]
pub struct Admitted {
    connections: Connections,
    address: IpAddr,
}

/// A connection, as its requests know it: where it comes from, and whether an agent has shown its token on it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address.
    pub address: IpAddr,
    proven: Arc<SetOnce<()>>,
}

impl Connections {
    /// Lets a connection in, if neither its address nor all together have too many.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let address = address.to_canonical();
        let mut open = self.open();
        let full = open.by_address.get(&address).is_some_and(|open| *open >= EACH) && !address.is_loopback();
        if full || open.all >= MOST {
            return None;
        }
        open.all += 1;
        *open.by_address.entry(address).or_default() += 1;
        Some(Admitted { connections: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.all -= 1;
        if let Some(there) = open.by_address.get_mut(&self.address) {
            *there -= 1;
            if *there == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl Peer {
    /// A connection on which nobody has shown a token yet.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, proven: Arc::default() }
    }

    /// An agent has shown its token.
    pub fn prove(&self) {
        // It shows it with each request.
        let _already = self.proven.set(());
    }

    /// Waits until one has.
    pub async fn proven(&self) {
        self.proven.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn an_address_has_so_many_and_leaves_room_for_others() {
        let connections = Connections::default();
        let mut there: Vec<_> = (0..EACH).filter_map(|_| connections.admit(address(1))).collect();
        assert_eq!(there.len(), EACH);
        assert!(connections.admit(address(1)).is_none());
        assert!(connections.admit("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same, as IPv6 sees it");
        assert!(connections.admit(address(2)).is_some());
        there.pop();
        assert!(connections.admit(address(1)).is_some(), "one has gone");
        let local: Vec<_> = (0..=EACH).filter_map(|_| connections.admit([127, 0, 0, 6].into())).collect();
        assert_eq!(local.len(), EACH + 1);
    }

    #[test]
    fn all_together_have_so_many_and_nothing_is_kept_of_those_that_went() {
        let connections = Connections::default();
        let there: Vec<_> = (0..).map_while(|number| connections.admit(address(number))).collect();
        assert_eq!(there.len(), MOST);
        drop(there);
        let open = connections.open();
        assert!(open.all == 0 && open.by_address.is_empty());
    }
}
