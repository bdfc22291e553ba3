//! Makes and removes a link. The alias and the agent end come first, the pod end comes up last. So the kernel
//! knows the pod of each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Error, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::found::peer_index;
use super::{AGENT_MAC, POD_INTERFACE, POD_MAC};
use crate::agent_ns::has_ipv6;
use crate::alias::Alias;
use crate::netns::Netns;
use crate::range::{LinkRange, ipv6_of};
use crate::route_socket::{RouteSocket, errno, is_exists, unless_exists};
use crate::service;

/// Metric of the IPv6 routes to the service addresses. Router advertisements add routes with metric 256 or more, so none of
/// those takes precedence. A pod with NET_RAW can send router advertisements to other pods.
pub(super) const IPV6_SERVICE_METRIC: u32 = 1;

/// Sockets in the two namespaces of a link.
pub(super) struct LinkSockets {
    pub(super) agent: RouteSocket,
    pub(super) pod: RouteSocket,
}

impl LinkSockets {
    /// Opens a socket in each namespace. Must be called in a tokio runtime.
    pub(super) fn open(agent: &Netns, pod: &Netns) -> Result<Self> {
        Ok(Self {
            agent: RouteSocket::open(agent).context("cannot open a netlink socket in the agent namespace")?,
            pod: RouteSocket::open(pod).context("cannot open a netlink socket in the pod's namespace")?,
        })
    }
}

/// The addresses of a pod end.
#[derive(Clone, Copy)]
struct LinkAddresses {
    ipv4: Ipv4Addr,
    /// `None` if one of the two namespaces has no IPv6.
    ipv6: Option<Ipv6Addr>,
}

/// Makes a link. Neither end may exist.
pub(super) async fn make(
    sockets: &LinkSockets,
    pod: &Netns,
    alias: &Alias,
    peer: &str,
    range: LinkRange,
) -> Result<()> {
    create_pair(&sockets.agent, pod, peer).await.context("cannot create the link")?;
    let agent_end = index(&sockets.agent, peer).await?;
    set_alias(&sockets.agent, agent_end, alias).await.context("cannot set the alias of the link")?;
    if let Err(error) = check_pair(sockets, agent_end, peer).await {
        remove(&sockets.agent, agent_end).await?;
        return Err(error);
    }
    let ipv6 = has_ipv6(pod)? && sockets_have_ipv6(&sockets.agent).await?;
    let addresses = set_up_agent_end(&sockets.agent, agent_end, range, ipv6).await?;
    let pod_end = index(&sockets.pod, POD_INTERFACE).await?;
    set_up_pod_end(&sockets.pod, pod_end, addresses).await.context("cannot set up the pod's end of the link")
}

/// Removes a link. Succeeds if it does not exist.
pub(super) async fn remove(socket: &RouteSocket, interface: u32) -> Result<()> {
    match socket.link().del(interface).execute().await {
        Err(error) if errno(&error) != Some(nix::libc::ENODEV) => {
            Err(error).context("cannot remove what is left of the link")
        }
        _ => Ok(()),
    }
}

/// Creates both ends where they belong, with fixed MAC addresses.
async fn create_pair(agent: &RouteSocket, pod: &Netns, peer: &str) -> Result<(), Error> {
    let pod_end = LinkUnspec::new_with_name(POD_INTERFACE).setns_by_fd(pod.raw_fd()).address(POD_MAC.to_vec()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(peer)
        .address(AGENT_MAC.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(pod_end)))
        .build();
    agent.link().add(pair).execute().await
}

async fn index(socket: &RouteSocket, name: &str) -> Result<u32> {
    match socket.find_link(name).await? {
        Some(link) => Ok(link.header.index),
        None => bail!("the interface {name} disappeared"),
    }
}

/// Sets the alias of the agent end. The kernel ignores an alias at creation.
async fn set_alias(agent: &RouteSocket, interface: u32, alias: &Alias) -> Result<(), Error> {
    let alias = LinkAttribute::IfAlias(alias.to_string());
    agent.link().set(LinkUnspec::new_with_index(interface).append_extra_attribute(alias).build()).execute().await
}

/// Checks that both ends are those of one pair. A pod with NET_ADMIN can replace the agent end by an interface of its own
/// between creation and alias. The pod end disappears with the replaced end.
///
/// # Errors
/// If the ends do not belong together.
async fn check_pair(sockets: &LinkSockets, agent_end: u32, peer: &str) -> Result<()> {
    let pod = sockets.pod.find_link(POD_INTERFACE).await?;
    let agent = sockets.agent.find_link(peer).await?;
    match (pod, agent) {
        (Some(pod), Some(agent)) if agent.header.index == agent_end && is_pair(&pod, &agent) => Ok(()),
        _ => bail!("another program replaced an end of the link while it was made"),
    }
}

