//! Conversion of Kubernetes objects to the validated types of `podmeta-metadata`.

pub mod facts;
pub mod field;
pub mod json;
mod label_selector;
pub mod policy;
pub mod profile;
