//! The operator: compiles profiles and pods into the workloads that node agents serve.
//!
//! - [`cluster`]: reads the Kubernetes API and writes the operator's own objects.
//! - [`model`]: the state, without I/O.
//! - [`reconcile`]: the task that applies all changes of the state.
//! - [`credentials`]: sessions of cloud roles for pods.
//! - [`agents`]: the HTTPS API of the node agents.
//! - [`leader`]: leader election and the status of profiles.
//! - [`tls`]: the certificates of that API. [`identity_key`]: the key that signs identity documents.
//! - [`text`]: shortens texts and replaces control characters, for messages, events and logs.
//! - [`operator`]: starts and stops everything.
//! - [`uninstall`]: removes podmeta from the nodes.

pub mod agents;
pub mod args;
pub mod cluster;
pub mod credentials;
pub mod identity_key;
pub mod leader;
#[cfg(test)]
mod log_capture;
pub mod metrics;
pub mod model;
pub mod operator;
pub mod reconcile;
pub mod text;
pub mod tls;
pub mod uninstall;
