//! The custom resources: types, CEL rules, schema and generated CRDs.

pub mod conditions;
pub mod crd;
mod dialect_rules;
pub(crate) mod label_selector;
pub mod metadatapolicy;
pub mod metadataprofile;
pub(crate) mod names;
mod schema;

pub(crate) use dialect_rules::{supports_ipv6, unsupported_provider_message};
