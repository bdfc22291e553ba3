//! The owner of a client's socket: the user of a pod that the kernel reports for one connection.
//!
//! The owner is the user that created the socket. A process can pass its socket to another one, of another user. The owner
//! stays the same.

pub(crate) mod diag;
mod sandboxes;
mod unknown_user_ids;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::alias::SandboxId;
use crate::cri::{RuntimeClient, SandboxDetails};
use crate::findings::SharedFindings;
use crate::netns::Netns;
use crate::protocol::{MAX_OWNER_CALLS, OWNER_TIMEOUT, SocketOwner, SocketQuery};
use crate::service::{self, SERVICE_PORT};
use crate::user_ids::UserIdError;
use sandboxes::KnownSandboxes;
use unknown_user_ids::PodsWithUnknownUserIds;

/// Maximum number of concurrent calls of the container runtime. Calls of the link socket that need none must not wait for them.
const MAX_RUNTIME_CALLS: usize = 2 * MAX_OWNER_CALLS;

/// Reason for which the kernel reports no socket. The kernel has the same error code for both causes.
const NO_SOCKET: &str = "no process of the pod has the socket of this connection open, or the kernel has no INET_DIAG for \
                         TCP (module tcp_diag)";

/// Finds owners of sockets in the namespaces of pods.
#[derive(Debug)]
pub struct OwnerFinder {
    runtime_socket: PathBuf,
    findings: Arc<SharedFindings>,
    sandboxes: KnownSandboxes,
    unknown_user_ids: PodsWithUnknownUserIds,
    /// Permits of calls of the container runtime.
    runtime_calls: Semaphore,
}

impl OwnerFinder {
    /// Creates a finder. The container runtime at `runtime_socket` is called once for each sandbox, and again after a minute if
    /// it did not report all details.
    #[must_use]
    pub fn new(runtime_socket: PathBuf, findings: Arc<SharedFindings>) -> Self {
        Self {
            runtime_socket,
            findings,
            sandboxes: KnownSandboxes::default(),
            unknown_user_ids: PodsWithUnknownUserIds::default(),
            runtime_calls: Semaphore::new(MAX_RUNTIME_CALLS),
        }
    }

    /// Returns the owner of a client's socket. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the query does not name a connection to a service address, the container runtime does not report the sandbox, or
    /// the kernel does not respond.
    pub async fn find(&self, query: SocketQuery) -> Result<SocketOwner> {
        let addresses = check_query(&query)?;
        let details = self.details(&query).await?;
        let path = details.network_namespace.clone().context("the pod uses the network of the node")?;
        let found = tokio::task::spawn_blocking(move || {
            let pod = Netns::open(&path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
            diag::find_owner(&pod, addresses).context("cannot read the socket from the kernel")
        });
        let found = found.await?;
        if found.is_err() {
            // The sandbox can have ended.
            self.sandboxes.remove(&query.sandbox);
        }
        let Some(user) = found? else {
            return Ok(SocketOwner::Nobody(NO_SOCKET.to_owned()));
        };
        let user = details.users.in_pod(user);
        if user == Err(UserIdError::Unknown) {
            self.unknown_user_ids.add(&details.pod_name, Instant::now());
            self.update_findings();
        }
        Ok(user.map_or_else(|error| SocketOwner::Nobody(error.to_string()), SocketOwner::User))
    }

    /// Sets or removes the finding about pods whose user IDs are unknown.
    pub(crate) fn update_findings(&self) {
        self.findings.set(NodeFindingKind::UserIds, self.unknown_user_ids.finding(Instant::now()));
    }

    /// Returns the details of the sandbox of a query.
    async fn details(&self, query: &SocketQuery) -> Result<Arc<SandboxDetails>> {
        let details = match self.sandboxes.get(&query.sandbox, Instant::now()) {
            Some(details) => details,
            None => self.read_details(&query.sandbox).await?,
        };
        ensure!(details.pod.as_ref() == Some(&query.pod), "the sandbox belongs to another pod");
        Ok(details)
    }

    /// Reads the details of a sandbox from the container runtime.
    async fn read_details(&self, sandbox: &SandboxId) -> Result<Arc<SandboxDetails>> {
        let _permit = self.runtime_calls.try_acquire().context("too many concurrent calls of the container runtime")?;
        let mut client = RuntimeClient::new(self.runtime_socket.clone());
        let details = timeout(OWNER_TIMEOUT, client.details(sandbox)).await;
        let details =
            details.with_context(|| format!("the container runtime did not respond within {OWNER_TIMEOUT:?}"))?;
        Ok(self.sandboxes.add(sandbox.clone(), details?, Instant::now()))
    }
}

/// The addresses of a connection, both of one family: IPv4-mapped addresses are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionAddresses {
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
}

