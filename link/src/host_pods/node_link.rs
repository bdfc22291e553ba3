//! The link of the node: a veth pair between the host's namespace and the agent namespace.

mod addressing;

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Error, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::addresses::{NODE_IPV4, node_ipv6, substitutes};
use crate::agent_ns::has_ipv6;
use crate::alias::NODE_ALIAS;
use crate::netns::Netns;
use crate::pod_link::{alias_of, peer_index};
use crate::route_socket::{RouteSocket, errno};
use addressing::{HostRoute, Preference, add_address, add_agent_route, add_host_route, add_neighbour, host_route};

/// Name of the link's end on the host.
pub(super) const HOST_INTERFACE: &str = "podmeta0";

/// Name of the link's end in the agent namespace. Ends of pods' links start with `m`.
const AGENT_INTERFACE: &str = "node";

/// MAC addresses of the two ends. Locally administered.
const AGENT_MAC: [u8; 6] = [0x02, 0x1d, 0x01, 0, 0, 1];
const HOST_MAC: [u8; 6] = [0x02, 0x1d, 0x02, 0, 0, 1];

/// Sockets in the two namespaces.
struct Ends {
    host: RouteSocket,
    agent: RouteSocket,
    /// True if both namespaces have IPv6.
    has_ipv6: bool,
}

impl Ends {
    fn open(host: &Netns, agent: &Netns) -> Result<Self> {
        Ok(Self {
            host: RouteSocket::open(host).context("cannot open a netlink socket in the host's namespace")?,
            agent: RouteSocket::open(agent).context("cannot open a netlink socket in the agent namespace")?,
            has_ipv6: has_ipv6(host)? && has_ipv6(agent)?,
        })
    }

    /// Returns the substitutes of the service addresses on the link.
    fn services(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = substitutes().into_iter().map(|(_, substitute)| substitute);
        addresses.filter(|address| address.is_ipv4() || self.has_ipv6)
    }

    /// Returns the addresses of the node on the link.
    fn of_node(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(NODE_IPV4.into()).chain(self.has_ipv6.then(|| node_ipv6().into()))
    }
}

/// Adds the routes that prohibit the substitutes of the service addresses. While the link is missing, no packet to them leaves the
/// node by another route. Idempotent.
///
/// # Errors
/// If the kernel rejects a route. The message names its address.
pub(super) async fn prohibit(host: &Netns) -> Result<()> {
    let socket = RouteSocket::open(host).context("cannot open a netlink socket in the host's namespace")?;
    // IPv6 in the agent namespace does not matter: without it, the programs still redirect connections to IPv6 addresses.
    let has_ipv6 = has_ipv6(host)?;
    for (_, address) in substitutes().into_iter().filter(|(_, address)| address.is_ipv4() || has_ipv6) {
        let added = add_host_route(&socket, address, HostRoute::Prohibit).await;
        added.with_context(|| format!("cannot add the route that prohibits {address}"))?;
    }
    Ok(())
}

/// Makes the link unless it is complete, and adds missing addresses and routes. Returns true if the link was made. Idempotent.
///
/// # Errors
/// If an interface of another program has the name of the link, or the kernel rejects a step. The message names either.
pub(super) async fn ensure(host: &Netns, agent: &Netns) -> Result<bool> {
    let ends = Ends::open(host, agent)?;
    let found = (find(&ends.host, HOST_INTERFACE).await?, find(&ends.agent, AGENT_INTERFACE).await?);
    let (host_end, agent_end, is_made) = match &found {
        (Some(host), Some(agent)) if is_complete(host, agent) => (host.header.index, agent.header.index, false),
        (host_end, agent_end) => {
            let foreign = host_end.as_ref().is_some_and(|link| !is_ours(link));
            ensure!(
                !foreign,
                "the interface {HOST_INTERFACE} of the node is not podmeta's; rename or delete it: pods on the host network need \
                 this name for their link"
            );
            for (socket, end) in [(&ends.host, host_end), (&ends.agent, agent_end)] {
                if let Some(link) = end {
                    remove_link(socket, link.header.index).await?;
                }
            }
            let (host_end, agent_end) = make(&ends, host).await?;
            (host_end, agent_end, true)
        }
    };
    set_up_agent_end(&ends, agent_end).await.context("cannot set up the agent's end of the node's link")?;
    set_up_host_end(&ends, host_end).await.context("cannot set up the host's end of the node's link")?;
    Ok(is_made)
}

