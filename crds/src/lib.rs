//! podmeta's custom resources, and the conversion of Kubernetes objects to the validated types of `podmeta-metadata`.
//!
//! - `api`: the types of [`metadataprofile`] and [`metadatapolicy`], their schema, and the generated CRDs ([`crd`]).
//! - `convert`: [`profile`], [`policy`] and [`facts`] convert objects. They report every error with its [`field`].
//! - [`manifests`]: loads objects from YAML and JSON files, for the dev server.
//!
//! This crate has no client, no socket and no clock.

mod api;
mod convert;
#[cfg(test)]
mod documentation_tests;
pub mod manifests;
#[cfg(test)]
mod validation_tests;

pub use api::{conditions, crd, metadatapolicy, metadataprofile};
pub use convert::{facts, field, json, policy, profile};
