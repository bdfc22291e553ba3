//! The pure core of podmeta. It compiles a pod's facts and its profile into metadata, and evaluates requests for it.
//! It has no Kubernetes types, no async code, no sockets and no clock: time and randomness are arguments.
//!
//! [`compile`] combines [`facts`], [`profile`] and [`policy`] into a [`workload`]. A [`protocol`] renders the workload
//! into a [`tree`]. [`evaluate`] checks a [`request`], and the protocol writes the [`response`].
//! [`session`] and [`signature`] hold keys.

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
