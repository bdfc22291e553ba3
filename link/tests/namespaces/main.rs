//! Tests of links and guards in network namespaces that each test makes. They need root, `ip` and `nft`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "functions of tests fail by a panic")]

mod activation;
mod agent_namespace;
mod attack;
mod bpf_pins;
mod capabilities;
mod cgroup_root;
mod cni;
mod commands;
mod config_changes;
mod daemon;
mod findings;
mod guard;
mod hops;
mod host_network;
mod host_pods;
mod host_pods_daemon;
mod host_pods_identity;
mod host_pods_link;
mod icmp;
mod identity;
mod install;
mod kit;
mod link;
mod links;
mod nat64;
mod node;
mod packet_routes;
mod packet_socket;
mod pod_devices;
mod properties;
mod replaced_end;
mod routing;
mod runtime;
mod socket_owner;
mod uninstall;
mod uplink;
mod uplink_failures;
mod without_ipv6;
