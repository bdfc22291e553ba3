//! Classifies the interfaces of a pod: the devices that lead past the guards, and the others. Pure.
//!
//! ```text
//! interface                                             leads to                                `Device`
//! loopback                                              the pod
//! veth, netkit                                          the network stack of the node, or a namespace of the pod
//! tunnel                                                the network stack, and another machine
//! tun, tap                                              a process
//! bridge, bond, and others on an interface of the pod   that interface, which is classified itself
//! no kind: a network card or a part of it (SR-IOV)      the network of the node                 Physical
//! macvlan, ipvlan, VLAN on an interface of the node     the network of the node                 Stacked
//! ```

use std::fmt::{self, Display, Formatter};

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

/// A device in a pod that leads past the guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A network card of the node, or a part of one.
    Physical,
    /// A device on an interface of another namespace. The text is its kind, such as `macvlan`.
    Stacked(String),
    /// The pod has too many interfaces to classify them.
    Unknown,
}

impl Display for Device {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical => formatter.write_str("physical"),
            Self::Stacked(kind) => formatter.write_str(kind),
            Self::Unknown => formatter.write_str("too many interfaces"),
        }
    }
}

impl Device {
    /// Returns the device of an interface in a pod, or `None` if it does not lead past the guards.
    pub(super) fn of_interface(link: &LinkMessage) -> Option<Self> {
        // An interface of multicast routing (pimreg) is not hardware and has no kind. A pod can create one.
        let is_virtual = matches!(link.header.link_layer_type, LinkLayerType::Pimreg);
        if link.header.flags.contains(LinkFlags::Loopback) || is_virtual {
            return None;
        }
        match kind(link) {
            None => Some(Self::Physical),
            Some(InfoKind::Dsa | InfoKind::Ipoib | InfoKind::Netdevsim | InfoKind::RmNet | InfoKind::Wwan) => {
                Some(Self::Physical)
            }
            Some(
                kind @ (InfoKind::IpVlan
                | InfoKind::IpVtap
                | InfoKind::MacSec
                | InfoKind::MacVlan
                | InfoKind::MacVtap
                | InfoKind::Vlan
                | InfoKind::Other(_)),
            ) => is_on_another_namespace(link).then(|| Self::Stacked(kind.to_string())),
            Some(_) => None,
        }
    }
}

/// Returns the kind of an interface, or `None` for hardware.
fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// Returns true if the interface that a device is on is in another network namespace.
fn is_on_another_namespace(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<InfoKind>, is_elsewhere: bool) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link.attributes.extend(is_elsewhere.then_some(LinkAttribute::LinkNetNsId(0)));
        link
    }

    #[test]
    fn network_card_leads_past_the_guards() {
        assert_eq!(Device::of_interface(&link(None, false)), Some(Device::Physical));
        for kind in [InfoKind::Netdevsim, InfoKind::Dsa, InfoKind::Ipoib] {
            assert_eq!(Device::of_interface(&link(Some(kind), false)), Some(Device::Physical));
        }
    }

    #[test]
    fn device_on_an_interface_of_the_node_leads_past_the_guards() {
        for (kind, name) in [
            (InfoKind::MacVlan, "macvlan"),
            (InfoKind::IpVlan, "ipvlan"),
            (InfoKind::Vlan, "vlan"),
            (InfoKind::Other("new".to_owned()), "new"),
        ] {
            let device = Device::of_interface(&link(Some(kind.clone()), true)).unwrap();
            assert_eq!((&device, device.to_string().as_str()), (&Device::Stacked(name.to_owned()), name));
            assert_eq!(Device::of_interface(&link(Some(kind), false)), None, "it is on an interface of the pod");
        }
    }

    #[test]
    fn pair_tunnel_and_interfaces_of_the_pod_itself_do_not_lead_past_the_guards() {
        let mut loopback = link(None, false);
        loopback.header.flags = LinkFlags::Loopback;
        assert_eq!(Device::of_interface(&loopback), None);
        let mut multicast = link(None, false);
        multicast.header.link_layer_type = LinkLayerType::Pimreg;
        assert_eq!(Device::of_interface(&multicast), None);
        for kind in [InfoKind::Veth, InfoKind::Netkit, InfoKind::Vxlan, InfoKind::Wireguard] {
            assert_eq!(Device::of_interface(&link(Some(kind), true)), None);
        }
        for kind in [InfoKind::Dummy, InfoKind::Bridge, InfoKind::Bond, InfoKind::Tun] {
            assert_eq!(Device::of_interface(&link(Some(kind), false)), None);
        }
    }
}
