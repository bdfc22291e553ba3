//! The condition types of a `MetadataProfile`. They are part of the API, and so are their reasons.

/// True if the spec is valid and every part of it is in effect. If False, the message names the part.
pub const ACCEPTED: &str = "Accepted";

/// True if the agents of all matched pods hold the latest generation, or the last valid one if the latest is invalid, and each
/// of these pods has a link. Pods on the host network of nodes without redirection are not counted.
pub const PROGRAMMED: &str = "Programmed";

/// True if every pod that requested credentials got them, or the profile has no roles. False if the Secret of a role
/// cannot be used, or a provider returned no credentials. Unknown if no pod has requested credentials yet.
pub const CREDENTIALS_READY: &str = "CredentialsReady";

/// True if another profile of the same priority applies to a pod that this profile matches.
pub const CONFLICTED: &str = "Conflicted";

/// True if the profile applies to pods on the host network of nodes without redirection. podmeta does not serve these pods. They
/// reach the node's own metadata service unless the uplink guard drops their requests.
pub const PODS_EXCLUDED: &str = "PodsExcluded";
