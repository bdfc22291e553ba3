//! Client of the link daemon's socket.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::netns::NetnsId;
use crate::protocol::{Call, CallResponse, LinkNodeStatus};
use crate::sockets::AgentSockets;
use crate::sys::{receive_line, send_line};

/// Timeout of reading a response. The daemon calls the container runtime first.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives new sockets of the agent namespace, and its identity. Blocks.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub fn receive_sockets(socket: &Path) -> Result<(NetnsId, AgentSockets)> {
    match call(socket, Call::Sockets)? {
        (CallResponse::Sockets { namespace }, fds) => {
            let [listener, events, requests] = <[OwnedFd; 3]>::try_from(fds).map_err(|fds| {
                anyhow!(
                    "the link daemon passed {} sockets instead of 3: its version differs from that of the agent",
                    fds.len()
                )
            })?;
            Ok((namespace, AgentSockets { listener: TcpListener::from(listener), events, requests }))
        }
        (other, _) => unexpected(&other),
    }
}

/// Returns the state of the node. Blocks.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub fn node_status(socket: &Path) -> Result<LinkNodeStatus> {
    match call(socket, Call::Status)?.0 {
        CallResponse::Status(status) => Ok(status),
        other => unexpected(&other),
    }
}

fn unexpected<T>(response: &CallResponse) -> Result<T> {
    match response {
        CallResponse::Failed(message) => bail!("the link daemon rejected the call: {message}"),
        other => bail!("the link daemon sent an unexpected response: {other:?}"),
    }
}

fn call(socket: &Path, call: Call) -> Result<(CallResponse, Vec<OwnedFd>)> {
    let stream = UnixStream::connect(socket);
    let stream = stream.with_context(|| format!("cannot connect to the link daemon at {}", socket.display()))?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.set_write_timeout(Some(RESPONSE_TIMEOUT))?;
    call_on(&stream, call)
}

fn call_on(stream: &UnixStream, call: Call) -> Result<(CallResponse, Vec<OwnedFd>)> {
    let sent = send_line(stream, &serde_json::to_string(&call)?, &[]);
    // The daemon rejects a process without reading its call. The response is there even if the call could not be sent.
    let received = receive_line(stream).context("the link daemon did not respond");
    let (line, fds) = received.or_else(|error| sent.context("cannot call the link daemon").and(Err(error)))?;
    Ok((serde_json::from_str(&line).context("cannot parse the response of the link daemon")?, fds))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn rejection_by_a_daemon_that_does_not_read_the_call_is_returned() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (daemon, _) = listener.accept().unwrap();
        let rejection = serde_json::to_string(&CallResponse::Failed("not a node agent".to_owned())).unwrap();
        send_line(&daemon, &rejection, &[]).unwrap();
        drop(daemon);
        let (response, _) = call_on(&client, Call::Status).unwrap();
        assert!(matches!(response, CallResponse::Failed(error) if error == "not a node agent"));
    }
}
