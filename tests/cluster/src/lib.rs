//! A real Kubernetes in one command, for tests: machines made of namespaces, with the published programs in them.
//!
//! It knows nothing of what podmeta does; the tests in `suite/` do.

pub mod cgroups;
pub mod control_plane;
pub mod down;
pub mod images;
pub mod init;
pub mod kubectl;
pub mod layout;
pub mod links;
pub mod lock;
pub mod machine;
pub mod needs;
pub mod network_policy;
pub mod node;
pub mod oci;
pub mod pki;
pub mod probe;
pub mod processes;
pub mod programs;
pub mod real_imds;
pub mod root_fs;
pub mod status;
pub mod steps;
pub mod up;
