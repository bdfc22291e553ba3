//! Identity of connections: the interface at which a connection arrived, and the pod that the alias of the interface
//! names, or the node. The kernel assigns an interface index of a namespace again only after about 2^31 other interfaces.

mod known_links;

use std::io;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_sys::SocketAddr;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Error, Handle};
use socket2::SockRef;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::alias::Alias;
use crate::route_socket::errno;
use crate::sys;
use known_links::{KnownLinks, parse_alias};

/// A change of the link of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// The newest link of a pod.
    Added(Arc<Alias>),
    /// The pod has no link any more. The alias is that of the last one.
    Removed(Arc<Alias>),
}

/// The owner of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkOwner {
    /// One pod.
    Pod(Arc<Alias>),
    /// The node. All pods on the host network use its link.
    Node,
}

impl LinkOwner {
    /// Returns the alias of a pod's link.
    #[must_use]
    pub fn pod(&self) -> Option<&Arc<Alias>> {
        match self {
            Self::Pod(alias) => Some(alias),
            Self::Node => None,
        }
    }

    fn into_pod(self) -> Option<Arc<Alias>> {
        match self {
            Self::Pod(alias) => Some(alias),
            Self::Node => None,
        }
    }
}

/// The links of a node by the index of their agent end.
#[derive(Clone, Debug)]
pub struct LinkTable {
    requests: Handle,
    links: KnownLinks,
    /// Receives events. Ends with the table.
    events: Arc<AbortOnDropHandle<()>>,
}

impl LinkTable {
    /// Reads all links and follows their changes. The sockets are those of [`AgentSockets`](crate::sockets::AgentSockets).
    /// Must be called in a tokio runtime, which receives the events.
    ///
    /// # Errors
    /// If a socket cannot be used, or the kernel does not return the links.
    pub async fn open(events: OwnedFd, requests: OwnedFd) -> Result<(Self, UnboundedReceiver<LinkChange>)> {
        let requests = start_requests(requests).await?;
        let (changes_tx, changes_rx) = unbounded_channel();
        let links = KnownLinks::new(changes_tx);
        links.apply_list(&read_all(&requests).await.context("cannot read the links of the node")?);
        let events = sys::adopt_netlink(events).context("cannot use the socket for changes of links")?;
        let (connection, handle, messages) = rtnetlink::from_socket(events);
        let following = follow(messages, links.clone());
        let events = tokio::spawn(async move {
            // The connection ends without its handle.
            let _handle = handle;
            tokio::select! {
                () = connection => {}
                () = following => {}
            }
        });
        Ok((Self { requests, links, events: Arc::new(AbortOnDropHandle::new(events)) }, changes_rx))
    }

    /// Reads all links again. An event can be lost if the kernel has no memory for it.
    ///
    /// # Errors
    /// If the kernel does not return the links, or events are no longer received. The sockets must then be replaced.
    pub async fn refresh(&self) -> Result<()> {
        ensure!(!self.events.is_finished(), "changes of links are no longer received");
        self.links.start_list();
        self.links.apply_list(&read_all(&self.requests).await?);
        Ok(())
    }

    /// Returns the owner of a link, or `None` if the interface is no link. An interface that is not in the table is read
    /// from the kernel, unless an event adds it first: the kernel may respond only after seconds. Only events add it to the
    /// table, in order with its removal.
    ///
    /// # Errors
    /// If the kernel does not respond.
    pub async fn find(&self, interface: u32) -> Result<Option<LinkOwner>> {
        if let Some(owner) = self.links.get(interface) {
            return Ok(Some(owner));
        }
        // A task of its own takes the response if an event ends the wait: the library logs a response that nobody takes.
        let read = tokio::spawn(read(self.requests.clone(), interface));
        tokio::select! {
            owner = self.links.wait_for(interface) => Ok(Some(owner)),
            result = read => Ok(result??),
        }
    }
}

/// Applies events until the socket closes.
async fn follow(
    mut messages: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin,
    links: KnownLinks,
) {
    while let Some((message, sender)) = messages.next().await {
        if sender.port_number() != 0 {
            continue; // not from the kernel
        }
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.apply_new(&link),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => links.apply_removed(link.header.index),
            _ => {}
        }
    }
}

/// Reads all interfaces from the kernel.
async fn read_all(requests: &Handle) -> std::result::Result<Vec<LinkMessage>, Error> {
    requests.link().get().execute().try_collect().await
}

/// Reads the owner of an interface from the kernel.
async fn read(requests: Handle, interface: u32) -> std::result::Result<Option<LinkOwner>, Error> {
    match requests.link().get().match_index(interface).execute().try_next().await {
        Ok(link) => Ok(link.and_then(|link| parse_alias(&link))),
        Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts the thread that sends requests. A request blocks the thread while it waits for the RTNL lock, for seconds if many
/// pods start and end. The thread ends when the returned handle is dropped.
async fn start_requests(socket: OwnedFd) -> Result<Handle> {
    let (started_tx, started_rx) = oneshot::channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started_tx.send(Err(error))),
        };
        runtime.block_on(async move {
            match sys::adopt_netlink(socket) {
                Ok(socket) => {
                    let (connection, handle, _) = rtnetlink::from_socket(socket);
                    drop(started_tx.send(Ok(handle)));
                    connection.await;
                }
                Err(error) => drop(started_tx.send(Err(error))),
            }
        });
    };
    let thread = std::thread::Builder::new().name("link requests".to_owned()).spawn(run);
    thread.context("cannot start the thread of link requests")?;
    started_rx.await?.context("cannot use the socket for requests")
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
        // Nothing drives this connection, so no request is sent.
        let (_unsent, requests, _) = rtnetlink::new_connection().unwrap();
        let links = KnownLinks::new(unbounded_channel().0);
        let events = Arc::new(AbortOnDropHandle::new(tokio::spawn(std::future::pending())));
        let table = LinkTable { requests, links: links.clone(), events };
        let link = |index: u32, pod: &str| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes.push(LinkAttribute::IfAlias(format!("podmeta/1 uid={pod} sandbox=s")));
            link
        };
        let found = tokio::spawn(async move { table.find(7).await });
        tokio::task::yield_now().await;
        links.apply_new(&link(6, "other"));
        tokio::task::yield_now().await;
        assert!(!found.is_finished());
        links.apply_new(&link(7, "own"));
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.expect("the wait does not end");
        let owner = found.unwrap().unwrap().unwrap();
        assert_eq!(owner.pod().unwrap().pod.as_str(), "own");
    }

    #[tokio::test]
    async fn table_that_receives_no_events_cannot_be_refreshed() {
        let (_unsent, requests, _) = rtnetlink::new_connection().unwrap();
        let ended = tokio::spawn(std::future::ready(()));
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
        let events = Arc::new(AbortOnDropHandle::new(ended));
        let table = LinkTable { requests, links: KnownLinks::new(unbounded_channel().0), events };
        let error = table.refresh().await.unwrap_err();
        assert_eq!(error.to_string(), "changes of links are no longer received");
    }
}
