//! The pure core of podmeta: facts of a pod and the profile that matches it go in, metadata trees and judged requests
//! come out. It names no Kubernetes type, no async, no socket and no clock: time and randomness are arguments.
//!
//! [`facts`], [`profile`] and [`policy`] are what is known; [`compile`] makes a [`workload`] of them; each [`dialect`]
//! renders it into a [`tree`], judges a [`request`] and words the answer; [`session`] and [`signature`] hold keys.

pub mod cel;
pub mod compile;
pub mod credentials;
pub mod dialect;
pub mod facts;
pub mod finding;
#[cfg(test)]
mod fixture;
mod identity;
pub mod item;
pub mod names;
mod notice;
pub mod options;
pub mod path;
pub mod policy;
pub mod profile;
pub mod request;
pub mod role;
pub mod secret;
pub mod selector;
pub mod session;
pub mod signature;
pub mod tag;
pub mod time;
pub mod tree;
pub mod workload;
