//! The link of one pod: makes it, repairs it, and finds it.

mod activation;
mod found;
mod make;
mod plan;
pub mod primary;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;

use crate::alias::Alias;
use crate::netns::Netns;
use crate::range::LinkRange;
use crate::route_socket::RouteSocket;

pub(crate) use found::{alias as alias_of, peer_index};
pub use plan::Conflict;

/// Name of the link's end in the pod.
pub const POD_INTERFACE: &str = "imds0";

/// MAC address of all agent ends. Locally administered.
const AGENT_MAC: [u8; 6] = [0x02, 0x1d, 0x01, 0, 0, 0];

/// MAC address of all pod ends. Locally administered.
const POD_MAC: [u8; 6] = [0x02, 0x1d, 0x02, 0, 0, 0];

/// Result of [`ensure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOutcome {
    /// The link was complete.
    Kept,
    /// The link was made. An incomplete one was removed first.
    Made,
}

/// Makes the link of a pod, unless it is complete. Idempotent. The pod's end is set up last, so the link has its
/// alias before the pod can send.
///
/// # Errors
/// If the pod uses the host's or the agent namespace, or something else in the pod uses a service address
/// ([`Conflict`]). Also if the kernel rejects a step, which the message names.
pub async fn ensure(agent: &Netns, pod: &Netns, alias: &Alias, range: LinkRange) -> Result<LinkOutcome> {
    if pod.id()? == agent.id()? || pod.id()? == Netns::current()?.id()? {
        bail!("the pod has no network namespace of its own");
    }
    let sockets = make::LinkSockets::open(agent, pod)?;
    let peer = peer_name(alias);
    let found = found::read(&sockets, &peer).await.context("cannot read the links and routes of the pod")?;
    match plan::plan(&found, alias)? {
        plan::Plan::Keep => Ok(LinkOutcome::Kept),
        plan::Plan::Make { remove_pod_end, remove_agent_end } => {
            for (socket, interface) in [(&sockets.pod, remove_pod_end), (&sockets.agent, remove_agent_end)] {
                if let Some(interface) = interface {
                    make::remove(socket, interface).await?;
                }
            }
            make::make(&sockets, pod, alias, &peer, range).await?;
            Ok(LinkOutcome::Made)
        }
    }
}

/// Waits until the agent end of a pod's link can send. A running pod with NET_ADMIN can delay this, so only the plugin waits:
/// its pod does not run yet.
///
/// # Errors
/// If the link does not exist, or the kernel has not activated it within 10 seconds.
pub async fn wait_until_active(agent: &Netns, alias: &Alias) -> Result<()> {
    let socket = RouteSocket::open(agent).context("cannot open a netlink socket in the agent namespace")?;
    activation::wait_until_active(&socket, &peer_name(alias)).await
}

/// Returns the index and alias of all links in the agent namespace. Interfaces with another alias are skipped.
///
/// # Errors
/// If the links cannot be read.
pub async fn list(agent: &Netns) -> Result<Vec<(u32, Alias)>> {
    let socket = RouteSocket::open(agent).context("cannot open a netlink socket in the agent namespace")?;
    let links = socket.link().get().execute().try_collect::<Vec<_>>().await;
    let links = links.context("cannot read the links of the agent namespace")?;
    Ok(links.iter().filter_map(|link| Some((link.header.index, found::alias(link)?.parse().ok()?))).collect())
}

/// Returns true if a pod has a complete link with this alias.
///
/// # Errors
/// If the state of the kernel cannot be read, or if something else in the pod uses a service address.
pub async fn is_complete(agent: &Netns, pod: &Netns, alias: &Alias) -> Result<bool> {
    let sockets = make::LinkSockets::open(agent, pod)?;
    let found =
        found::read(&sockets, &peer_name(alias)).await.context("cannot read the links and routes of the pod")?;
    Ok(plan::plan(&found, alias)? == plan::Plan::Keep)
}

/// Returns the name of a link's agent end: the start of the sandbox ID. An interface name has at most 15 bytes.
fn peer_name(alias: &Alias) -> String {
    let id = alias.sandbox.as_str();
    format!("m{}", id.get(..14).unwrap_or(id))
}
