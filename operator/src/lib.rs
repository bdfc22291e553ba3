//! The operator: from what the API server holds to what each node's agent serves.

pub mod feed;
pub mod index;
pub mod status;
