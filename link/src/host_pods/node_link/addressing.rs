//! Addresses, neighbours and routes of the node's link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, CacheInfo};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::{Error, RouteMessageBuilder};

use crate::host_pods::addresses::{NODE_IPV4, node_ipv6};
use crate::route_socket::{RouteSocket, unless_exists};

/// Metric of the routes that prohibit traffic to the link's addresses while the link is missing.
const PROHIBIT_METRIC: u32 = 0x7fff_0000;

/// Metric of the IPv6 routes by the link.
const LINK_METRIC: u32 = 1;

/// A route of the host to an address of the link.
#[derive(Clone, Copy)]
pub(super) enum HostRoute {
    /// By the interface with this index.
    By(u32),
    /// Prohibits the address.
    Prohibit,
}

/// Use of an IPv6 address as the source of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Preference {
    /// For all destinations.
    Any,
    /// Only for routes that name it as their source. The address is deprecated, so the kernel avoids it for others.
    OnlyThisLink,
}

/// Adds the route of the agent namespace to an address of the node.
pub(super) async fn add_agent_route(agent: &RouteSocket, address: IpAddr, interface: u32) -> Result<(), Error> {
    let route = match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(interface)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(interface)
            .priority(LINK_METRIC)
            .build(),
    };
    unless_exists(agent.route().add(route).execute().await)
}

/// Adds a route of the host to an address of the link.
pub(super) async fn add_host_route(host: &RouteSocket, address: IpAddr, kind: HostRoute) -> Result<(), Error> {
    unless_exists(host.route().add(host_route(address, kind)).execute().await)
}

pub(super) fn host_route(address: IpAddr, kind: HostRoute) -> RouteMessage {
    match address {
        IpAddr::V4(address) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32);
            match kind {
                HostRoute::By(interface) => {
                    builder.output_interface(interface).pref_source(NODE_IPV4).scope(RouteScope::Link).build()
                }
                HostRoute::Prohibit => builder.kind(RouteType::Prohibit).priority(PROHIBIT_METRIC).build(),
            }
        }
        IpAddr::V6(address) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128);
            match kind {
                HostRoute::By(interface) => {
                    builder.output_interface(interface).pref_source(node_ipv6()).priority(LINK_METRIC).build()
                }
                HostRoute::Prohibit => builder.kind(RouteType::Prohibit).priority(PROHIBIT_METRIC).build(),
            }
        }
    }
}

/// Adds an address of this end of the link.
pub(super) async fn add_address(
    socket: &RouteSocket,
    interface: u32,
    address: IpAddr,
    preference: Preference,
) -> Result<(), Error> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut request = socket.address().add(interface, address, length);
    let message = request.message_mut();
    if address.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
        if preference == Preference::OnlyThisLink {
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
    }
    unless_exists(request.execute().await)
}

/// Adds the other end of the link as a neighbour.
pub(super) async fn add_neighbour(
    socket: &RouteSocket,
    interface: u32,
    address: IpAddr,
    mac: &[u8; 6],
) -> Result<(), Error> {
    let request = socket.neighbours().add(interface, address).state(NeighbourState::Permanent);
    request.link_layer_address(mac).replace().execute().await
}
