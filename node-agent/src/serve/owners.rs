//! Finds the owners of clients' sockets with the link daemon.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use podmeta_link::alias::Alias;
use podmeta_link::client::{host_client, socket_owner};
use podmeta_link::host_pods::identity::{HostClient, HostQuery};
use podmeta_link::protocol::{MAX_OWNER_CALLS, OWNER_TIMEOUT, SocketOwner, SocketQuery};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{FindOwner, FindOwnerError, LOOKUP_TIMEOUT};

/// Delay before a daemon that does not listen is called again. It can be restarting.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Time in which calls are retried. It ends before the lookup does, so that the log has the cause.
const CONNECT_RETRY_TIME: Duration = OWNER_TIMEOUT.saturating_sub(Duration::from_millis(100));

/// Maximum number of concurrent calls for pods on the host network. The others are for owners of sockets of all other pods.
const MAX_HOST_CALLS: usize = MAX_OWNER_CALLS - 1;

const _: () =
    assert!(OWNER_TIMEOUT.as_millis() == LOOKUP_TIMEOUT.as_millis(), "the lookup and the call have one timeout");

/// Calls the link daemon for owners.
#[derive(Clone, Debug)]
pub(super) struct OwnerClient {
    /// Socket of the link daemon.
    socket: Arc<PathBuf>,
    permits: Arc<Semaphore>,
    /// Permits of calls for pods on the host network, which need one of `permits` too.
    host_permits: Arc<Semaphore>,
}

impl OwnerClient {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket: Arc::new(socket),
            permits: Arc::new(Semaphore::new(MAX_OWNER_CALLS)),
            host_permits: Arc::new(Semaphore::new(MAX_HOST_CALLS)),
        }
    }

    /// Calls the daemon. Retries while it does not listen.
    async fn call<T, C>(&self, call: impl Fn(Arc<PathBuf>) -> C) -> anyhow::Result<T>
    where
        C: Future<Output = anyhow::Result<T>>,
    {
        let started = Instant::now();
        loop {
            let result = {
                let _permit = self.permits.acquire().await?;
                call(Arc::clone(&self.socket)).await
            };
            match result {
                Err(error) if is_not_listening(&error) && started.elapsed() < CONNECT_RETRY_TIME => {
                    sleep(CONNECT_RETRY_DELAY).await;
                }
                result => return result,
            }
        }
    }

    /// Returns the pod of a connection that arrived at the node's link. `remote` and `local` are its ends as the agent sees them.
    ///
    /// # Errors
    /// If the daemon does not respond within [`OWNER_TIMEOUT`], or rejects the call.
    pub(super) async fn host_client(&self, remote: SocketAddr, local: SocketAddr) -> anyhow::Result<HostClient> {
        let query = HostQuery { client: canonical(remote), service: canonical(local) };
        let call = async {
            let _permit = self.host_permits.acquire().await?;
            self.call(|socket| async move { host_client(&socket, query).await }).await
        };
        timeout(OWNER_TIMEOUT, call).await.context("the link daemon did not respond in time")?
    }

    /// Returns the finder for a connection of a link. `remote` and `local` are its ends as the agent sees them.
    pub(super) fn of_connection(&self, alias: Arc<Alias>, remote: SocketAddr, local: SocketAddr) -> Arc<dyn FindOwner> {
        Arc::new(LinkSocket { client: self.clone(), alias, remote, local })
    }
}

/// The client's socket of a connection of a link.
#[derive(Debug)]
struct LinkSocket {
    client: OwnerClient,
    alias: Arc<Alias>,
    remote: SocketAddr,
    local: SocketAddr,
}

impl FindOwner for LinkSocket {
    fn find_owner(&self) -> BoxFuture<'_, Result<u32, FindOwnerError>> {
        Box::pin(async {
            let query = SocketQuery {
                pod: self.alias.pod.clone(),
                sandbox: self.alias.sandbox.clone(),
                client: canonical(self.remote),
                service: canonical(self.local),
            };
            let call = |socket: Arc<PathBuf>| {
                let query = query.clone();
                async move { socket_owner(&socket, query).await }
            };
            match self.client.call(call).await? {
                SocketOwner::User(user) => Ok(user),
                SocketOwner::Nobody(reason) => Err(FindOwnerError::NotFound(reason)),
            }
        })
    }
}

