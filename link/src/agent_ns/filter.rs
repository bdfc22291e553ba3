//! Filter of the agent namespace: drops IPv6 packets whose source belongs to another link, and limits the new
//! connections of each link. All pods share the accept queues of the agent's listeners.
//!
//! ```text
//! table inet podmeta_agent {
//!     set rates { typeof iif; flags dynamic, timeout; timeout 1m; }
//!     chain arriving { type filter hook prerouting priority -310;
//!         iif != lo meta nfproto ipv6 fib saddr . iif oif missing drop
//!         iif != lo tcp flags & (syn | ack) == syn update @rates { iif limit rate over 2000/second burst 2000 } drop
//!     }
//! }
//! ```

use std::io;

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};

use crate::netns::Netns;
use crate::nft::expression::{
    Header, IPPROTO_TCP, NFPROTO_IPV6, counter, drop_packet, equal, mask, meta, not_equal, over_rate, payload,
    source_is_routed_to_interface,
};
use crate::nft::{self, Chain, RateSet, Table};

/// New connections of one link in a second, beyond the burst. It exceeds the default request burst of a profile, 1,000.
const MAX_CONNECTION_RATE: u64 = 2000;

/// Connections of one link that may arrive at once.
const CONNECTION_BURST: u32 = 2000;

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// Flags of a TCP header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Offset of the flags in a TCP header, in bytes.
const FLAGS_OFFSET: u32 = 13;

/// Replaces the filter unless it is complete.
pub(super) fn ensure(agent: &Netns) -> io::Result<()> {
    nft::ensure(agent, &table()).map(drop)
}

fn table() -> Table {
    let rates = RateSet { name: "rates", id: 1 };
    let foreign_source = vec![
        meta(MetaKey::Iif),
        not_equal(LOOPBACK.to_ne_bytes()),
        meta(MetaKey::Nfproto),
        equal([NFPROTO_IPV6]),
        source_is_routed_to_interface(),
        equal(0_u32.to_ne_bytes()),
        counter(),
        drop_packet(),
    ];
    let too_many_connections = vec![
        meta(MetaKey::L4Proto),
        equal([IPPROTO_TCP]),
        payload(Header::Transport, FLAGS_OFFSET, 1),
        mask(SYN | ACK),
        equal([SYN]),
        meta(MetaKey::Iif),
        not_equal(LOOPBACK.to_ne_bytes()),
        over_rate(rates, MAX_CONNECTION_RATE, CONNECTION_BURST),
        counter(),
        drop_packet(),
    ];
    Table {
        name: "podmeta_agent",
        rate_sets: vec![rates],
        chains: vec![Chain {
            name: "arriving",
            hook: InetHookNumber::PreRouting,
            priority: -310,
            rules: vec![foreign_source, too_many_connections],
        }],
    }
}
