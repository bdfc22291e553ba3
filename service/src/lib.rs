//! What the operator and the node agent are run with, whatever they do: the admin port, signals, limits, what holds
//! for a whole cluster, and the key that documents are signed with.

pub mod admin;
pub mod identity;
pub mod limits;
pub mod settings;
pub mod signals;
