//! Client of the link daemon's socket.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use podmeta_metadata::names::PodUid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::host_pods::identity::{HostClient, HostQuery};
use crate::netns::NetnsId;
use crate::protocol::{Call, CallResponse, LinkNodeStatus, SocketOwner, SocketQuery};
use crate::sockets::AgentSockets;
use crate::sys::{receive_line, send_line};

/// Timeout of reading a response. The daemon calls the container runtime first.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length in bytes of a response about one connection. That of a failure contains its message.
const MAX_OWNER_BYTES: u64 = 16 * 1024;

/// Receives new sockets of the agent namespace, and its identity. Blocks.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub fn receive_sockets(socket: &Path) -> Result<(NetnsId, AgentSockets)> {
    match call(socket, &Call::Sockets)? {
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
    match call(socket, &Call::Status)?.0 {
        CallResponse::Status(status) => Ok(status),
        other => unexpected(&other),
    }
}

/// Sets the pods that the operator leaves to the node's own metadata service. Blocks.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub fn set_node_pods(socket: &Path, pods: BTreeSet<PodUid>) -> Result<()> {
    match call(socket, &Call::NodePods(pods))?.0 {
        CallResponse::Done => Ok(()),
        other => unexpected(&other),
    }
}

/// Returns the owner of the client's socket of a connection. Does not block, and has no timeout of its own.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub async fn socket_owner(socket: &Path, query: SocketQuery) -> Result<SocketOwner> {
    match call_async(socket, &Call::WhoIs(query)).await? {
        CallResponse::Owner(owner) => Ok(owner),
        other => unexpected(&other),
    }
}

/// Returns the pod of a connection that arrived at the node's link. Does not block, and has no timeout of its own.
///
/// # Errors
/// If the daemon does not respond or rejects the call.
pub async fn host_client(socket: &Path, query: HostQuery) -> Result<HostClient> {
    match call_async(socket, &Call::HostPod(query)).await? {
        CallResponse::HostClient(client) => Ok(client),
        other => unexpected(&other),
    }
}

async fn call_async(socket: &Path, call: &Call) -> Result<CallResponse> {
    let stream = tokio::net::UnixStream::connect(socket).await;
    let mut stream = stream.with_context(|| format!("cannot connect to the link daemon at {}", socket.display()))?;
    let call = serde_json::to_string(call)? + "\n";
    let sent = stream.write_all(call.as_bytes()).await;
    let mut line = String::new();
    // The response is there even if the call could not be sent, as in `call_on`.
    let received = BufReader::new(stream.take(MAX_OWNER_BYTES)).read_line(&mut line).await;
    if received.context("the link daemon did not respond")? == 0 {
        sent.context("cannot call the link daemon")?;
        bail!("the link daemon closed the connection without a response");
    }
    serde_json::from_str(&line).context("cannot parse the response of the link daemon")
}

fn unexpected<T>(response: &CallResponse) -> Result<T> {
    match response {
        CallResponse::Failed(message) => bail!("the link daemon rejected the call: {message}"),
        other => bail!("the link daemon sent an unexpected response: {other:?}"),
    }
}

fn call(socket: &Path, call: &Call) -> Result<(CallResponse, Vec<OwnedFd>)> {
    let stream = UnixStream::connect(socket);
    let stream = stream.with_context(|| format!("cannot connect to the link daemon at {}", socket.display()))?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.set_write_timeout(Some(RESPONSE_TIMEOUT))?;
    call_on(&stream, call)
}

fn call_on(stream: &UnixStream, call: &Call) -> Result<(CallResponse, Vec<OwnedFd>)> {
    let sent = send_line(stream, &serde_json::to_string(call)?, &[]);
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
        let (response, _) = call_on(&client, &Call::Status).unwrap();
        assert!(matches!(response, CallResponse::Failed(error) if error == "not a node agent"));
    }

    fn query() -> SocketQuery {
        SocketQuery {
            pod: "uid-1".try_into().unwrap(),
            sandbox: "s1".try_into().unwrap(),
            client: "169.254.240.2:4000".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
        }
    }

    /// Calls a daemon for an owner. The daemon reads the call, sends `response` and closes the connection.
    async fn owner_from(response: &str) -> Result<SocketOwner> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut call = String::new();
            BufReader::new(&mut stream).read_line(&mut call).await.unwrap();
            assert_eq!(serde_json::from_str::<Call>(&call).unwrap(), Call::WhoIs(query()));
            stream.write_all(response.as_bytes()).await.unwrap();
        };
        tokio::join!(socket_owner(&path, query()), daemon).0
    }

    #[tokio::test]
    async fn owner_is_returned() {
        assert_eq!(owner_from("{\"owner\":{\"user\":33}}\n").await.unwrap(), SocketOwner::User(33));
        let nobody = SocketOwner::Nobody("closed".to_owned());
        assert_eq!(owner_from("{\"owner\":{\"nobody\":\"closed\"}}\n").await.unwrap(), nobody);
    }

    #[tokio::test]
    async fn daemon_that_returns_no_owner_is_an_error() {
        for (response, message) in [
            ("{\"failed\":\"not a node agent\"}\n", "rejected the call: not a node agent"),
            ("{\"owner\":{\"user\":-1}}\n", "cannot parse the response"),
            ("{\"owner\":{\"user\":3", "cannot parse the response"),
            ("", "without a response"),
        ] {
            let error = owner_from(response).await.unwrap_err();
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }

    #[tokio::test]
    async fn absent_daemon_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = socket_owner(&directory.path().join("link.sock"), query()).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot connect to the link daemon at "), "{error:#}");
    }
}
