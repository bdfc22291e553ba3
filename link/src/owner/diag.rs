//! Reads one TCP socket of a namespace from the kernel by its addresses (INET_DIAG). The kernel looks it up in its hash
//! table: no list of sockets is read. Source: sock_diag(7).

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::net::if_::if_nametoindex;

use super::ConnectionAddresses;
use crate::netns::Netns;
use crate::pod_link::POD_INTERFACE;

/// Cookie of a request that names no socket. Source: `INET_DIAG_NOCOOKIE` in linux/inet_diag.h.
pub(crate) const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Attribute with the ID of the socket's cgroup. Source: `INET_DIAG_CGROUP_ID` in linux/inet_diag.h.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// The client's socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientSocket {
    /// User ID on the node of its owner.
    pub(crate) user: u32,
    /// ID of the cgroup in which it was created, or `None` if the kernel does not report it.
    pub(crate) cgroup: Option<u64>,
}

/// Returns the user ID on the node that owns the client's socket of a connection, or `None` if no process in the namespace has
/// such a socket open. Blocks.
pub(super) fn find_owner(pod: &Netns, connection: ConnectionAddresses) -> io::Result<Option<u32>> {
    Ok(find_socket(pod, connection, POD_INTERFACE)?.map(|socket| socket.user))
}

/// Returns the client's socket of a connection, or `None` if no process in the namespace has such a socket open. A socket that
/// is bound to another interface than `interface` is not found. Blocks.
pub(crate) fn find_socket(
    netns: &Netns,
    connection: ConnectionAddresses,
    interface: &str,
) -> io::Result<Option<ClientSocket>> {
    let found = netns.run(|| {
        // A socket that is bound to the interface is found only with its index. Other sockets are found with any index.
        let interface = if_nametoindex(interface).unwrap_or_default();
        exchange(request(connection, interface))
    })?;
    Ok(found.and_then(|socket| {
        Some(ClientSocket { user: owner(&socket.header, connection)?, cgroup: cgroup(&socket.nlas) })
    }))
}

/// Returns the cgroup in the attributes of a socket.
pub(crate) fn cgroup(attributes: &[Nla]) -> Option<u64> {
    attributes.iter().find_map(|attribute| match attribute {
        Nla::Other(attribute) if attribute.kind() == INET_DIAG_CGROUP_ID => {
            let mut value = [0; 8];
            (attribute.value_len() == value.len()).then(|| attribute.emit_value(&mut value))?;
            Some(u64::from_ne_bytes(value))
        }
        _ => None,
    })
}

/// Sends a request on a new socket and returns the response, or `None` if the kernel has no such socket.
fn exchange(mut request: NetlinkMessage<SockDiagMessage>) -> io::Result<Option<InetResponse>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    parse(&bytes)
}

/// Returns the request of one socket. With IPv4 addresses, the kernel also finds an AF_INET6 socket with mapped addresses.
/// Source: `inet_diag_find_one_icsk` in net/ipv4/inet_diag.c.
fn request(connection: ConnectionAddresses, interface: u32) -> NetlinkMessage<SockDiagMessage> {
    let ConnectionAddresses { client, service } = connection;
    let request = InetRequest {
        family: if client.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: client.port(),
            destination_port: service.port(),
            source_address: client.ip(),
            destination_address: service.ip(),
            interface_id: interface,
            cookie: NO_COOKIE,
        },
    };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = NLM_F_REQUEST;
    message
}

fn parse(bytes: &[u8]) -> io::Result<Option<InetResponse>> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => Ok(Some(*response)),
        NetlinkPayload::Error(error) => match error.to_io() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel sent an unexpected response")),
    }
}

