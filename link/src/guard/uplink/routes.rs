//! The interfaces of all routes to a service address, of all routing tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Error, RouteMessageBuilder};

use crate::route_socket::{RouteSocket, destination};

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// Returns the indexes of the interfaces of all routes to these addresses, except the loopback interface.
pub(super) async fn list(socket: &RouteSocket, addresses: &[IpAddr]) -> Result<BTreeSet<u32>, Error> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessageBuilder::<IpAddr>::new().build();
        request.header.address_family = family;
        // One route at a time: a node can have a full routing table.
        let mut routes = Box::pin(socket.route().get(request).execute());
        while let Some(route) = routes.try_next().await? {
            found.extend(interfaces(&route, addresses));
        }
    }
    Ok(found)
}

/// Returns the interfaces of a unicast route that contains one of the addresses, such as a default route.
fn interfaces(route: &RouteMessage, addresses: &[IpAddr]) -> Vec<u32> {
    let contains = |prefix: IpNet| addresses.iter().any(|address| prefix.contains(address));
    if route.header.kind != RouteType::Unicast || !destination(route).is_some_and(contains) {
        return Vec::new();
    }
    let of_attribute = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    let interfaces = route.attributes.iter().flat_map(of_attribute);
    interfaces.filter(|index| *index > LOOPBACK).collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::{RouteAddress, RouteNextHop};

    use super::*;
    use crate::service;

    fn route(prefix: &str, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let prefix = prefix.parse::<IpNet>().unwrap();
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.destination_prefix_length = prefix.prefix_len();
        let (family, address) = match prefix.addr() {
            IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
        };
        route.header.address_family = family;
        // The kernel reports no address for a default route.
        if prefix.prefix_len() > 0 {
            route.attributes.push(RouteAttribute::Destination(address));
        }
        route.attributes.extend(attributes);
        route
    }

    fn found(route: &RouteMessage) -> Vec<u32> {
        interfaces(route, &service::addresses())
    }

    #[test]
    fn interface_of_a_route_to_a_service_address_is_an_uplink() {
        for prefix in ["0.0.0.0/0", "128.0.0.0/1", "169.254.0.0/16", "169.254.169.254/32", "::/0", "fd00:ec2::254/128"]
        {
            assert_eq!(found(&route(prefix, vec![RouteAttribute::Oif(7)])), [7], "{prefix}");
        }
    }

    #[test]
    fn interface_of_another_route_is_no_uplink() {
        for prefix in ["10.0.0.0/8", "169.254.169.253/32", "fe80::/64", "fd00::/32"] {
            assert_eq!(found(&route(prefix, vec![RouteAttribute::Oif(7)])), [0; 0], "{prefix}");
        }
        let mut local = route("169.254.169.254/32", vec![RouteAttribute::Oif(7)]);
        local.header.kind = RouteType::Local;
        assert_eq!(found(&local), [0; 0]);
        assert_eq!(found(&route("0.0.0.0/0", vec![RouteAttribute::Oif(LOOPBACK)])), [0; 0]);
    }

    #[test]
    fn each_hop_of_a_multipath_route_is_an_uplink() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let route = route("0.0.0.0/0", vec![RouteAttribute::MultiPath(vec![hop(3), hop(5)])]);
        assert_eq!(found(&route), [3, 5]);
    }
}
