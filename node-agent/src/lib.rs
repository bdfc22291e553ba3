//! The node agent: the HTTP edge that answers pods, and the dev server that runs it on a laptop.
//!
//! [`edge`] judges and answers requests, and knows nothing of where pods come from; [`broker`] gets what an answer needs
//! from outside the tree; [`keys`] keeps the session keys in a file; [`dev`] makes pods of YAML files; [`serve`] has them
//! from the operator.

pub mod broker;
pub mod dev;
pub mod edge;
pub mod keys;
pub mod serve;
#[cfg(target_os = "linux")]
mod sys;