/// Removes the link and its routes. Succeeds if there are none. An interface of another program stays.
pub(super) async fn remove(host: &Netns) -> Result<()> {
    let socket = RouteSocket::open(host).context("cannot open a netlink socket in the host's namespace")?;
    if let Some(link) = find(&socket, HOST_INTERFACE).await?.filter(is_ours) {
        remove_link(&socket, link.header.index).await?;
    }
    for (_, address) in substitutes() {
        match socket.route().del(host_route(address, HostRoute::Prohibit)).execute().await {
            // ESRCH: the route does not exist. The other two: the kernel has no IPv6.
            Err(error) if !matches!(errno(&error), Some(libc::ESRCH | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                return Err(error).with_context(|| format!("cannot remove the route that prohibits {address}"));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn find(socket: &RouteSocket, name: &str) -> Result<Option<LinkMessage>> {
    socket.find_link(name).await.with_context(|| format!("cannot read the interface {name}"))
}

/// Returns true if podmeta made an interface of the host: it is a veth with the MAC address of the link's end.
fn is_ours(link: &LinkMessage) -> bool {
    let (mut is_veth, mut has_mac) = (false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            LinkAttribute::Address(mac) => has_mac = *mac == HOST_MAC,
            _ => {}
        }
    }
    is_veth && has_mac
}

/// Returns true if the interfaces are the two ends of one pair, and the agent's end has its alias.
fn is_complete(host: &LinkMessage, agent: &LinkMessage) -> bool {
    is_pair(host, agent) && alias_of(agent).as_deref() == Some(NODE_ALIAS)
}

/// Returns true if the two interfaces are the ends of one pair.
fn is_pair(host: &LinkMessage, agent: &LinkMessage) -> bool {
    peer_index(host) == Some(agent.header.index) && peer_index(agent) == Some(host.header.index)
}

/// Makes the pair and returns the indexes of the host's and the agent's end.
async fn make(ends: &Ends, host: &Netns) -> Result<(u32, u32)> {
    let host_end = LinkUnspec::new_with_name(HOST_INTERFACE).setns_by_fd(host.raw_fd()).address(HOST_MAC.to_vec());
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(AGENT_INTERFACE)
        .address(AGENT_MAC.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(host_end.build())))
        .build();
    ends.agent.link().add(pair).execute().await.context("cannot create the node's link")?;
    let found = (find(&ends.host, HOST_INTERFACE).await?, find(&ends.agent, AGENT_INTERFACE).await?);
    let (Some(host_end), Some(agent_end)) = found else {
        bail!("an end of the node's link disappeared");
    };
    let agent_index = agent_end.header.index;
    let alias = LinkUnspec::new_with_index(agent_index)
        .append_extra_attribute(LinkAttribute::IfAlias(NODE_ALIAS.to_owned()))
        .build();
    ends.agent.link().set(alias).execute().await.context("cannot set the alias of the node's link")?;
    // A pod with NET_ADMIN can replace the agent's end by an interface of its own between creation and alias.
    let named = find(&ends.agent, AGENT_INTERFACE).await?;
    if !named.is_some_and(|agent| agent.header.index == agent_index && is_complete(&host_end, &agent)) {
        remove_link(&ends.agent, agent_index).await?;
        bail!("another program replaced an end of the node's link while it was made");
    }
    Ok((host_end.header.index, agent_index))
}

async fn remove_link(socket: &RouteSocket, interface: u32) -> Result<()> {
    match socket.link().del(interface).execute().await {
        Err(error) if errno(&error) != Some(libc::ENODEV) => {
            Err(error).context("cannot remove what is left of the node's link")
        }
        _ => Ok(()),
    }
}

async fn set_up_agent_end(ends: &Ends, interface: u32) -> Result<(), Error> {
    let agent = &ends.agent;
    if ends.has_ipv6 {
        agent.disable_link_local(interface).await?;
    }
    for address in ends.services() {
        add_address(agent, interface, address, Preference::Any).await?;
    }
    agent.set_up(interface).await?;
    for address in ends.of_node() {
        add_agent_route(agent, address, interface).await?;
        add_neighbour(agent, interface, address, &HOST_MAC).await?;
    }
    Ok(())
}

async fn set_up_host_end(ends: &Ends, interface: u32) -> Result<(), Error> {
    let host = &ends.host;
    if ends.has_ipv6 {
        host.disable_link_local(interface).await?;
    }
    // The IPv4 address has global scope, because masquerading skips others.
    for address in ends.of_node() {
        add_address(host, interface, address, Preference::OnlyThisLink).await?;
    }
    for address in ends.services() {
        add_neighbour(host, interface, address, &AGENT_MAC).await?;
    }
    host.set_up(interface).await?;
    for address in ends.services() {
        add_host_route(host, address, HostRoute::By(interface)).await?;
    }
    Ok(())
}
