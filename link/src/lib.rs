//! The private link of each pod to the node agent, and the guards that keep pods from the node's own metadata service.
//! Linux only: on other systems the crate is empty.
//!
//! A link is a veth pair. Its pod end, `imds0`, has routes to the service addresses. Its agent end is in the agent
//! namespace, which owns these addresses. The alias of the agent end names the pod ([`alias`]). The kernel keeps this
//! state, in no file.
#![cfg(target_os = "linux")]

pub mod agent_ns;
pub mod alias;
pub mod client;
pub mod cni;
pub mod counters;
pub mod cri;
pub mod daemon;
mod events;
pub mod guard;
pub mod identity;
pub mod install;
pub mod netns;
mod nft;
mod peer;
pub mod pod_link;
pub mod protocol;
pub mod range;
mod route_socket;
pub mod service;
pub mod socket;
pub mod sockets;
pub mod sys;
