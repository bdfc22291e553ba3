//! A route netlink socket in a namespace, and the requests that podmeta needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Error, Handle, LinkUnspec};
use tokio::task::JoinHandle;

use crate::netns::Netns;

/// A route netlink socket in a namespace. The socket stays in that namespace; the task that drives it does not.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    handle: Handle,
    task: JoinHandle<()>,
}

impl RouteSocket {
    /// Opens a socket in a namespace. Must be called in a tokio runtime.
    pub(crate) fn open(netns: &Netns) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = netns.run(|| {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        })?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// Returns the link with this name, or `None`.
    pub(crate) async fn find_link(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        let links = self.handle.link().get().match_name(name.to_owned()).execute().try_collect::<Vec<_>>().await;
        match links {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a link up.
    pub(crate) async fn set_up(&self, interface: u32) -> Result<(), Error> {
        self.handle.link().set(LinkUnspec::new_with_index(interface).up().build()).execute().await
    }

    /// Turns off the link-local IPv6 address that the kernel gives each interface.
    pub(crate) async fn disable_link_local(&self, interface: u32) -> Result<(), Error> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_index(interface)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        self.handle.link().set(message).execute().await
    }
}

impl Deref for RouteSocket {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for RouteSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the error number of the kernel's response, or `None` for other errors.
pub(crate) fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

/// Returns true if the kernel already has the object.
pub(crate) fn is_exists(error: &Error) -> bool {
    errno(error) == Some(nix::libc::EEXIST)
}

/// Turns the error that the kernel already has the object into success.
pub(crate) fn unless_exists(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if is_exists(&error) => Ok(()),
        result => result,
    }
}

/// Returns the prefix of a route, or `None` for other families.
pub(crate) fn destination(route: &RouteMessage) -> Option<IpNet> {
    let any = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    IpNet::new(address.unwrap_or(any), route.header.destination_prefix_length).ok()
}
