//! The network of a cluster: datapaths of pods, links between machines, NetworkPolicies, and the stub of the cloud metadata
//! service.

pub mod bypass;
pub mod cni;
pub mod datapath;
pub mod imds_stub;
pub mod links;
pub mod network_policy;