/// Returns the user that owns a socket, or `None` if it is not the open socket of the connection. The kernel also returns:
///
/// - a socket that listens at the client's address, if there is no other
/// - a socket that a process has closed. It has no inode, and older kernels report root as its owner. Source: `sock_i_uid`
///   in net/core/sock.c.
/// - a socket that is not connected yet, whose process can be another one than that of the connection
fn owner(socket: &InetResponseHeader, connection: ConnectionAddresses) -> Option<u32> {
    let id = &socket.socket_id;
    let is_at = |ip: IpAddr, port: u16, address: SocketAddr| SocketAddr::new(ip.to_canonical(), port) == address;
    let is_client = is_at(id.source_address, id.source_port, connection.client)
        && is_at(id.destination_address, id.destination_port, connection.service);
    // A client can end its sending before it receives the response.
    let is_connected = matches!(socket.state, TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2);
    (is_client && is_connected && socket.inode != 0).then_some(socket.uid)
}

#[cfg(test)]
mod tests {
    use netlink_packet_sock_diag::constants::{TCP_LISTEN, TCP_SYN_SENT, TCP_TIME_WAIT};

    use super::*;

    fn connection() -> ConnectionAddresses {
        ConnectionAddresses {
            client: "169.254.240.2:4000".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
        }
    }

    /// Returns the response for the open socket of [`connection`], of user 33.
    fn socket() -> InetResponseHeader {
        let NetlinkPayload::InnerMessage(SockDiagMessage::InetRequest(request)) = request(connection(), 0).payload
        else {
            panic!("not a request");
        };
        InetResponseHeader {
            family: AF_INET,
            state: TCP_ESTABLISHED,
            timer: None,
            socket_id: request.socket_id,
            recv_queue: 0,
            send_queue: 0,
            uid: 33,
            inode: 7,
        }
    }

    #[test]
    fn open_socket_of_the_connection_has_an_owner() {
        for state in [TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2] {
            assert_eq!(owner(&InetResponseHeader { state, ..socket() }, connection()), Some(33), "{state}");
        }
    }

    #[test]
    fn socket_with_mapped_addresses_is_that_of_the_connection() {
        let mut socket = socket();
        for address in [&mut socket.socket_id.source_address, &mut socket.socket_id.destination_address] {
            let IpAddr::V4(ip) = *address else { panic!("not IPv4") };
            *address = ip.to_ipv6_mapped().into();
        }
        assert_eq!(owner(&socket, connection()), Some(33));
    }

    #[test]
    fn socket_that_no_process_has_open_has_no_owner() {
        assert_eq!(owner(&InetResponseHeader { inode: 0, ..socket() }, connection()), None);
        for state in [TCP_LISTEN, TCP_SYN_SENT, TCP_TIME_WAIT] {
            assert_eq!(owner(&InetResponseHeader { state, ..socket() }, connection()), None, "{state}");
        }
    }

    #[test]
    fn socket_of_another_connection_has_no_owner() {
        let changes: [fn(&mut SocketId); 4] = [
            |id| id.source_port += 1,
            |id| id.destination_port = 0,
            |id| id.source_address = IpAddr::from([0, 0, 0, 0]),
            |id| id.destination_address = IpAddr::from([0, 0, 0, 0]),
        ];
        for change in changes {
            let mut socket = socket();
            change(&mut socket.socket_id);
            assert_eq!(owner(&socket, connection()), None, "{socket:?}");
        }
    }

    #[test]
    fn error_other_than_a_missing_socket_is_returned() {
        let error = |code: i32| {
            // Length 36, type NLMSG_ERROR, then the code and the header of the request. Source: netlink(7).
            let mut bytes = [36_u32.to_ne_bytes(), [2, 0, 0, 0], [0; 4], [0; 4]].concat();
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            parse(&bytes)
        };
        assert_eq!(error(-nix::libc::ENOENT).unwrap(), None);
        let denied = error(-nix::libc::EPERM).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connection =
            ConnectionAddresses { client: client.local_addr().unwrap(), service: client.peer_addr().unwrap() };
        let found = exchange(request(connection, 0)).unwrap().unwrap();
        assert_eq!(owner(&found.header, connection), Some(nix::unistd::getuid().as_raw()));
        drop(client);
        let closed = exchange(request(connection, 0)).unwrap().and_then(|found| owner(&found.header, connection));
        assert_eq!(closed, None);
    }
}
