//! The operator's state, without I/O: objects of the cluster, compiled pods, the feed of each node agent, and the inputs of
//! each profile's status. It uses no API server, no socket and no clock.
//!
//! - [`update`]: every change of the state.
//! - [`state`]: the state as a whole.
//! - [`index`]: pods, namespaces, nodes, profiles, policies, Secrets, ConfigMap values, and the pods that a change affects.
//! - [`profile`], [`profile_state`]: the generation of a profile that is in effect.
//! - [`feed`]: the changes of each node for its agent, by resource version.
//! - [`observe`], [`status`]: the status of a profile.
//! - [`node_guard`], [`startup_taint`]: the condition of a node, and the taint of a new one.

pub mod compiled_pod;
pub mod feed;
pub mod index;
pub mod node_guard;
pub mod observe;
pub mod profile;
pub mod profile_state;
pub mod startup_taint;
pub mod state;
pub mod status;
pub mod update;
