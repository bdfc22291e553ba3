//! The node agent: serves instance metadata to pods, on a node or on a laptop.
//!
//! Modules, from the lowest layer to the highest:
//!
//! - [`keys`]: the session key file
//! - [`operator_client`]: the HTTPS client of the operator's API
//! - [`broker`]: credentials, user data and signatures, from files or from the operator
//! - [`edge`]: evaluates and serves requests of the published pods
//! - [`dev`]: the dev server, with pods of YAML files
//! - [`debug`]: the debug socket of `serve` and its client. Linux only
//! - [`serve`]: the agent of a node, with pods of the operator. Linux only

pub mod broker;
#[cfg(target_os = "linux")]
pub mod debug;
pub mod dev;
pub mod edge;
pub mod keys;
pub mod operator_client;
mod private_file;
#[cfg(target_os = "linux")]
pub mod serve;