/// Returns true if the two interfaces are the ends of one pair.
fn is_pair(pod: &LinkMessage, agent: &LinkMessage) -> bool {
    peer_index(pod) == Some(agent.header.index) && peer_index(agent) == Some(pod.header.index)
}

/// Returns true if the agent namespace has an IPv6 service address.
async fn sockets_have_ipv6(agent: &RouteSocket) -> Result<bool> {
    use futures_util::TryStreamExt as _;
    let ipv6 = service::ipv6().first().copied();
    let Some(ipv6) = ipv6 else { return Ok(false) };
    let found = agent.address().get().set_address_filter(IpAddr::V6(ipv6)).execute().try_collect::<Vec<_>>().await?;
    Ok(!found.is_empty())
}

/// Sets the agent end up. The route to the pod's address reserves that address. Without it no packet of the link passes.
async fn set_up_agent_end(agent: &RouteSocket, interface: u32, range: LinkRange, ipv6: bool) -> Result<LinkAddresses> {
    if ipv6 {
        agent.disable_link_local(interface).await.context("cannot turn off the link-local address")?;
    }
    agent.set_up(interface).await.context("cannot set the agent's end of the link up")?;
    let ipv4 = reserve_address(agent, interface, range).await?;
    let addresses = LinkAddresses { ipv4, ipv6: ipv6.then(|| ipv6_of(ipv4)) };
    if let Some(ipv6) = addresses.ipv6 {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ipv6, 128).output_interface(interface);
        agent.route().add(route.build()).execute().await.context("cannot add the IPv6 route to the pod")?;
    }
    for address in [Some(IpAddr::V4(ipv4)), addresses.ipv6.map(IpAddr::V6)].into_iter().flatten() {
        add_neighbour(agent, interface, address, &POD_MAC).await.context("cannot add the pod's MAC address")?;
    }
    Ok(addresses)
}

/// Adds the route to the first address of the range that no other link has. The kernel accepts each route once.
async fn reserve_address(agent: &RouteSocket, interface: u32, range: LinkRange) -> Result<Ipv4Addr> {
    for address in range.candidates(interface) {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(interface)
            .scope(RouteScope::Link);
        match agent.route().add(route.build()).execute().await {
            Ok(()) => return Ok(address),
            Err(error) if is_exists(&error) => {}
            Err(error) => return Err(error).context("cannot add the route to the pod"),
        }
    }
    bail!("all addresses of the link range {range} are in use: set a larger range")
}

/// Sets the pod end up. The addresses have global scope, because masquerading in the pod skips others.
async fn set_up_pod_end(pod: &RouteSocket, interface: u32, addresses: LinkAddresses) -> Result<(), Error> {
    pod.address().add(interface, addresses.ipv4.into(), 32).execute().await?;
    if let Some(ipv6) = addresses.ipv6 {
        pod.disable_link_local(interface).await?;
        let mut request = pod.address().add(interface, ipv6.into(), 128);
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await?;
    }
    for address in service::addresses() {
        if address.is_ipv4() || addresses.ipv6.is_some() {
            add_neighbour(pod, interface, address, &AGENT_MAC).await?;
        }
    }
    pod.set_up(interface).await?;
    for service in service::ipv4() {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(service, 32)
            .output_interface(interface)
            .pref_source(addresses.ipv4)
            .scope(RouteScope::Link);
        unless_exists(pod.route().add(route.build()).execute().await)?;
    }
    let Some(source) = addresses.ipv6 else { return Ok(()) };
    for service in service::ipv6() {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(service, 128)
            .output_interface(interface)
            .priority(IPV6_SERVICE_METRIC)
            .pref_source(source);
        unless_exists(pod.route().add(route.build()).execute().await)?;
    }
    Ok(())
}

async fn add_neighbour(socket: &RouteSocket, interface: u32, address: IpAddr, mac: &[u8; 6]) -> Result<(), Error> {
    let request = socket.neighbours().add(interface, address).state(NeighbourState::Permanent);
    request.link_layer_address(mac).replace().execute().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an interface whose other end has the index `peer`.
    fn interface(index: u32, peer: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Link(peer));
        message
    }

    #[test]
    fn ends_are_a_pair_only_if_each_one_names_the_other() {
        assert!(is_pair(&interface(3, 7), &interface(7, 3)));
        assert!(!is_pair(&interface(3, 7), &interface(8, 3)), "the agent end was replaced");
        assert!(!is_pair(&interface(3, 7), &interface(7, 4)), "the pod end was replaced");
        assert!(!is_pair(&LinkMessage::default(), &interface(7, 0)), "the pod end has no other end");
    }
}
