//! Tests of the ECS tree and documents.

mod documents;
mod everything;
mod listings;
mod network;
mod values;

use super::tree;
use crate::fixture::{Case, link};
use crate::tree::Tree;

fn render(case: &Case) -> Tree {
    tree::render(&case.workload(), &link()).unwrap()
}

/// The directory of the network interface.
const INTERFACE_DIR: &str = "meta-data/network/interfaces/macs/02:00:00:aa:bb:cc";

/// Returns the MAC address of the identity document.
fn document_mac(case: &Case) -> String {
    let text = super::document::document(&case.workload(), &link(), None).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["mac"].as_str().unwrap().to_owned()
}
