//! Filter of the agent namespace: drops IP fragments and IPv6 packets whose source belongs to another link, and limits
//! the new connections of each link. All pods share the accept queues of the agent's listeners.
//!
//! Fragments are dropped because only the first one has the TCP header: a pod could hide a SYN from the limit. No client
//! needs them: a TCP segment fits into the MTU of the link.
//!
//! A pod with NET_ADMIN can move an interface of its own into this namespace, with any alias and a link-local address. The filter
//! drops its packets: only podmeta adds routes here, and the source of a packet must be in the range of these routes.
//!
//! ```text
//! table inet podmeta_agent {
//!     set rates { typeof iif; flags dynamic, timeout; timeout 1m; }
//!     chain arriving { type filter hook prerouting priority -310;
//!         iif != lo meta nfproto ipv4 ip frag-off & 0x3fff != 0 drop
//!         iif != lo meta nfproto ipv6 exthdr frag exists drop
//!         iif != lo meta nfproto ipv6 ip6 saddr & ffff:ffff:ffff:ffff:ffff:ffff:: != fda9:fe:a9fe:: drop
//!         iif != lo meta nfproto ipv6 fib saddr . iif oif missing drop
//!         iif != lo tcp flags & (syn | ack) == syn update @rates { iif limit rate over 2000/second burst 2000 } drop
//!     }
//! }
//! ```

use std::io;

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};

use crate::netns::Netns;
use crate::nft::expression::{
    Header, IPPROTO_TCP, NFPROTO_IPV4, NFPROTO_IPV6, counter, drop_packet, equal, has_fragment_header, mask, meta,
    not_equal, over_rate, payload, source_is_routed_to_interface,
};
use crate::nft::{self, Chain, RateSet, Table};
use crate::range::{IPV6_PREFIX_BYTES, ipv6_prefix};

/// New connections of one link in a second, beyond the burst. It exceeds the default request burst of a profile, 1,000.
const MAX_CONNECTION_RATE: u64 = 2000;

/// Connections of one link that may arrive as a burst.
const CONNECTION_BURST: u32 = 2000;

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// Flags of a TCP header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Offset of the flags in a TCP header, in bytes.
const FLAGS_OFFSET: u32 = 13;

/// Offset of flags and fragment offset in an IPv4 header, in bytes.
const FRAGMENT_OFFSET: u32 = 6;

/// Bits of the flag "more fragments" and of the fragment offset. They are 0 in a packet that is not a fragment.
const FRAGMENT_BITS: [u8; 2] = [0x3f, 0xff];

/// Offset of the source in an IPv6 header, in bytes.
const IPV6_SOURCE_OFFSET: u32 = 8;

/// Replaces the filter unless it is complete.
pub(super) fn ensure(agent: &Netns) -> io::Result<()> {
    nft::ensure(agent, &table()).map(drop)
}

fn table() -> Table {
    let rates = RateSet { name: "rates", id: 1 };
    let fragment_ipv4 = vec![
        meta(MetaKey::Iif),
        not_equal(LOOPBACK.to_ne_bytes()),
        meta(MetaKey::Nfproto),
        equal([NFPROTO_IPV4]),
        payload(Header::Network, FRAGMENT_OFFSET, 2),
        mask(FRAGMENT_BITS),
        not_equal([0, 0]),
        counter(),
        drop_packet(),
    ];
    let fragment_ipv6 = vec![
        meta(MetaKey::Iif),
        not_equal(LOOPBACK.to_ne_bytes()),
        meta(MetaKey::Nfproto),
        equal([NFPROTO_IPV6]),
        has_fragment_header(),
        equal([1]),
        counter(),
        drop_packet(),
    ];
    let other_range = vec![
        meta(MetaKey::Iif),
        not_equal(LOOPBACK.to_ne_bytes()),
        meta(MetaKey::Nfproto),
        equal([NFPROTO_IPV6]),
        payload(Header::Network, IPV6_SOURCE_OFFSET, IPV6_PREFIX_BYTES),
        not_equal(ipv6_prefix()),
        counter(),
        drop_packet(),
    ];
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
        mask([SYN | ACK]),
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
            rules: vec![fragment_ipv4, fragment_ipv6, other_range, foreign_source, too_many_connections],
        }],
    }
}
