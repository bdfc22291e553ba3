//! The operator's state, without I/O: what the cluster holds, the compiled pods, what each node agent gets, and what the
//! status of each profile contains. It knows no API server, no socket and no clock.
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
