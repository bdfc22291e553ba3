//! The Kubernetes programs of a cluster: their configuration, certificates and clients.

pub mod connectivity;
pub mod control_plane;
pub mod kubectl;
pub mod node;
pub mod pki;
