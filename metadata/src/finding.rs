//! What compiling a pod found out about a profile: it becomes a condition, an event, or a line on the terminal.

use std::fmt;

use crate::profile::ProfileRef;

/// One finding. It names the profile's field and says what is served instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The profile that it is about.
    pub profile: Option<ProfileRef>,
    /// The field, such as `spec.metadata[2].path`.
    pub field: String,
    /// The kind of finding.
    pub reason: FindingReason,
    /// What was found, in one line.
    pub message: String,
}

/// The kinds of findings. Their names are part of the API: they are the reasons of conditions and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingReason {
    /// Another profile of the same priority matches the pod and wins.
    Conflicted,
    /// A policy made an option stricter.
    PolicyTightened,
    /// A policy does not allow a role, dialect or mode; it is left out.
    PolicyForbids,
    /// The user data cannot be had; there is none.
    UserDataUnavailable,
    /// An item's value cannot be had; it is left out.
    ItemUnavailable,
    /// An item would be both a leaf and a directory; it is left out.
    ItemMisplaced,
    /// A label's key is not one that the dialect allows in a tag; it is left out.
    TagDropped,
}

impl fmt::Display for FindingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
