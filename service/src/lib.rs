//! Code that the operator and the node agent share.
//!
//! - [`listener`]: the accept loop of every listener. [`connections`]: connection limits by address.
//! - [`admin`]: the port for health, readiness and metrics.
//! - [`log`]: the log and its queues. [`log_throttle`]: at most one line a second of a repeated event.
//! - [`shared_calls`]: calls that concurrent requests share.
//! - [`settings`]: settings of the whole cluster, as flags.
//! - [`identity`]: the key that signs identity documents.
//! - [`limits`]: limits of the process. [`signals`]: signals that stop it.

pub mod admin;
pub mod connections;
pub mod identity;
pub mod limits;
pub mod listener;
pub mod log;
pub mod log_throttle;
pub mod settings;
pub mod shared_calls;
pub mod signals;
