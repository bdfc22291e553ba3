//! Guard 2: an nftables table that drops forwarded traffic to the service addresses, and to their substitutes on the node's link
//! (see [`crate::host_pods::addresses`]). One chain runs when a packet arrives, before connection tracking. The other one runs when
//! the node forwards a packet.
//!
//! ```text
//! table inet podmeta {
//!     chain arriving  { type filter hook prerouting priority -310; }   not from lo, TCP port 80
//!     chain forwarded { type filter hook forward priority -310; }      all traffic
//! }
//! ```
//!
//! The agent identifies a pod on the host network by the source port of its connection on the node's link. The substitutes are
//! guarded because the node can masquerade a forwarded packet: another pod could then use the same source port.
//!
//! Both chains also drop all traffic to IPv6 addresses that a translator (NAT64) maps to a service address, with any prefix. A
//! translator in the kernel, such as Jool, takes packets after the first chain and before the kernel routes them. The chains compare
//! only the bytes of the IPv4 address. They also drop other IPv6 addresses with these bytes at the same position, fewer than one in a
//! billion.

use std::io;
use std::net::IpAddr;

use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey};

use crate::host_pods::addresses::substitutes;
use crate::nat64::forms::{self, EmbeddedAddress};
use crate::netns::Netns;
use crate::nft::expression::{
    Header, IPPROTO_TCP, NFPROTO_IPV4, NFPROTO_IPV6, counter, drop_packet, equal, meta, not_equal, payload,
};
use crate::nft::{self, Chain, Table};
use crate::service::{self, SERVICE_PORT};

/// Name of the table.
const TABLE: &str = "podmeta";

/// Priority of the chains: before connection tracking (-200) and before the raw tables of others (-300).
const PRIORITY: i32 = -310;

/// Position of the destination address in an IPv6 header, in bytes.
const IPV6_DESTINATION: u32 = 24;

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// Replaces the table unless it is complete. Returns the number of tables that were written: 0 or 1.
pub(super) fn ensure(host: &Netns) -> io::Result<usize> {
    nft::ensure(host, &table())
}

/// Removes the table if it exists.
pub(super) fn remove(host: &Netns) -> io::Result<()> {
    nft::remove(host, TABLE)
}

fn table() -> Table {
    let of_link = substitutes().into_iter().map(|(_, substitute)| substitute);
    let addresses = service::addresses().into_iter().chain(of_link).collect::<Vec<_>>();
    let embedded = service::ipv4().into_iter().flat_map(forms::embedded).collect::<Vec<_>>();
    let chain =
        |name, hook, rule: fn(IpAddr) -> Vec<Expressions>, translated: fn(&EmbeddedAddress) -> Vec<Expressions>| {
            let rules = addresses.iter().copied().map(rule).chain(embedded.iter().map(translated)).collect();
            Chain { name, hook, priority: PRIORITY, rules }
        };
    Table {
        name: TABLE,
        rate_sets: Vec::new(),
        chains: vec![
            chain("arriving", InetHookNumber::PreRouting, arriving, arriving_translated),
            chain("forwarded", InetHookNumber::Forward, forwarded, forwarded_translated),
        ],
    }
}

/// Drops a packet that arrives for port 80 of an address.
fn arriving(address: IpAddr) -> Vec<Expressions> {
    let mut rule = from_outside();
    rule.extend(destination(address));
    rule.extend([meta(MetaKey::L4Proto), equal([IPPROTO_TCP])]);
    rule.extend([payload(Header::Transport, 2, 2), equal(SERVICE_PORT.to_be_bytes())]);
    rule.extend([counter(), drop_packet()]);
    rule
}

/// Drops a packet that is forwarded to an address.
fn forwarded(address: IpAddr) -> Vec<Expressions> {
    let mut rule = destination(address);
    rule.extend([counter(), drop_packet()]);
    rule
}

/// Drops a packet that arrives for a translated form of an address.
fn arriving_translated(form: &EmbeddedAddress) -> Vec<Expressions> {
    let mut rule = from_outside();
    rule.extend(forwarded_translated(form));
    rule
}

/// Drops a packet that is forwarded to a translated form of an address.
fn forwarded_translated(form: &EmbeddedAddress) -> Vec<Expressions> {
    let length = u32::try_from(form.bytes.len()).unwrap_or(u32::MAX);
    vec![
        meta(MetaKey::Nfproto),
        equal([NFPROTO_IPV6]),
        payload(Header::Network, IPV6_DESTINATION + u32::from(form.offset), length),
        equal(form.bytes.clone()),
        counter(),
        drop_packet(),
    ]
}

/// Continues for packets that do not arrive on the loopback interface.
fn from_outside() -> Vec<Expressions> {
    vec![meta(MetaKey::Iif), not_equal(LOOPBACK.to_ne_bytes())]
}

/// Continues for packets to an address.
fn destination(address: IpAddr) -> Vec<Expressions> {
    match address {
        IpAddr::V4(address) => vec![
            meta(MetaKey::Nfproto),
            equal([NFPROTO_IPV4]),
            payload(Header::Network, 16, 4),
            equal(address.octets()),
        ],
        IpAddr::V6(address) => vec![
            meta(MetaKey::Nfproto),
            equal([NFPROTO_IPV6]),
            payload(Header::Network, IPV6_DESTINATION, 16),
            equal(address.octets()),
        ],
    }
}
