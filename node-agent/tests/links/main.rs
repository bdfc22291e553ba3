//! Tests of the program `podmeta-node-agent serve` with pods in network namespaces. It gets its sockets from the link daemon's
//! socket, and has no operator: its pods come from a state file. They need root, `ip`, `nft` and `ss`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "functions of tests fail by a panic"
)]

#[path = "../../../link/tests/namespaces/capabilities.rs"]
mod capabilities;
mod churn;
mod client;
mod hop_limit;
mod host_pods;
#[path = "../../../link/tests/namespaces/kit.rs"]
#[allow(dead_code, reason = "other test targets use the other items")]
mod kit;
mod node;
#[path = "../../../link/tests/namespaces/routing.rs"]
mod routing;
#[path = "../../../link/tests/namespaces/runtime.rs"]
#[allow(dead_code, reason = "other test targets use the other items")]
mod runtime;
mod serving;
mod users;
