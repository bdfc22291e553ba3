//! Identity of connections: the interface at which a connection arrived, and the pod that the alias of the interface
//! names. The kernel assigns an interface index of a namespace again only after about 2^31 other interfaces.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Error, Handle};
use socket2::SockRef;
use tokio::sync::Notify;
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
    requests: Handle,
    links: Links,
    /// Keeps the task that receives events.
    _events: Handle,
}

/// The links that are known, shared with the task that receives events.
#[derive(Clone, Debug)]
struct Links {
    by_interface: Arc<Mutex<HashMap<u32, Arc<Alias>>>>,
    /// Wakes waiting calls of [`LinkTable::find`] after a link was added.
    added: Arc<Notify>,
    changes_tx: UnboundedSender<LinkChange>,
}

impl LinkTable {
    /// Reads all links and follows their changes. The sockets are those of [`AgentSockets`](crate::sockets::AgentSockets).
    /// The tasks of the table end with it. Must be called in a tokio runtime, which receives the events.
    ///
    /// # Errors
    /// If the kernel does not return the links.
    pub async fn open(events: OwnedFd, requests: OwnedFd) -> Result<(Self, UnboundedReceiver<LinkChange>)> {
        let events = sys::adopt_netlink(events).context("cannot use the socket for changes of links")?;
        let (connection, events, mut messages) = rtnetlink::from_socket(events);
        tokio::spawn(connection);
        let (changes_tx, changes_rx) = unbounded_channel();
        let links = Links { by_interface: Arc::default(), added: Arc::default(), changes_tx };
        let table = Self { requests: start_requests(requests)?, links, _events: events };
        table.refresh().await.context("cannot read the links of the node")?;
        // The task has no handle: the socket closes when the table is dropped.
        let links = table.links.clone();
        tokio::spawn(async move {
            while let Some((message, sender)) = messages.next().await {
                if sender.port_number() != 0 {
                    continue; // not from the kernel
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.add(&link),
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => links.remove(&link),
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
        let mut interfaces = self.requests.link().get().execute().try_collect::<Vec<_>>().await?;
        // A pod can have two sandboxes for a short time. The newer one is last.
        interfaces.sort_by_key(|link| link.header.index);
        let found = interfaces.iter().map(|link| link.header.index).collect::<HashSet<_>>();
        self.links.retain(&found);
        for link in &interfaces {
            self.links.add(link);
        }
        Ok(())
    }

    /// Returns the alias of a link, or `None` if the interface has none. An interface that is not in the table is read
    /// from the kernel, unless an event adds it first: the kernel may respond only after seconds. Only events add it to the
    /// table, in order with its removal.
    ///
    /// # Errors
    /// If the kernel does not respond.
    pub async fn find(&self, interface: u32) -> std::result::Result<Option<Arc<Alias>>, Error> {
        match self.links.get(interface) {
            Some(alias) => Ok(Some(alias)),
            None => tokio::select! {
                alias = self.links.wait_for(interface) => Ok(Some(alias)),
                result = self.read(interface) => result,
            },
        }
    }

    /// Reads the alias of an interface from the kernel.
    async fn read(&self, interface: u32) -> std::result::Result<Option<Arc<Alias>>, Error> {
        let mut interfaces = self.requests.link().get().match_index(interface).execute();
        match interfaces.try_next().await {
            Ok(link) => Ok(link.and_then(|link| parse_alias(&link))),
            Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Starts the thread that sends requests. A request waits in the kernel for the lock of all interfaces: for seconds while many
/// pods start and end. The thread ends with the returned handle.
fn start_requests(socket: OwnedFd) -> Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = {
        let _entered = runtime.enter();
        sys::adopt_netlink(socket).context("cannot use the socket for requests")?
    };
    let (connection, handle, _) = rtnetlink::from_socket(socket);
    std::thread::Builder::new().name("link requests".to_owned()).spawn(move || runtime.block_on(connection))?;
    Ok(handle)
}

impl Links {
    fn get(&self, interface: u32) -> Option<Arc<Alias>> {
        self.lock().get(&interface).cloned()
    }

    /// Waits until an interface is added.
    async fn wait_for(&self, interface: u32) -> Arc<Alias> {
        loop {
            let mut added = pin!(self.added.notified());
            added.as_mut().enable();
            if let Some(alias) = self.get(interface) {
                return alias;
            }
            added.await;
        }
    }

    /// Adds a link with a valid alias, or replaces the alias of a link.
    fn add(&self, link: &LinkMessage) {
        let Some(alias) = parse_alias(link) else { return };
        let before = self.lock().insert(link.header.index, Arc::clone(&alias));
        if before.as_ref() != Some(&alias) {
            self.added.notify_waiters();
            for change in before.map(LinkChange::Removed).into_iter().chain([LinkChange::Added(alias)]) {
                self.send(change);
            }
        }
    }

    fn remove(&self, link: &LinkMessage) {
        let removed = self.lock().remove(&link.header.index);
        if let Some(alias) = removed {
            self.send(LinkChange::Removed(alias));
        }
    }

    /// Removes all links except those of these interfaces.
    fn retain(&self, interfaces: &HashSet<u32>) {
        let removed = self.lock().extract_if(|index, _| !interfaces.contains(index)).collect::<Vec<_>>();
        for (_, alias) in removed {
            self.send(LinkChange::Removed(alias));
        }
    }

    fn send(&self, change: LinkChange) {
        let _closed = self.changes_tx.send(change);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Alias>>> {
        self.by_interface.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_alias(link: &LinkMessage) -> Option<Arc<Alias>> {
    alias_of(link)?.parse().ok().map(Arc::new)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rtnetlink::packet_route::link::LinkAttribute;

    use super::*;

    #[tokio::test]
    async fn event_ends_the_wait_for_a_kernel_that_does_not_respond() {
        // Nothing drives these connections, so no request is sent.
        let [(_unsent, requests, _), (_idle, events, _)] = [(); 2].map(|()| rtnetlink::new_connection().unwrap());
        let (changes_tx, _changes_rx) = unbounded_channel();
        let links = Links { by_interface: Arc::default(), added: Arc::default(), changes_tx };
        let table = LinkTable { requests, links: links.clone(), _events: events };
        let link = |index: u32, pod: &str| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes.push(LinkAttribute::IfAlias(format!("podmeta/1 uid={pod} sandbox=s")));
            link
        };
        let found = tokio::spawn(async move { table.find(7).await });
        tokio::task::yield_now().await;
        links.add(&link(6, "other"));
        tokio::task::yield_now().await;
        assert!(!found.is_finished());
        links.add(&link(7, "own"));
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.expect("the wait does not end");
        assert_eq!(found.unwrap().unwrap().unwrap().pod.as_str(), "own");
    }
}
