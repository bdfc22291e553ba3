//! The server of the debug socket. Its connections are evaluated like those of a pod's link, but they have no socket owner:
//! a pod that restricts users gets 403.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_link::private_socket;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::IpFamily;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::debug::parse_dialect;
use crate::edge::{Arrival, EdgeServer};
use podmeta_service::listener::Acceptor;

/// Longest first line in bytes: namespace, name and dialect.
const MAX_LINE_BYTES: usize = 600;

/// Timeout of the first line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of open connections.
const MAX_CONNECTIONS: usize = 64;

/// The UID for a name that is not found. No pod has it.
const UNKNOWN_POD_UID: &str = "unknown-pod";

/// Binds the socket. Only root on the node can use it. Replaces the socket of an earlier agent.
///
/// # Errors
/// If the socket cannot be created.
pub fn bind(path: &Path) -> Result<UnixListener> {
    private_socket::bind(path).with_context(|| format!("cannot create socket {} (--debug-socket)", path.display()))
}

/// Serves the socket in tasks of `acceptor` until `stop` is cancelled. `find_pod` returns the UID of the pod
/// `NAMESPACE/NAME`.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve(
    listener: UnixListener,
    acceptor: &Acceptor,
    stop: CancellationToken,
    server: EdgeServer,
    find_pod: impl Fn(&str) -> Option<PodUid> + Clone + Send + 'static,
) -> io::Result<()> {
    let handle = move |stream| serve_connection(stream, server.clone(), find_pod.clone());
    acceptor.spawn(listener, Some(MAX_CONNECTIONS), stop, handle).map(drop)
}

async fn serve_connection(
    mut stream: UnixStream,
    server: EdgeServer,
    find_pod: impl Fn(&str) -> Option<PodUid> + Send,
) {
    let line = tokio::time::timeout(LINE_TIMEOUT, read_line(&mut stream)).await;
    let Ok(Ok(line)) = line else { return };
    match parse_arrival(&line, find_pod) {
        Ok(arrival) => server.serve(stream, Box::new(arrival)).await,
        Err(error) => {
            tracing::warn!(
                first_line = line,
                error = format!("{error:#}"),
                "closing debug connection: invalid first line"
            );
        }
    }
}

/// Reads a line byte by byte, so that the request that follows stays in the socket.
async fn read_line(stream: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line)?),
            byte => line.push(byte),
        }
        ensure!(line.len() <= MAX_LINE_BYTES, "the first line is too long");
    }
}

fn parse_arrival(line: &str, find_pod: impl Fn(&str) -> Option<PodUid>) -> Result<Arrival> {
    let (pod, dialect) = line.split_once(' ').context("expected NAMESPACE/NAME DIALECT, such as shop/web ec2")?;
    let dialect = parse_dialect(dialect)?;
    let pod = match find_pod(pod) {
        Some(uid) => uid,
        // A UID, or a name that is not found. Requests for such a name get the response for an unknown pod.
        None => PodUid::try_from(pod)
            .or_else(|_| PodUid::try_from(UNKNOWN_POD_UID))
            .map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let service = dialect.service_address(Ipv4Addr::UNSPECIFIED.into());
    Ok(Arrival { pod, service, family: IpFamily::Ipv4, host_rule: &HostRule::POD_LINK, owner: None })
}
