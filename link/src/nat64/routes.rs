//! Finds the routes that lead to a translator on the node, in all routing tables. Only prefixes that a standard reserves for
//! translation are found. A network can also use a prefix of its own, which looks like any other prefix.

use std::net::Ipv6Addr;

use futures_util::TryStreamExt as _;
use ipnet::{IpNet, Ipv6Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Error, RouteMessageBuilder};

use super::forms::WELL_KNOWN;
use crate::netns::Netns;
use crate::route_socket::{RouteSocket, destination, errno};

/// The prefix for translators inside a network. Source: RFC 8215.
const LOCAL_USE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0);

/// The prefix of IPv4-translated addresses, which stateless translators use. Source: RFC 2765.
const IPV4_TRANSLATED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0);

/// A route of a prefix for translation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TranslationRoute {
    prefix: IpNet,
    interface: u32,
    has_gateway: bool,
}

/// Returns prefix and interface of each route to a translator on the node, such as `64:ff9b::/96 by nat64`.
pub(super) async fn list(host: &Netns) -> anyhow::Result<Vec<String>> {
    let socket = RouteSocket::open(host)?;
    let mut request = RouteMessageBuilder::<Ipv6Addr>::new().build();
    request.header.address_family = AddressFamily::Inet6;
    let (mut messages, mut found) = (Box::pin(socket.route().get(request).execute()), Vec::new());
    // One route at a time: a node can have a full routing table.
    while let Some(message) = messages.try_next().await? {
        found.extend(translation_route(&message));
    }
    let mut local = Vec::new();
    for route in found {
        if let Some(link) = link(&socket, route.interface).await?
            && is_on_node(&route, &link)
        {
            local.push(format!("{} by {}", route.prefix, name(&link)));
        }
    }
    local.sort_unstable();
    local.dedup();
    Ok(local)
}

/// Returns a unicast route whose prefix is inside a prefix for translation. Returns `None` for others, such as a default route.
fn translation_route(route: &RouteMessage) -> Option<TranslationRoute> {
    let prefix = destination(route)?;
    let is_inside = |address, length| Ipv6Net::new(address, length).is_ok_and(|net| IpNet::V6(net).contains(&prefix));
    let is_translated = is_inside(WELL_KNOWN, 96) || is_inside(LOCAL_USE, 48) || is_inside(IPV4_TRANSLATED, 96);
    if route.header.kind != RouteType::Unicast || !is_translated {
        return None;
    }
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })?;
    let is_gateway = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_))
    };
    Some(TranslationRoute { prefix, interface, has_gateway: route.attributes.iter().any(is_gateway) })
}

/// Returns true unless the route leads to a gateway outside the node. A translator there reaches the metadata service of its own
/// machine, not that of the node. A gateway on a virtual interface is on the node: in a process or a network namespace.
fn is_on_node(route: &TranslationRoute, link: &LinkMessage) -> bool {
    let leads_to_node = |info: &LinkInfo| {
        matches!(info, LinkInfo::Kind(InfoKind::Tun | InfoKind::Veth | InfoKind::Netkit | InfoKind::Dummy))
    };
    let is_of_node = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(leads_to_node),
        _ => false,
    });
    !route.has_gateway || is_of_node
}

/// Returns an interface, or `None` if it was removed.
async fn link(socket: &RouteSocket, index: u32) -> Result<Option<LinkMessage>, Error> {
    match socket.link().get().match_index(index).execute().try_collect::<Vec<_>>().await {
        Ok(links) => Ok(links.into_iter().next()),
        Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn name(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAddress;

    use super::*;

    fn route(prefix: &str, attributes: &[RouteAttribute]) -> RouteMessage {
        let prefix = prefix.parse::<Ipv6Net>().unwrap();
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.address_family = AddressFamily::Inet6;
        route.header.destination_prefix_length = prefix.prefix_len();
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(prefix.addr())));
        route.attributes.push(RouteAttribute::Oif(7));
        route.attributes.extend_from_slice(attributes);
        route
    }

    fn gateway() -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet6("fe80::1".parse().unwrap()))
    }

    fn link(kind: Option<InfoKind>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link
    }

    #[test]
    fn only_routes_inside_a_prefix_for_translation_count() {
        for prefix in ["64:ff9b::/96", "64:ff9b::a9fe:0/112", "64:ff9b:1::/48", "64:ff9b:1:8::/64", "::ffff:0:0:0/96"] {
            let found = translation_route(&route(prefix, &[])).unwrap();
            assert_eq!((found.prefix.to_string().as_str(), found.interface), (prefix, 7));
        }
        for prefix in ["::/0", "64::/16", "64:ff9b::/32", "64:ff9b:2::/48", "2001:db8::/96", "::ffff:0:0/96"] {
            assert_eq!(translation_route(&route(prefix, &[])), None, "{prefix}");
        }
        let mut unreachable = route("64:ff9b::/96", &[]);
        unreachable.header.kind = RouteType::Unreachable;
        assert_eq!(translation_route(&unreachable), None);
    }

    #[test]
    fn gateway_outside_the_node_is_not_a_translator_of_the_node() {
        let direct = translation_route(&route("64:ff9b::/96", &[])).unwrap();
        let by_gateway = translation_route(&route("64:ff9b::/96", &[gateway()])).unwrap();
        assert!(is_on_node(&direct, &link(None)));
        assert!(!is_on_node(&by_gateway, &link(None)));
        assert!(!is_on_node(&by_gateway, &link(Some(InfoKind::Vlan))));
        for kind in [InfoKind::Tun, InfoKind::Veth, InfoKind::Netkit, InfoKind::Dummy] {
            assert!(is_on_node(&by_gateway, &link(Some(kind))));
        }
    }
}
