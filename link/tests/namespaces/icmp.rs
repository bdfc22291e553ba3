//! ICMP messages that a pod with NET_RAW can send to other pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use podmeta_link::netns::Netns;
use socket2::{Domain, Protocol, Socket, Type};

use crate::kit::run;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends a router advertisement with an on-link prefix to all nodes of an interface's network. The option has type 3 and the flags
/// on-link and autoconfiguration. Source: RFC 4861, 4.6.2.
pub(crate) fn advertise_prefix(from: &Netns, interface: &str, prefix: Ipv6Addr, length: u8) {
    advertise(from, interface, &[3, 4, length, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], prefix);
}

/// Sends a router advertisement with a route to one address by the sender. The option has type 24. Source: RFC 4191, 2.3.
pub(crate) fn advertise_route(from: &Netns, interface: &str, to: Ipv6Addr) {
    advertise(from, interface, &[24, 3, 128, 0, 0, 1, 0, 0], to);
}

/// Sends a router advertisement with an option that ends with an address. Type 134, hop limit 64, router lifetime 1800 s. The
/// kernel writes the checksum. Source: RFC 4861, 4.2.
fn advertise(from: &Netns, interface: &str, option: &[u8], address: Ipv6Addr) {
    let index = run(from, &format!("ip -o link show {interface}")).split(':').next().unwrap().parse().unwrap();
    let header = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let message = [&header, option, &address.octets()].concat();
    let socket = from.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    socket.send_to(&message, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into()).unwrap();
}

/// Sends the error that a packet from `to` to `destination` was too big, with an MTU of 600 bytes (IPv4) or 1280 bytes (IPv6). The
/// kernel of `to` then caches an exception of its route to `destination`, also if it did not send that packet.
pub(crate) fn report_too_big(from: &Netns, to: IpAddr, destination: IpAddr) {
    let (domain, protocol, message) = match (to, destination) {
        (IpAddr::V4(to), IpAddr::V4(destination)) => (Domain::IPV4, Protocol::ICMPV4, too_big_v4(to, destination)),
        (IpAddr::V6(to), IpAddr::V6(destination)) => (Domain::IPV6, Protocol::ICMPV6, too_big_v6(to, destination)),
        _ => panic!("{to} and {destination} are of different families"),
    };
    let socket = from.run(|| Socket::new(domain, Type::RAW, Some(protocol))).unwrap();
    socket.send_to(&message, &SocketAddr::from((to, 0)).into()).unwrap();
}

/// Returns an error of type 3, code 4, for an echo reply, with the MTU 600. Source: RFC 1191, 4.
fn too_big_v4(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let packet = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    let header = [3, 4, 0, 0, 0, 0, 2, 88];
    let mut message = [&header[..], &packet, &source.octets(), &destination.octets(), &[0; 8]].concat();
    let sum = message.chunks(2).map(|bytes| u32::from(bytes[0]) << 8 | u32::from(bytes[1])).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&u16::try_from(!sum & 0xffff).unwrap().to_be_bytes());
    message
}

/// Returns an error of type 2 for an echo request, with the MTU 1280. The kernel writes the checksum. Source: RFC 4443, 3.2.
fn too_big_v6(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let packet = [0x60, 0, 0, 0, 0, 8, 58, 64];
    let echo = [128, 0, 0, 0, 0, 0, 0, 0];
    [&[2, 0, 0, 0, 0, 0, 5, 0][..], &packet, &source.octets(), &destination.octets(), &echo].concat()
}
