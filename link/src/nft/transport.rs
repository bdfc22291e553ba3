//! Messages of nftables over a netfilter socket.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::netlink_messages;
use crate::netns::Netns;

/// Subsystem of nftables in the control messages of a batch. Source: `NFNL_SUBSYS_NFTABLES` in linux/netfilter/nfnetlink.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Opens a netfilter socket in a namespace.
pub(super) fn open(netns: &Netns) -> io::Result<Socket> {
    netns.run(|| {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    })
}

/// Returns a message of the family `inet`.
pub(super) fn message(message: NfTablesMessage, flags: u16) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

fn control(message: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST;
    message
}

/// Sends a request with the flag `ACK` or `DUMP` and returns the objects of the responses. A missing object has no response.
/// An object that cannot be parsed is `None`.
pub(super) fn query(
    socket: &Socket,
    mut request: NetlinkMessage<NetfilterMessage>,
) -> io::Result<Vec<Option<NfTablesMessage>>> {
    send(socket, std::slice::from_mut(&mut request))?;
    let mut objects = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in netlink_messages::parse::<NetfilterMessage>(&bytes) {
            let Ok(message) = message else {
                objects.push(None);
                continue;
            };
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(objects),
                NetlinkPayload::Error(error) => {
                    return match error.to_io() {
                        // The kernel acknowledges the request after the response.
                        _ if error.code.is_none() => Ok(objects),
                        error if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                        error => Err(error),
                    };
                }
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(object),
                    ..
                }) => objects.push(Some(object)),
                _ => {}
            }
        }
    }
}

/// Sends changes as one transaction and waits for the result: the kernel applies all of them or none.
pub(super) fn commit(socket: &Socket, changes: Vec<NetlinkMessage<NetfilterMessage>>) -> io::Result<()> {
    let mut batch = vec![control(ControlMessage::BatchBegin)];
    batch.extend(changes);
    // The response to the last change arrives after the commit.
    if let Some(last) = batch.last_mut() {
        last.header.flags |= NLM_F_ACK;
    }
    batch.push(control(ControlMessage::BatchEnd));
    send(socket, &mut batch)?;
    let (bytes, _) = socket.recv_from_full()?;
    for message in netlink_messages::parse::<NetfilterMessage>(&bytes) {
        if let NetlinkPayload::Error(error) = message?.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

/// Sends messages in one datagram.
fn send(socket: &Socket, batch: &mut [NetlinkMessage<NetfilterMessage>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (message, sequence) in batch.iter_mut().zip(1_u32..) {
        message.header.sequence_number = sequence;
        message.finalize();
        let mut part = vec![0; message.buffer_len()];
        message.serialize(&mut part);
        bytes.extend(part);
    }
    socket.send(&bytes, 0).map(drop)
}
