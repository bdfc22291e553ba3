//! The condition types of a `MetadataProfile`'s status. They are part of the API, as their reasons are.

/// Whether the spec is valid and policies allow all of it. False: some part is refused, and the message says which.
pub const ACCEPTED: &str = "Accepted";

/// Whether every agent that serves a matched pod has what it is served by: the newest generation, or the last valid one.
pub const PROGRAMMED: &str = "Programmed";

/// Whether credentials could be had for every role of every matched pod.
pub const CREDENTIALS_READY: &str = "CredentialsReady";

/// Whether another profile of the same priority took a pod that this one matches.
pub const CONFLICTED: &str = "Conflicted";
