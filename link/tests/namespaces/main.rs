//! Tests of links and guards in network namespaces that each test makes. They need root, `ip` and `nft`.
#![cfg(target_os = "linux")]

mod cni;
mod guard;
mod kit;
mod link;
