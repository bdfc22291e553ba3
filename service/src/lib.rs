//! Code that the operator and the node agent share: the admin port, signals, file limits, settings of the cluster, and
//! the key that signs identity documents.

pub mod admin;
pub mod identity;
pub mod limits;
pub mod settings;
pub mod signals;
