//! The properties of a pod's primary interface that the alias of its link contains. They are read from the kernel, because
//! not every container runtime reports the CNI result.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::MacAddress;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::LinkAttribute;

use crate::alias::{Alias, SandboxId};
use crate::netns::Netns;
use crate::route_socket::RouteSocket;

/// Name of a pod's primary interface. Container runtimes of Kubernetes use no other name.
pub const PRIMARY_INTERFACE: &str = "eth0";

/// Returns the alias of a pod's link, with MAC and addresses of the pod's primary interface.
///
/// # Errors
/// If the pod has no such interface, or its namespace cannot be read.
pub async fn alias(netns: &Netns, interface: &str, pod: &PodUid, sandbox: &SandboxId) -> Result<Alias> {
    let socket = RouteSocket::open(netns).context("cannot open a netlink socket in the pod's namespace")?;
    let link = socket.find_link(interface).await.context("cannot read the pod's interfaces")?;
    let link = link.with_context(|| format!("the pod has no interface {interface}"))?;
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(MacAddress),
        _ => None,
    });
    let addresses = socket.address().get().set_link_index_filter(link.header.index).execute();
    let addresses = addresses.try_collect::<Vec<_>>().await.context("cannot read the pod's addresses")?;
    let global = addresses.iter().filter(|message| message.header.scope == AddressScope::Universe);
    let global = global.flat_map(|message| &message.attributes).filter_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let global = global.collect::<Vec<_>>();
    Ok(Alias {
        pod: pod.clone(),
        sandbox: sandbox.clone(),
        mac,
        ipv4: global.iter().find_map(|address| if let IpAddr::V4(address) = address { Some(*address) } else { None }),
        ipv6: global.iter().find_map(|address| if let IpAddr::V6(address) = address { Some(*address) } else { None }),
    })
}
