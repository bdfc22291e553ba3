//! Creates a Kubernetes cluster on this host for tests. Machines are sets of namespaces that run released programs.
//!
//! This crate does not depend on podmeta. The tests in `suite/` do.

pub mod commands;
pub mod fault_plan;
pub mod images;
pub mod kubernetes;
pub mod layout;
pub mod machine;
pub mod network;
pub mod prerequisites;
pub mod programs;
