//! Waits until the agent end of a new link can send.
//!
//! The agent end comes up first, without a carrier. When the pod end comes up, the kernel activates the agent end in its
//! linkwatch task, which waits for the RTNL lock: for seconds on a node that starts and ends many pods. Meanwhile the
//! agent end drops what it should send. Newer kernels activate an interface before they respond to a request for
//! it. Source: `rtnl_getlink` in net/core/rtnetlink.c and net/core/link_watch.c.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, State};
use tokio::time::{Instant, sleep};

use crate::route_socket::RouteSocket;

/// Timeout of the activation. With `onFailure: fail` the runtime then retries the sandbox.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Pause between two requests for the state of the interface.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until the kernel has activated an interface.
///
/// # Errors
/// If the interface disappears, or is not active within [`MAX_WAIT`].
pub(super) async fn wait_until_active(socket: &RouteSocket, name: &str) -> Result<()> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        let link = socket.find_link(name).await.context("cannot read the state of the agent's end of the link")?;
        match link {
            Some(link) if is_active(&link) => return Ok(()),
            Some(_) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            Some(_) => bail!("the kernel has not activated the agent's end of the link for {} s", MAX_WAIT.as_secs()),
            None => bail!("the interface {name} disappeared"),
        }
    }
}

/// Returns true if the operational state is up.
fn is_active(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}