/// Returns true if a call failed because no process listens on the daemon's socket.
fn is_not_listening(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// Returns an address without a scope, and an IPv4-mapped one as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::UnixListener;
    use tokio::time::advance;

    use super::*;

    #[test]
    fn mapped_address_is_sent_as_ipv4() {
        let mapped = "[::ffff:169.254.240.2]:4000".parse().unwrap();
        assert_eq!(canonical(mapped), "169.254.240.2:4000".parse().unwrap());
        let scoped = "[fe80::1%3]:4000".parse().unwrap();
        assert_eq!(canonical(scoped), "[fe80::1]:4000".parse().unwrap());
    }

    fn finder(socket: PathBuf) -> Arc<dyn FindOwner> {
        finder_of(OwnerClient::new(socket))
    }

    fn finder_of(client: OwnerClient) -> Arc<dyn FindOwner> {
        let (pod, sandbox) = ("uid-1".try_into().unwrap(), "s1".try_into().unwrap());
        let alias = Alias { pod, sandbox, mac: None, ipv4: None, ipv6: None };
        let (remote, local) = ("169.254.240.2:4000".parse().unwrap(), "169.254.169.254:80".parse().unwrap());
        client.of_connection(Arc::new(alias), remote, local)
    }

    /// Serves one call of an owner on a socket.
    async fn serve_call(listener: UnixListener, response: &str) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).await.unwrap();
        stream.write_all(response.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn response_without_an_owner_is_not_a_failed_lookup() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let finder = finder(path);
        let daemon = serve_call(listener, "{\"owner\":{\"nobody\":\"closed\"}}\n");
        let found = tokio::join!(finder.find_owner(), daemon).0;
        assert!(matches!(&found, Err(FindOwnerError::NotFound(reason)) if reason == "closed"), "{found:?}");
    }

    #[tokio::test]
    async fn rejected_call_is_a_failed_lookup() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let finder = finder(path);
        let daemon = serve_call(listener, "{\"failed\":\"too many calls\"}\n");
        let found = tokio::join!(finder.find_owner(), daemon).0;
        assert!(matches!(&found, Err(FindOwnerError::Failed(_))), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn restart_of_the_daemon_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        // A daemon that ended leaves its socket behind.
        drop(UnixListener::bind(&path).unwrap());
        let finder = finder(path.clone());
        let daemon = async {
            advance(CONNECT_RETRY_DELAY).await;
            std::fs::remove_file(&path).unwrap();
            advance(CONNECT_RETRY_DELAY * 2).await;
            serve_call(UnixListener::bind(&path).unwrap(), "{\"owner\":{\"user\":33}}\n").await;
        };
        let found = async { tokio::join!(finder.find_owner(), daemon).0.unwrap() };
        assert_eq!(timeout(OWNER_TIMEOUT, found).await.unwrap(), 33);
    }

    /// The daemon does not respond to calls for pods on the host network.
    #[tokio::test]
    async fn calls_for_pods_on_the_host_network_do_not_delay_those_for_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = OwnerClient::new(path);
        let (remote, local) = ("169.254.239.1:4000".parse().unwrap(), "169.254.239.2:80".parse().unwrap());
        let host_calls = futures_util::future::join_all((0..10).map(|_| client.host_client(remote, local)));
        let daemon = async {
            let mut unanswered = Vec::new();
            loop {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let mut call = String::new();
                stream.read_line(&mut call).await.unwrap();
                if call.contains("whoIs") {
                    stream.write_all(b"{\"owner\":{\"user\":33}}\n").await.unwrap();
                }
                unanswered.push(stream);
            }
        };
        let owner = async {
            tokio::task::yield_now().await;
            let started = Instant::now();
            let found = finder_of(client.clone()).find_owner().await;
            (found.unwrap(), started.elapsed())
        };
        // In this order, the calls for pods on the host network start first.
        let (user, time) = tokio::select! {
            biased;
            () = daemon => panic!("the daemon ended"),
            _ = async { host_calls.await; std::future::pending::<()>().await } => panic!("the calls ended"),
            result = owner => result,
        };
        assert!(user == 33 && time < OWNER_TIMEOUT, "{user} after {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn daemon_that_does_not_listen_fails_the_lookup_before_its_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let error = finder(directory.path().join("link.sock")).find_owner().await.unwrap_err();
        assert!(matches!(error, FindOwnerError::Failed(_)), "{error:?}");
        assert!(error.to_string().starts_with("cannot connect to the link daemon at "), "{error}");
        assert!((CONNECT_RETRY_TIME..OWNER_TIMEOUT).contains(&started.elapsed()), "{:?}", started.elapsed());
    }
}
