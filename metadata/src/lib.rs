//! The pure core of podmeta. It compiles a pod's facts and its profile into metadata, and evaluates requests for it.
//! It has no Kubernetes types, no async code, no sockets and no clock: time and randomness are arguments.
//!
//! Compilation:
//!
//! - [`facts`], [`profile`], [`policy`]: the inputs. [`compile`] combines them into a [`workload`] and [`finding`]s.
//! - [`cel`]: expressions of a profile. [`selector`]: label selectors.
//! - [`item`], [`options`], [`role`], [`tag`], [`user_data`], [`names`]: validated parts of a profile.
//!
//! Requests:
//!
//! - [`evaluate`]: checks a [`request`] in the one order of all checks. A failed check is a [`rejection`].
//! - [`host`], [`path`], [`session`]: checks of `Host`, spellings of a path, session tokens.
//! - [`protocol`]: the table of the dialects. It renders a workload into a [`tree`] and writes the [`response`].
//! - [`dialect`]: the names of the dialects. [`time`]: their time formats.
//!
//! Nodes:
//!
//! - [`node_finding`]: what a node lacks. [`node_guard`]: the state of its guards and links. Link daemon, node agent and
//!   operator share both.
//!
//! Secrets and signatures:
//!
//! - [`credentials`]: credentials, their failures and causes. Operator, agent and dev mode share them.
//! - [`secret`]: secret text. [`signature`]: signs identity documents.

pub mod cel;
pub mod compile;
pub mod credentials;
pub mod dialect;
pub mod evaluate;
pub mod facts;
pub mod finding;
#[cfg(test)]
mod fixture;
pub mod host;
mod identity;
pub mod item;
pub mod names;
pub mod node_finding;
pub mod node_guard;
mod notice;
pub mod options;
pub mod path;
pub mod policy;
pub mod profile;
pub mod protocol;
pub mod rejection;
pub mod request;
pub mod response;
pub mod role;
pub mod secret;
pub mod selector;
pub mod session;
pub mod signature;
pub mod tag;
pub mod time;
pub mod tree;
pub mod user_data;
pub mod workload;
