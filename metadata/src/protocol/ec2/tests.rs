//! Tests of the EC2 tree and documents.

mod documents;
mod headers;
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
