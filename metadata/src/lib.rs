//! The pure core of podmeta: facts of a pod and the profile that matches it go in, metadata trees and judged requests
//! come out. It names no Kubernetes type, no async, no socket and no clock: time and randomness are arguments.

pub mod cel;
pub mod dialect;
pub mod facts;
pub mod item;
pub mod names;
pub mod options;
pub mod policy;
pub mod profile;
pub mod role;
pub mod secret;
pub mod selector;
pub mod tag;
