//! Ends open connections of redirected pods to the node's own metadata service. A program changes new connections only.
//!
//! Source: sock_diag(7).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use crate::netns::Netns;
use crate::owner::diag;
use crate::service::{self, SERVICE_PORT};

/// Ends the connections to service addresses whose socket belongs to one of these cgroups, in a namespace. Returns their number.
/// Blocks.
///
/// # Errors
/// `EOPNOTSUPP` if the kernel cannot end connections (without `CONFIG_INET_DIAG_DESTROY`).
pub(super) fn end_connections(host: &Netns, cgroups: &HashSet<u64>) -> io::Result<usize> {
    host.run(|| {
        let services = service::addresses();
        let mut ended = 0;
        for family in [AF_INET, AF_INET6] {
            for socket in list(family)? {
                let is_redirected = diag::cgroup(&socket.nlas).is_some_and(|cgroup| cgroups.contains(&cgroup));
                if is_redirected && is_to_service(&socket.header.socket_id, &services) {
                    ended += usize::from(destroy(family, &socket)?);
                }
            }
        }
        Ok(ended)
    })
}

fn is_to_service(id: &SocketId, services: &[IpAddr]) -> bool {
    id.destination_port == SERVICE_PORT && services.contains(&id.destination_address.to_canonical())
}

/// Returns the TCP sockets of a family that have a connection.
fn list(family: u8) -> io::Result<Vec<InetResponse>> {
    let mut states = StateFlags::all();
    for state in [TCP_LISTEN, TCP_TIME_WAIT, TCP_CLOSE, TCP_SYN_RECV] {
        states.remove(StateFlags::from_bits_truncate(1 << state));
    }
    let any: IpAddr = if family == AF_INET { [0; 4].into() } else { [0; 16].into() };
    let any = SocketAddr::new(any, 0);
    let id = SocketId {
        source_port: 0,
        destination_port: 0,
        source_address: any.ip(),
        destination_address: any.ip(),
        interface_id: 0,
        cookie: diag::NO_COOKIE,
    };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request(family, states, id)));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let socket = send(message)?;
    let mut sockets = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = parse::<SockDiagMessage>(rest)?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => sockets.push(*socket),
                NetlinkPayload::Done(_) => return Ok(sockets),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Ends a connection. Returns false if it has ended meanwhile.
fn destroy(family: u8, socket: &InetResponse) -> io::Result<bool> {
    // The cookie names this socket, and no later one with the same addresses.
    let request = request(family, StateFlags::all(), socket.header.socket_id.clone());
    let mut message = NetlinkMessage::from(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let (bytes, _) = send(message)?.recv_from_full()?;
    match parse::<SockDiagMessage>(&bytes)?.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(true),
        NetlinkPayload::Error(error) => match error.to_io() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(false),
            error => Err(error),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel sent an unexpected response")),
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// Sends a message on a new socket.
fn send<M: NetlinkSerializable>(mut message: NetlinkMessage<M>) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

fn parse<M: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<NetlinkMessage<M>> {
    NetlinkMessage::<M>::deserialize(bytes).map_err(io::Error::other)
}
