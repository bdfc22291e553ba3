//! Tests of the test cluster: it behaves like a production cluster where podmeta depends on it.

mod access;
mod images;
pub(crate) mod imds_stub;
mod nodes;
mod pod_churn;
mod pod_network;
