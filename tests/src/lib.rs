//! Tests of podmeta across crates.
//!
//! - [`conformance`] runs cases against the edge of the node agent without sockets.
//! - [`mutation`] changes one rule at a time in the source and reports which cases fail.
//! - [`fuzz`] has the fuzz targets and their seeds.

pub mod conformance;
pub mod fuzz;
pub mod mutation;
