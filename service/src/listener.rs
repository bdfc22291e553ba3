//! The accept loop that all listeners of both programs share: backlog, connection limit, error backoff and graceful
//! shutdown. A listener may be bound elsewhere or passed in as a file descriptor.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::log_throttle::LogThrottle;

/// Connections that the kernel queues until they are accepted. All pods of a node share the queue of the agent's listener,
/// and may connect at the same time: with 4,096, the bursts that the links of three pods allow fill it before the agent
/// accepts one. The kernel reduces it to `net.core.somaxconn` of the network namespace. The client of a connection over the
/// backlog retries after one second.
const BACKLOG: i32 = 32768;

/// Size of the send buffer and of the receive buffer of a TCP connection. Linux doubles it for its own overhead. Without
/// a limit the kernel keeps up to 4 MiB for a client that does not read. The longest response is about 16 KiB.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024;

/// Time after which the kernel drops sent bytes that the client has not acknowledged, also of a closed connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);

/// First delay after an accept error. Without a free file descriptor, accept fails again immediately.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Longest delay after repeated accept errors.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A socket that accepts connections.
pub trait Listener: Send + Sync + 'static {
    /// An accepted connection.
    type Connection: Send + 'static;

    /// Sets how many connections the kernel queues until they are accepted, and limits the kernel's memory of each.
    ///
    /// # Errors
    /// If the kernel rejects a value.
    fn configure(&self, backlog: i32) -> io::Result<()>;

    /// Accepts the next connection. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// An accepted TCP connection.
#[derive(Debug)]
pub struct TcpConnection {
    /// The stream, with `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// The address of the client.
    pub remote: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
}

impl Listener for TcpListener {
    type Connection = TcpConnection;

    /// Accepted sockets inherit the options.
    fn configure(&self, backlog: i32) -> io::Result<()> {
        let socket = socket2::SockRef::from(self);
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
        socket.set_tcp_nodelay(true)?;
        socket.listen(backlog)
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        let (stream, remote) = self.accept().await?;
        // These fail only if the connection has already ended.
        let aborted = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
        let local = stream.local_addr().map_err(aborted)?;
        #[cfg(not(target_os = "linux"))] // on Linux it is inherited
        stream.set_nodelay(true).map_err(aborted)?;
        Ok(TcpConnection { stream, remote, local })
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Connection = UnixStream;

    fn configure(&self, backlog: i32) -> io::Result<()> {
        socket2::SockRef::from(self).listen(backlog)
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes over a listener that was created elsewhere, for example in another network namespace.
///
/// # Errors
/// If the socket cannot be made non-blocking or registered with the runtime.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Starts accept loops and tracks the connections of all of them.
#[derive(Clone, Debug, Default)]
pub struct Acceptor {
    tasks: TaskTracker,
}

impl Acceptor {
    /// Accepts connections until `stop` is cancelled, and runs `handle` for each one in its own task. The loop closes a new
    /// connection immediately while `max_connections` of this listener are open; `None` leaves the limit to `handle`.
    ///
    /// # Errors
    /// If the options of the listener cannot be set.
    pub fn spawn<L, H, F>(
        &self,
        listener: L,
        max_connections: Option<usize>,
        stop: CancellationToken,
        handle: H,
    ) -> io::Result<JoinHandle<()>>
    where
        L: Listener,
        H: Fn(L::Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        listener.configure(BACKLOG)?;
        let permits = max_connections.map(|max| Arc::new(Semaphore::new(max)));
        let connections = self.tasks.clone();
        Ok(self.tasks.spawn(async move {
            let (mut retry_delay, mut throttle) = (MIN_RETRY_DELAY, LogThrottle::default());
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let connection = match accepted {
                    Ok(connection) => connection,
                    Err(error) if is_error_of_connection(&error) => continue,
                    Err(error) => {
                        tracing::warn!(%error, ?retry_delay, "cannot accept a connection; retrying. Raise the limit of open files if this persists");
                        let _stopped = stop.run_until_cancelled(sleep(retry_delay)).await;
                        retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
                        continue;
                    }
                };
                retry_delay = MIN_RETRY_DELAY;
                match permits.clone().map(Semaphore::try_acquire_owned) {
                    // Without a wrapper, because each one adds to the memory of a connection.
                    None => drop(connections.spawn(handle(connection))),
                    Some(Ok(permit)) => {
                        let handled = handle(connection);
                        connections.spawn(async move {
                            handled.await;
                            drop(permit);
                        });
                    }
                    Some(Err(_)) => {
                        if throttle.should_log(Instant::now()) {
                            tracing::warn!(?max_connections, "closing connection: the listener is at its connection limit");
                        }
                    }
                }
            }
        }))
    }

    /// Waits until all loops and connections have ended. All loops must have been stopped.
    ///
    /// # Errors
    /// If it takes longer than `limit`.
    pub async fn drain(&self, limit: Duration) -> Result<(), tokio::time::error::Elapsed> {
        self.tasks.close();
        timeout(limit, self.tasks.wait()).await
    }
}

/// Returns true if the error belongs to one connection, so that the next accept may succeed immediately.
fn is_error_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
