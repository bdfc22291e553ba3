//! The private link of each pod to the node agent, and the guards that keep pods from the node's own metadata service.
//! Linux only: on other systems the crate is empty.
//!
//! A link is a veth pair. Its pod end, `imds0`, has routes to the service addresses. Its agent end is in the agent
//! namespace, which owns these addresses. The alias of the agent end names the pod ([`alias`]). This state is in the
//! kernel, not in a file.
//!
//! Modules, from the lowest layer to the highest:
//!
//! - [`service`], [`range`]: the service addresses, and the addresses of links
//! - [`alias`]: the text that names the pod of a link
//! - [`netns`], [`sys`]: network namespaces, and system calls without a safe wrapper
//! - [`private_socket`]: Unix sockets that only their owner can use
//! - [`counters`], [`findings`], [`checks`]: the counts of repairs, the findings about the node, and the results of checks
//! - [`nat64`]: translators of addresses on the node
//! - [`agent_ns`], [`pod_link`], [`guard`]: the agent namespace, the link of one pod, the guards of a node
//! - [`host_pods`]: the node's link, and the programs that redirect pods on the host network to it
//! - [`cni`], [`install`]: the CNI plugin, and its files on a node
//! - [`cri`], [`user_ids`]: the client of the container runtime, and the user IDs of a pod
//! - [`requirements`], [`pod_devices`]: the checks of the node, and of the network devices of its pods
//! - [`daemon`], [`uninstall`]: the link daemon, and the uninstallation
//! - [`socket`], [`protocol`], [`sockets`], [`owner`]: the socket of the daemon, its calls, the sockets that it passes, and
//!   the owners of clients' sockets
//! - [`client`], [`identity`]: for the node agent: the client of that socket, and the pod of a connection
#![cfg(target_os = "linux")]

pub mod agent_ns;
pub mod alias;
pub mod checks;
pub mod client;
pub mod cni;
pub mod counters;
pub mod cri;
pub mod daemon;
mod events;
pub mod findings;
pub mod guard;
pub mod host_pods;
pub mod identity;
pub mod install;
pub mod nat64;
mod netlink_messages;
pub mod netns;
mod nft;
pub mod owner;
mod peer;
mod pinned_link;
pub mod pod_devices;
pub mod pod_link;
pub mod private_socket;
pub mod protocol;
pub mod range;
pub mod requirements;
mod route_socket;
pub mod service;
pub mod socket;
pub mod sockets;
pub mod sys;
pub mod uninstall;
pub mod user_ids;
