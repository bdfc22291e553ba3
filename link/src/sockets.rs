//! The sockets of the agent namespace that the node agent serves.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::service::SERVICE_PORT;

/// Bit of the multicast group `RTNLGRP_LINK`, changes of interfaces. Source: linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;

/// Size of the netlink socket's receive buffer in bytes. The events of some hundred new pods fit.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

/// The sockets for one process of the node agent.
#[derive(Debug)]
pub struct AgentSockets {
    /// A socket that is bound to the service port and does not listen yet.
    pub listener: TcpListener,
    /// A route netlink socket that receives changes of interfaces. It must send no request: a request waits in the kernel for
    /// the RTNL lock, and would delay the events.
    pub events: OwnedFd,
    /// A route netlink socket for requests.
    pub requests: OwnedFd,
}

impl AgentSockets {
    /// Opens new sockets in the agent namespace. The listener shares its port with those of other processes. It accepts
    /// IPv4 too, with mapped addresses, unless the kernel has no IPv6.
    ///
    /// # Errors
    /// If the namespace cannot be entered or a socket cannot be opened.
    pub fn open(agent: &Netns) -> io::Result<Self> {
        agent.run(|| {
            let ipv6 = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)));
            let listener = match ipv6 {
                Err(error) if is_without_ipv6(&error) => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVICE_PORT))),
                result => result,
            };
            let [events, requests] = [open_route(LINK_GROUP)?, open_route(0)?];
            Ok(Self {
                listener: listener?.into(),
                events: events.as_fd().try_clone_to_owned()?,
                requests: requests.as_fd().try_clone_to_owned()?,
            })
        })
    }

    /// Returns the descriptors in the order of the protocol.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.listener.as_fd(), self.events.as_fd(), self.requests.as_fd()]
    }
}

/// Returns true if the kernel has no IPv6, or the namespace has it disabled.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL))
}

/// Binds a socket. The receiver calls `listen`: until then no connection is queued for a process that is not ready.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Opens a route netlink socket that is subscribed to multicast groups.
fn open_route(groups: u32) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    // A lost event must not fail the socket: the receiver reads an unknown interface from the kernel.
    socket.set_no_enobufs(true)?;
    socket.bind(&netlink_sys::SocketAddr::new(0, groups))?;
    Ok(socket)
}
