//! The CNI plugin: gives each new pod its link before the pod's first container starts.
//!
//! The runtime runs it after the plugins that make the pod's network. Source of the protocol: the CNI specification 1.1.0,
//! <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

pub mod conflist;
pub mod error;
pub(crate) mod lock;
pub mod plugin;
pub mod request;

/// Versions of the CNI specification that the plugin supports. In the versions before 1.0.0, only the form of results
/// differs. The plugin returns the result of the previous plugin unchanged.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
