//! The interfaces by which a packet can leave the node: all but the loopback interface and the pairs that end in another network
//! namespace, such as those of pods. A process can select an interface without a route, and a packet can pass several
//! interfaces: a bridge and its port, a bond and its members, a tunnel and its uplink.
//!
//! A packet that leaves by a pair arrives in the other namespace. From there it returns as a forwarded packet, which has no socket. The
//! uplink of a node in a container is such a pair, so pairs with a route to a service address are guarded too. See
//! [`super::routes`].

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use rtnetlink::Error;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};

use crate::route_socket::RouteSocket;

/// The interfaces of a node.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// Indexes of all interfaces.
    pub(super) all: BTreeSet<u32>,
    /// Indexes of those by which a packet can leave the node.
    pub(super) uplinks: BTreeSet<u32>,
}

/// Returns the interfaces in the namespace of a socket.
pub(super) async fn list(socket: &RouteSocket) -> Result<Interfaces, Error> {
    let mut request = socket.link().get();
    // A node can have a thousand interfaces, and their statistics are most of the response.
    request.message_mut().attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let (mut links, mut interfaces) = (Box::pin(request.execute()), Interfaces::default());
    while let Some(link) = links.try_next().await? {
        interfaces.all.insert(link.header.index);
        if !link.header.flags.contains(LinkFlags::Loopback) && !has_peer_elsewhere(&link) {
            interfaces.uplinks.insert(link.header.index);
        }
    }
    Ok(interfaces)
}

/// Returns true if an interface is one of a pair, and its peer is in another network namespace.
fn has_peer_elsewhere(link: &LinkMessage) -> bool {
    let is_pair = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit));
    let is_elsewhere = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    link.attributes.iter().any(is_elsewhere)
        && link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().any(is_pair),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: InfoKind, is_elsewhere: bool) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        link.attributes.extend(is_elsewhere.then_some(LinkAttribute::LinkNetNsId(0)));
        link
    }

    #[test]
    fn only_a_pair_that_ends_in_another_namespace_is_no_uplink() {
        assert!(has_peer_elsewhere(&link(InfoKind::Veth, true)));
        assert!(has_peer_elsewhere(&link(InfoKind::Netkit, true)));
        assert!(!has_peer_elsewhere(&link(InfoKind::Veth, false)), "both ends are on the node");
        for kind in [InfoKind::Vlan, InfoKind::MacVlan, InfoKind::Vxlan] {
            assert!(!has_peer_elsewhere(&link(kind, true)), "its packets can leave by an interface of the node");
        }
        assert!(!has_peer_elsewhere(&LinkMessage::default()));
    }
}
