//! Reads the state of the kernel around a pod's link.

use std::collections::BTreeSet;
use std::future::ready;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol};
use rtnetlink::{Error, RouteMessageBuilder};

use super::POD_INTERFACE;
use super::make::{IPV6_SERVICE_METRIC, LinkSockets};
use super::plan::{AgentEnd, Foreign, Found, PodEnd};
use crate::route_socket::RouteSocket;
use crate::service;

/// Maximum number of routes, or addresses, of a pod. A privileged pod can add any number to its own namespace.
const MAX_MESSAGES: usize = 10_000;

/// Reads both ends of a link, and what else in the pod uses a service address.
pub(super) async fn read(sockets: &LinkSockets, peer: &str) -> Result<Found, Error> {
    let pod = sockets.pod.find_link(POD_INTERFACE).await?;
    let pod_index = pod.as_ref().map(|link| link.header.index);
    let routes = routes(&sockets.pod).await?;
    let services = service::addresses();
    let mut foreign = Vec::new();
    let mut own_families = BTreeSet::new();
    for (interface, address) in addresses(&sockets.pod).await? {
        if services.contains(&address) {
            foreign.push(Foreign::Address(address));
        } else if Some(interface) == pod_index && !is_link_local(address) {
            own_families.insert(address.is_ipv6());
        }
    }
    let to_services = routes.into_iter().filter(|route| services.contains(&route.destination));
    let (own, others): (Vec<_>, Vec<_>) =
        to_services.partition(|route| route.interface.is_some() && route.interface == pod_index);
    foreign.extend(others.into_iter().map(|route| Foreign::Route(route.destination)));
    let is_routed = |address: &IpAddr| own.iter().any(|route| route.destination == *address && route.has_precedence());
    let routes_are_complete =
        services.iter().filter(|address| own_families.contains(&address.is_ipv6())).all(is_routed);
    let pod_end = pod.map(|link| PodEnd {
        index: link.header.index,
        peer: peer_index(&link),
        is_veth: is_veth(&link),
        is_complete: is_up(&link) && own_families.contains(&false) && routes_are_complete,
    });
    let agent_end = sockets.agent.find_link(peer).await?;
    let agent_end = match agent_end {
        Some(link) => {
            let index = link.header.index;
            let has_route = self::routes(&sockets.agent).await?.iter().any(|route| route.interface == Some(index));
            Some(AgentEnd { index, alias: alias(&link), is_complete: is_up(&link) && has_route })
        }
        None => None,
    };
    Ok(Found { pod_end, agent_end, foreign })
}

/// A unicast route to one address.
struct HostRoute {
    destination: IpAddr,
    interface: Option<u32>,
    metric: Option<u32>,
}

impl HostRoute {
    /// Returns true if a route of a router advertisement does not take precedence over it.
    fn has_precedence(&self) -> bool {
        self.destination.is_ipv4() || self.metric == Some(IPV6_SERVICE_METRIC)
    }
}

/// Returns true for the addresses that the kernel assigns itself. They exist also without IPv6 in the agent namespace.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Returns the addresses of all interfaces, with the index of the interface.
async fn addresses(socket: &RouteSocket) -> Result<Vec<(u32, IpAddr)>, Error> {
    let messages = collect(socket.address().get().execute()).await?;
    let address = |attributes: &[AddressAttribute]| {
        let find = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        attributes.iter().find_map(find)
    };
    let messages = messages.into_iter();
    Ok(messages.filter_map(|message| Some((message.header.index, address(&message.attributes)?))).collect())
}

/// Returns all routes to one address, except local ones and those that other pods can cause.
async fn routes(socket: &RouteSocket) -> Result<Vec<HostRoute>, Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessageBuilder::<IpAddr>::new().build();
        request.header.address_family = family;
        let messages = socket.route().get(request).execute();
        let found = collect(messages.try_filter(|route| ready(!is_caused_by_packets(route)))).await?;
        routes.extend(found.iter().filter_map(host_route));
    }
    Ok(routes)
}

/// Collects at most [`MAX_MESSAGES`] messages.
///
/// # Errors
/// If there are more.
async fn collect<T>(messages: impl Stream<Item = Result<T, Error>>) -> Result<Vec<T>, Error> {
    let collected = messages.take(MAX_MESSAGES + 1).try_collect::<Vec<_>>().await?;
    if collected.len() > MAX_MESSAGES {
        return Err(Error::NamespaceError(format!("it has more than {MAX_MESSAGES} routes or addresses")));
    }
    Ok(collected)
}

/// Parses a unicast route to one address. Returns `None` for any other route.
fn host_route(route: &RouteMessage) -> Option<HostRoute> {
    use rtnetlink::packet_route::route::RouteType::{BlackHole, Prohibit, Unicast, Unreachable};
    if !matches!(route.header.kind, Unicast | BlackHole | Prohibit | Unreachable) {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let is_host = route.header.destination_prefix_length == if destination.is_ipv4() { 32 } else { 128 };
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    is_host.then_some(HostRoute { destination, interface, metric })
}

/// Returns true for routes of router advertisements and for exceptions of ICMP errors. Other pods can send both, so they must not
/// prevent a link. Exceptions have `RTM_F_CLONED`. Source: `rt_fill_info` in net/ipv4/route.c.
fn is_caused_by_packets(route: &RouteMessage) -> bool {
    route.header.flags.contains(RouteFlags::Cloned)
        || (route.header.address_family == AddressFamily::Inet6
            && matches!(route.header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra))
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn is_veth(link: &LinkMessage) -> bool {
    let is_veth = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth));
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(info) if info.iter().any(is_veth)))
}

/// Returns the index of a veth's other end, in its own namespace.
pub(crate) fn peer_index(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// Returns the alias of an interface.
pub(crate) fn alias(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.clone()),
        _ => None,
    })
}
