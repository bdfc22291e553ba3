//! podmeta's custom resources, and the way from Kubernetes objects and YAML files to the core's validated types.
//!
//! [`metadataprofile`] and [`metadatapolicy`] are what users write; [`profile`], [`policy`] and [`facts`] turn them and
//! Kubernetes' own objects into the core's types, with every error at its field; [`objects`] reads files. No client, no
//! socket and no clock: an API server is not needed to find out whether a profile is right.

#[cfg(test)]
mod accept;
pub mod conditions;
pub mod crd;
#[cfg(test)]
mod docs;
pub mod facts;
pub mod field;
pub mod labels;
pub mod metadatapolicy;
pub mod metadataprofile;
mod names;
pub mod objects;
pub mod policy;
pub mod profile;
mod schema;
pub mod yaml;
