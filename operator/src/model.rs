//! The operator's state, without I/O: the objects of the cluster, the compiled pods, the feed of each node agent, and the
//! inputs of the status of each profile. It knows no API server, no socket and no clock.
//!
//! - [`update`]: every change of the state.
//! - [`state`]: the state as a whole.
//! - [`index`]: pods, namespaces, nodes, profiles, policies, Secrets and ConfigMap values, and which pods a change affects.
//! - [`profile`], [`profile_state`]: which generation of a profile is in effect.
//! - [`feed`]: the changes of each node for its agent, by resource version.
//! - [`observe`], [`status`]: the status of a profile.

pub mod compiled_pod;
pub mod feed;
pub mod index;
pub mod observe;
pub mod profile;
pub mod profile_state;
pub mod state;
pub mod status;
pub mod update;
