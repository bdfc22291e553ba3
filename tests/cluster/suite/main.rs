//! Tests on a real cluster: `make cluster-test`, or `KUBECONFIG=… cargo test --workspace --test suite`.

mod kit;

mod cluster;
mod images;
mod podmeta;
mod real_imds;
mod storm;
