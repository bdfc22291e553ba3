//! The owner of a client's socket: the user of a pod that the kernel reports for one connection.
//!
//! The owner is the user that created the socket. A process can pass its socket to another one, of another user. The owner
//! stays the same.

mod diag;
mod sandboxes;
mod unmapped;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use podmeta_metadata::node_finding::NodeFindingKind;

use crate::cri::{RuntimeClient, SandboxDetails};
use crate::findings::SharedFindings;
use crate::netns::Netns;
use crate::protocol::{SocketOwner, SocketQuery};
use crate::service::{self, SERVICE_PORT};
use crate::user_ids::UserIdError;
use sandboxes::KnownSandboxes;
use unmapped::UnmappedPods;

/// Finds owners of sockets in the namespaces of pods.
#[derive(Debug)]
pub struct OwnerFinder {
    runtime_socket: PathBuf,
    findings: Arc<SharedFindings>,
    sandboxes: KnownSandboxes,
    unmapped: UnmappedPods,
}

impl OwnerFinder {
    /// Creates a finder. Sandboxes are read from the container runtime at `runtime_socket` once.
    #[must_use]
    pub fn new(runtime_socket: PathBuf, findings: Arc<SharedFindings>) -> Self {
        Self { runtime_socket, findings, sandboxes: KnownSandboxes::default(), unmapped: UnmappedPods::default() }
    }

    /// Returns the owner of a client's socket. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the query is not one of a connection to a service address, the container runtime does not report the sandbox, or
    /// the kernel does not respond.
    pub async fn find(&self, query: SocketQuery) -> Result<SocketOwner> {
        let addresses = connection(&query)?;
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
            return Ok(SocketOwner::Nobody("no process of the pod has the socket of this connection open".to_owned()));
        };
        let user = details.users.in_pod(user);
        if user == Err(UserIdError::Unknown) {
            self.unmapped.add(&details.pod_name, Instant::now());
            self.update_findings();
        }
        Ok(user.map_or_else(|error| SocketOwner::Nobody(error.to_string()), SocketOwner::User))
    }

    /// Sets or removes the finding about pods whose user IDs are unknown.
    pub(crate) fn update_findings(&self) {
        self.findings.set(NodeFindingKind::UserIds, self.unmapped.finding(Instant::now()));
    }

    /// Returns the details of the sandbox of a query.
    async fn details(&self, query: &SocketQuery) -> Result<Arc<SandboxDetails>> {
        let details = match self.sandboxes.get(&query.sandbox) {
            Some(details) => details,
            None => {
                let details = RuntimeClient::new(self.runtime_socket.clone()).details(&query.sandbox).await?;
                self.sandboxes.add(query.sandbox.clone(), details)
            }
        };
        ensure!(details.pod.as_ref() == Some(&query.pod), "the sandbox belongs to another pod");
        Ok(details)
    }
}

/// The addresses of a connection, both of one family: IPv4-mapped addresses are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    client: SocketAddr,
    service: SocketAddr,
}

/// Returns the connection of a query.
///
/// # Errors
/// If it is not a connection to a service address.
fn connection(query: &SocketQuery) -> Result<Connection> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, service) = (canonical(query.client), canonical(query.service));
    let is_service = service.port() == SERVICE_PORT && service::addresses().contains(&service.ip());
    ensure!(is_service, "{service} is not a service address");
    ensure!(client.is_ipv4() == service.is_ipv4(), "{client} and {service} have two address families");
    Ok(Connection { client, service })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let found = connection(&query("[::ffff:169.254.240.2]:4000", "[::ffff:169.254.169.254]:80")).unwrap();
        assert_eq!(found, connection(&query("169.254.240.2:4000", "169.254.169.254:80")).unwrap());
        assert!(found.client.is_ipv4() && found.service.is_ipv4());
        assert!(connection(&query("[fd00::1]:4000", "[fd00:ec2::254]:80")).unwrap().client.is_ipv6());
    }

    #[test]
    fn connection_to_another_address_is_rejected() {
        for (client, service) in [
            ("10.0.0.1:4000", "10.0.0.2:80"),
            ("10.0.0.1:4000", "169.254.169.254:443"),
            ("[fd00::1]:4000", "169.254.169.254:80"),
            ("10.0.0.1:4000", "[fd00:ec2::254]:80"),
        ] {
            assert!(connection(&query(client, service)).is_err(), "{client} {service}");
        }
    }
}
