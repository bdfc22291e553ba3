//! End-to-end tests on a real cluster: `make cluster-test`, or `KUBECONFIG=… cargo test --workspace --test suite`.

mod cluster;
mod kit;
mod podmeta;
