//! Identity of connections: the interface at which a connection arrived, and the pod that the alias of the interface
//! names. The kernel assigns an interface index of a namespace again only after about 2^31 other interfaces.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
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
    pub async fn open(route: OwnedFd) -> Result<(Self, UnboundedReceiver<LinkChange>)> {
        let (connection, handle, mut messages) =
            rtnetlink::from_socket(sys::adopt_netlink(route).context("cannot use the route socket")?);
        tokio::spawn(connection);
        let (changes_tx, changes_rx) = unbounded_channel();
        let table = Self { handle, links: Arc::default(), changes_tx };
        table.refresh().await.context("cannot read the links of the node")?;
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

    /// Reads all links again. An event can be lost if the kernel has no memory for it.
    ///
    /// # Errors
    /// If the kernel does not return the links.
    pub async fn refresh(&self) -> std::result::Result<(), Error> {
        let mut interfaces = self.handle.link().get().execute().try_collect::<Vec<_>>().await?;
        // A pod can have two sandboxes for a short time. The newer one is last.
        interfaces.sort_by_key(|link| link.header.index);
        let found = interfaces.iter().map(|link| link.header.index).collect::<HashSet<_>>();
        let mut removed = Vec::new();
        lock(&self.links).retain(|index, alias| {
            let is_found = found.contains(index);
            if !is_found {
                removed.push(Arc::clone(alias));
            }
            is_found
        });
        for alias in removed {
            let _closed = self.changes_tx.send(LinkChange::Removed(alias));
        }
        for link in &interfaces {
            add(&self.links, &self.changes_tx, link);
        }
        Ok(())
    }

    /// Returns the alias of a link, or `None` if the interface has none. An interface that is not in the table is read
    /// from the kernel. Only events add it to the table, in order with its removal.
    ///
    /// # Errors
    /// If the kernel does not respond.
    pub async fn find(&self, interface: u32) -> std::result::Result<Option<Arc<Alias>>, Error> {
        if let Some(alias) = lock(&self.links).get(&interface) {
            return Ok(Some(Arc::clone(alias)));
        }
        let mut interfaces = self.handle.link().get().match_index(interface).execute();
        match interfaces.try_next().await {
            Ok(link) => Ok(link.and_then(|link| parse_alias(&link))),
            Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Adds a link with a valid alias, or replaces the alias of a link.
fn add(links: &Mutex<HashMap<u32, Arc<Alias>>>, changes_tx: &UnboundedSender<LinkChange>, link: &LinkMessage) {
    let Some(alias) = parse_alias(link) else { return };
    let before = lock(links).insert(link.header.index, Arc::clone(&alias));
    if before.as_ref() != Some(&alias) {
        let removed = before.map(LinkChange::Removed);
        for change in removed.into_iter().chain([LinkChange::Added(alias)]) {
            let _closed = changes_tx.send(change);
        }
    }
}

fn parse_alias(link: &LinkMessage) -> Option<Arc<Alias>> {
    alias_of(link)?.parse().ok().map(Arc::new)
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
