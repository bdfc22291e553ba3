//! Identity of connections: the interface at which a connection arrived, and the pod that the alias of the interface
//! names. The kernel assigns an interface index of a namespace again only after about 2^31 other interfaces.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Error, Handle};
use socket2::SockRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::alias::Alias;
use crate::pod_link::alias_of;
use crate::route_socket::errno;
use crate::sys;

/// A change of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// A link was found.
    Added(Arc<Alias>),
    /// A link was removed.
    Removed(Arc<Alias>),
}

/// The links of a node by the index of their agent end.
#[derive(Clone, Debug)]
pub struct LinkTable {
    handle: Handle,
    links: Arc<Mutex<HashMap<u32, Arc<Alias>>>>,
    changes_tx: UnboundedSender<LinkChange>,
}

impl LinkTable {
    /// Reads all links through a route netlink socket of the agent namespace and follows their changes. The tasks of the
    /// table end with the socket. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the kernel does not return the links.
    pub async fn open(route: OwnedFd) -> Result<(Self, UnboundedReceiver<LinkChange>), Error> {
        let (connection, handle, mut messages) = rtnetlink::from_socket(sys::adopt_netlink(route));
        tokio::spawn(connection);
        let (changes_tx, changes_rx) = unbounded_channel();
        let table = Self { handle, links: Arc::default(), changes_tx };
        let mut interfaces = table.handle.link().get().execute();
        while let Some(link) = interfaces.try_next().await? {
            table.add(&link);
        }
        drop(interfaces);
        // The task has no handle: the socket closes when the table is dropped.
        let (links, changes_tx) = (Arc::clone(&table.links), table.changes_tx.clone());
        tokio::spawn(async move {
            while let Some((message, sender)) = messages.next().await {
                if sender.port_number() != 0 {
                    continue; // not from the kernel
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        add(&links, &changes_tx, &link);
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                        let removed = lock(&links).remove(&link.header.index);
                        if let Some(alias) = removed {
                            let _closed = changes_tx.send(LinkChange::Removed(alias));
                        }
                    }
                    _ => {}
                }
            }
        });
        Ok((table, changes_rx))
    }

    /// Returns the alias of a link, or `None` if the interface has none. An interface that is not in the table is read
    /// from the kernel.
    ///
    /// # Errors
    /// If the kernel does not respond.
    pub async fn find(&self, interface: u32) -> Result<Option<Arc<Alias>>, Error> {
        if let Some(alias) = lock(&self.links).get(&interface) {
            return Ok(Some(Arc::clone(alias)));
        }
        let mut interfaces = self.handle.link().get().match_index(interface).execute();
        match interfaces.try_next().await {
            Ok(link) => Ok(link.and_then(|link| self.add(&link))),
            Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add(&self, link: &LinkMessage) -> Option<Arc<Alias>> {
        add(&self.links, &self.changes_tx, link)
    }
}

/// Adds a link with a valid alias. Its alias does not change later.
fn add(
    links: &Mutex<HashMap<u32, Arc<Alias>>>,
    changes_tx: &UnboundedSender<LinkChange>,
    link: &LinkMessage,
) -> Option<Arc<Alias>> {
    let alias = Arc::new(alias_of(link)?.parse::<Alias>().ok()?);
    if lock(links).insert(link.header.index, Arc::clone(&alias)).is_none() {
        let _closed = changes_tx.send(LinkChange::Added(Arc::clone(&alias)));
    }
    Some(alias)
}

fn lock(links: &Mutex<HashMap<u32, Arc<Alias>>>) -> MutexGuard<'_, HashMap<u32, Arc<Alias>>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the index of the interface at which the handshake of a connection arrived, and binds the connection to it. No
/// later segment can then come by another link.
///
/// The kernel stores the interface of the handshake as the multicast interface of an accepted AF_INET6 socket. Source:
/// `tcp_v6_syn_recv_sock` in net/ipv6/tcp_ipv6.c. AF_INET sockets report it with `IP_PKTOPTIONS`.
///
/// # Errors
/// If the kernel does not report the interface, or the interface is gone.
pub fn bind_to_arrival_interface(stream: &impl std::os::fd::AsFd) -> io::Result<u32> {
    let socket = SockRef::from(stream);
    let is_ipv6 = socket.local_addr()?.is_ipv6();
    let interface = if is_ipv6 {
        socket.multicast_if_v6()?
    } else {
        let stream = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        sys::arrival_interface_v4(&stream)?
    };
    let index = NonZeroU32::new(interface).ok_or_else(|| io::Error::other("the connection has no interface"))?;
    // Both names set SO_BINDTOIFINDEX on Linux.
    if is_ipv6 {
        socket.bind_device_by_index_v6(Some(index))?;
    } else {
        socket.bind_device_by_index_v4(Some(index))?;
    }
    Ok(interface)
}
