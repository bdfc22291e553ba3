//! End-to-end tests on a real cluster: `make cluster-test`, or `KUBECONFIG=… cargo test --workspace --test suite`.

mod cluster;
mod kit;
#[allow(clippy::unwrap_used, clippy::panic, reason = "a page that cannot be read fails the test")]
#[path = "../../tests/docs/markdown.rs"]
mod markdown;
mod podmeta;
