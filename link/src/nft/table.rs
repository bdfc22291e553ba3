//! Types of a table. Pure.

use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber};

/// A table of the family `inet`.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Sets that hold a rate for each interface.
    pub(crate) rate_sets: Vec<RateSet>,
    pub(crate) chains: Vec<Chain>,
}

/// A set of interfaces, each with the state of a rate limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSet {
    pub(crate) name: &'static str,
    /// Identifies the set in the transaction.
    pub(crate) id: u32,
}

/// A chain with the policy `accept`.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: InetHookNumber,
    /// Chains of a lower priority run first.
    pub(crate) priority: i32,
    pub(crate) rules: Vec<Vec<Expressions>>,
}