/// Returns the addresses of a query's connection.
///
/// # Errors
/// If it is not a connection to a service address.
fn check_query(query: &SocketQuery) -> Result<ConnectionAddresses> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, service) = (canonical(query.client), canonical(query.service));
    let is_service = service.port() == SERVICE_PORT && service::addresses().contains(&service.ip());
    ensure!(is_service, "{service} is not a service address");
    ensure!(client.is_ipv4() == service.is_ipv4(), "{client} and {service} have two address families");
    Ok(ConnectionAddresses { client, service })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::user_ids::UserIds;

    fn query(client: &str, service: &str) -> SocketQuery {
        SocketQuery {
            pod: "uid-1".try_into().unwrap(),
            sandbox: "sandbox1".try_into().unwrap(),
            client: client.parse().unwrap(),
            service: service.parse().unwrap(),
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let found = check_query(&query("[::ffff:169.254.240.2]:4000", "[::ffff:169.254.169.254]:80")).unwrap();
        assert_eq!(found, check_query(&query("169.254.240.2:4000", "169.254.169.254:80")).unwrap());
        assert!(found.client.is_ipv4() && found.service.is_ipv4());
        assert!(check_query(&query("[fd00::1]:4000", "[fd00:ec2::254]:80")).unwrap().client.is_ipv6());
    }

    #[test]
    fn connection_to_another_address_is_rejected() {
        for (client, service) in [
            ("10.0.0.1:4000", "10.0.0.2:80"),
            ("10.0.0.1:4000", "169.254.169.254:443"),
            ("[fd00::1]:4000", "169.254.169.254:80"),
            ("10.0.0.1:4000", "[fd00:ec2::254]:80"),
        ] {
            assert!(check_query(&query(client, service)).is_err(), "{client} {service}");
        }
    }

    fn finder(runtime_socket: &Path) -> OwnerFinder {
        OwnerFinder::new(runtime_socket.to_owned(), Arc::default())
    }

    fn valid_query() -> SocketQuery {
        query("169.254.240.2:4000", "169.254.169.254:80")
    }

    async fn error(finder: &OwnerFinder) -> String {
        format!("{:#}", finder.find(valid_query()).await.unwrap_err())
    }

    /// Lookups that wait for the container runtime must not use up the concurrent calls of the link socket.
    #[tokio::test]
    async fn runtime_call_over_the_limit_fails_immediately() {
        let mut finder = finder(Path::new("/none"));
        let failed = error(&finder).await;
        assert!(failed.contains("cannot get the status of a sandbox"), "{failed}");
        finder.runtime_calls = Semaphore::new(0);
        let over_limit = error(&finder).await;
        assert!(over_limit.contains("too many concurrent calls of the container runtime"), "{over_limit}");
    }

    #[tokio::test]
    async fn lookup_in_a_known_sandbox_needs_no_runtime_call() {
        let mut finder = finder(Path::new("/none"));
        finder.runtime_calls = Semaphore::new(0);
        let details = SandboxDetails {
            pod: Some(valid_query().pod),
            pod_name: "shop/web".to_owned(),
            network: crate::cri::NetworkMode::Pod,
            network_namespace: Some("/nonexistent".into()),
            users: UserIds::OfNode,
        };
        finder.sandboxes.add(valid_query().sandbox, details, Instant::now());
        let opened = error(&finder).await;
        assert!(opened.contains("cannot open the namespace /nonexistent"), "{opened}");
    }

    #[tokio::test(start_paused = true)]
    async fn runtime_that_does_not_respond_ends_a_lookup_with_the_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runtime.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let started = tokio::time::Instant::now();
        let slow = error(&finder(&path)).await;
        assert!(slow.contains("did not respond within 500ms"), "{slow}");
        assert!(started.elapsed() < OWNER_TIMEOUT * 2, "{:?}", started.elapsed());
    }
}
