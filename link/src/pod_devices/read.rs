//! Reads the interfaces of a pod from the kernel. Blocks.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use super::Device;
use crate::netlink_messages;
use crate::netns::Netns;

/// Maximum number of interfaces of a pod that are read. A privileged pod can create any number in its own namespace.
const MAX_INTERFACES: usize = 1000;

/// Returns the devices of a namespace that lead past the guards, or [`Device::Unknown`] if it has more than [`MAX_INTERFACES`].
pub(super) fn devices(pod: &Netns) -> io::Result<Vec<Device>> {
    let socket = pod.run(|| {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    })?;
    socket.send(&request(), 0)?;
    let (mut devices, mut interfaces) = (Vec::new(), 0);
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in netlink_messages::parse::<RouteNetlinkMessage>(&bytes) {
            match message?.payload {
                NetlinkPayload::Done(_) => return Ok(devices),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    interfaces += 1;
                    devices.extend(Device::of_interface(&link));
                }
                _ => {}
            }
            if interfaces > MAX_INTERFACES {
                return Ok(vec![Device::Unknown]);
            }
        }
    }
}

/// Returns the request of all interfaces, without their statistics.
fn request() -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
