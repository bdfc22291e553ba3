//! The pod of a connection that arrived at the node's link: that of the cgroup of the client's socket.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use podmeta_metadata::names::PodUid;
use serde::{Deserialize, Serialize};

use super::{addresses, cgroups, node_link};
use crate::netns::Netns;
use crate::owner::{ConnectionAddresses, diag};
use crate::service::SERVICE_PORT;

/// Maximum number of known cgroups. All are removed if there are more.
const MAX_KNOWN_CGROUPS: usize = 8192;

/// A connection that arrived at the node's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostQuery {
    /// Address of the client.
    pub client: SocketAddr,
    /// The address of the link that stands for a service address.
    pub service: SocketAddr,
}

/// The pod of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostClient {
    /// A pod.
    Pod(PodUid),
    /// The client is not a process of a pod. The text is the reason, for a log.
    Nobody(String),
}

/// Finds the pods of connections.
#[derive(Debug)]
pub struct HostPodFinder {
    host: Netns,
    cgroup_root: PathBuf,
    /// Pods by the ID of a cgroup, or `None` for a cgroup of no pod. A cgroup never moves, and no other one gets its ID.
    known: Mutex<HashMap<u64, Option<PodUid>>>,
}

impl HostPodFinder {
    /// Creates a finder. `host` is the host's namespace, `cgroup_root` the directory where cgroup v2 is mounted, or its parent if the node also has
    /// v1.
    #[must_use]
    pub fn new(host: Netns, cgroup_root: PathBuf) -> Self {
        Self { host, cgroup_root, known: Mutex::default() }
    }

    /// Returns the pod of a connection. Blocks.
    ///
    /// # Errors
    /// If the addresses are not those of a connection to the node's link, or the kernel does not report the socket.
    pub fn find(&self, query: &HostQuery) -> Result<HostClient> {
        let connection = check(query)?;
        let socket = diag::find_socket(&self.host, connection, node_link::HOST_INTERFACE);
        let Some(socket) = socket.context("cannot read the socket from the kernel")? else {
            return Ok(HostClient::Nobody("no process in the host's network namespace has its socket open".to_owned()));
        };
        let cgroup = socket.cgroup.context("the kernel does not report cgroups of sockets")?;
        Ok(match self.pod(cgroup)? {
            Some(pod) => HostClient::Pod(pod),
            None => HostClient::Nobody(format!("its cgroup {cgroup} belongs to no pod")),
        })
    }

    fn pod(&self, cgroup: u64) -> Result<Option<PodUid>> {
        if let Some(known) = self.lock().get(&cgroup) {
            return Ok(known.clone());
        }
        let hierarchy = cgroups::hierarchy(&self.cgroup_root)?;
        let mut found = cgroups::with_descendants(&hierarchy).context("cannot read the cgroups of pods")?;
        let pod = found.remove(&cgroup);
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN_CGROUPS {
            known.clear();
        }
        known.insert(cgroup, pod.clone());
        Ok(pod)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Option<PodUid>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the addresses of a query's connection.
fn check(query: &HostQuery) -> Result<ConnectionAddresses> {
    let HostQuery { client, service } = *query;
    let node: IpAddr = if service.is_ipv4() { addresses::NODE_IPV4.into() } else { addresses::node_ipv6().into() };
    let is_service = service.port() == SERVICE_PORT && addresses::service_of(service.ip()).is_some();
    ensure!(is_service && client.ip() == node, "{client} to {service} is no connection of the node's link");
    Ok(ConnectionAddresses { client, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_of_another_link_is_rejected() {
        let is_valid = |client: &str, service: &str| {
            check(&HostQuery { client: client.parse().unwrap(), service: service.parse().unwrap() }).is_ok()
        };
        assert!(is_valid("169.254.239.1:4000", "169.254.239.2:80"));
        assert!(is_valid("[fda9:fe:a9fe::a9fe:ef01]:4000", "[fda9:fe:a9fe::a9fe:ef03]:80"));
        for (client, service) in [
            ("169.254.240.2:4000", "169.254.239.2:80"),
            ("169.254.239.1:4000", "169.254.169.254:80"),
            ("169.254.239.1:4000", "169.254.239.2:81"),
            ("169.254.239.1:4000", "169.254.239.9:80"),
            ("169.254.239.1:4000", "[fda9:fe:a9fe::a9fe:ef03]:80"),
        ] {
            assert!(!is_valid(client, service), "{client} {service}");
        }
    }
}
