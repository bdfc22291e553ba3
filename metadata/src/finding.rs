//! Findings of compilation about a profile. They become conditions, events, or lines on the terminal.

use std::fmt;

use crate::profile::ProfileRef;

/// One finding: the field of the profile, and the effect on the served data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The profile that has the field. Every finding of a compilation has one.
    pub profile: Option<ProfileRef>,
    /// The field, such as `spec.metadata[2].path`.
    pub field: String,
    /// The kind of finding.
    pub reason: FindingReason,
    /// The message, on one line.
    pub message: String,
}

/// The kinds of findings. Their names are part of the API, as reasons of conditions and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingReason {
    /// Another profile of the same priority matches the pod and applies.
    Conflicted,
    /// A policy made an option stricter.
    PolicyTightened,
    /// A policy does not allow a part of the profile, such as a role, dialect or region. That part is left out. For a mode
    /// of hostNetwork pods, the pod is denied.
    PolicyForbids,
    /// A role needs a ServiceAccount token, and the pod has no ServiceAccount. The role is left out.
    RoleUnavailable,
    /// The user data is missing or too long. None is served.
    UserDataUnavailable,
    /// An item has no valid value. It is left out.
    ItemUnavailable,
    /// An item would be both a leaf and a directory. It is left out.
    ItemMisplaced,
    /// A pod has more tags than the dialect allows. The tags over the limit are left out.
    TooManyTags,
    /// The compiled pod is over [`MAX_WORKLOAD_BYTES`](crate::workload::MAX_WORKLOAD_BYTES). The pod is denied.
    WorkloadTooLarge,
    /// The dialect does not allow a label's key in a tag. The tag is left out.
    TagDropped,
    /// The compilation of the pod failed with an internal error. The pod is denied.
    InternalError,
}

impl fmt::Display for FindingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
