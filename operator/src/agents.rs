//! The HTTPS API of the node agents.
//!
//! - [`listener`]: TLS and HTTP/2. [`connections`]: connection limits.
//! - [`api`]: the request handlers. [`token_review`]: authenticates agents. [`review_cache`]: recent token reviews.
//! - [`broker`]: computes the credentials, user data and identity document of a pod.
//! - [`keyed_locks`]: one request at a time for each node or address.

pub mod api;
pub mod broker;
pub mod connections;
pub mod keyed_locks;
pub mod listener;
mod review_cache;
pub mod token_review;
