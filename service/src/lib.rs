//! Code that the operator and the node agent share: accept loop, admin port, log, signals, process limits, cluster settings,
//! and the signing key of identity documents.

pub mod admin;
pub mod connections;
pub mod identity;
pub mod limits;
pub mod listener;
pub mod log;
pub mod log_throttle;
pub mod settings;
pub mod signals;
