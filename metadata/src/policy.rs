//! Validated `MetadataPolicy` objects: limits that an administrator sets for profiles.

mod effective;
mod glob;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::names::{AccountId, Line};
use crate::options::{HopLimit, HttpTokens};
use crate::profile::HostNetwork;
use crate::role::{ProviderKind, SessionDuration};
use crate::selector::Selector;

pub use effective::{
    Claim, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_REQUESTS_PER_SECOND, EffectivePolicy, Maximum, is_zone_of,
};
pub use glob::Glob;

/// A validated policy. An absent field restricts nothing, unless [`EffectivePolicy`] has a default for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The name.
    pub name: String,
    /// The namespaces that it applies to, by label.
    pub namespaces: Selector,
    /// `Required` makes session tokens required.
    pub http_tokens: Option<HttpTokens>,
    /// The maximum hop limit.
    pub max_hop_limit: Option<HopLimit>,
    /// The maximum number of requests of a pod per second.
    pub max_requests_per_second: Option<NonZeroU32>,
    /// The maximum number of open connections of a pod.
    pub max_connections: Option<NonZeroU32>,
    /// The allowed dialects.
    pub allowed_dialects: Option<BTreeSet<Dialect>>,
    /// The allowed providers of roles.
    pub allowed_providers: Option<BTreeSet<ProviderKind>>,
    /// The allowed names of roles.
    pub allowed_role_names: Option<Vec<Glob>>,
    /// The allowed ARNs of roles. If present, a role without an ARN is forbidden.
    pub allowed_role_arns: Option<Vec<Glob>>,
    /// The external IDs that profiles may set, in addition to that of their namespace.
    pub allowed_external_ids: Option<Vec<Glob>>,
    /// The maximum lifetime of a session.
    pub max_session_duration: Option<SessionDuration>,
    /// The allowed names of Secrets.
    pub allowed_secrets: Option<Vec<Glob>>,
    /// The accounts that profiles may claim. The signed identity document can contain them.
    pub allowed_account_ids: Option<BTreeSet<AccountId>>,
    /// The regions that profiles may claim, directly or by one of their zones. The signed identity document can contain them.
    pub allowed_regions: Option<BTreeSet<Line>>,
    /// The allowed modes of pods on the host network.
    pub allowed_host_network: Option<BTreeSet<HostNetwork>>,
    /// The treatment of pods that no profile matches.
    pub without_profile: Option<UnmatchedPods>,
    /// The treatment of static pods.
    pub static_pods: Option<StaticPods>,
}

impl Policy {
    /// Returns the policy that applies to all namespaces and forbids all that a policy can forbid.
    #[must_use]
    pub fn strictest(name: String) -> Self {
        Self {
            name,
            namespaces: Selector::default(),
            http_tokens: Some(HttpTokens::Required),
            max_hop_limit: Some(HopLimit::ONE),
            max_requests_per_second: Some(NonZeroU32::MIN),
            max_connections: Some(NonZeroU32::MIN),
            allowed_dialects: Some(BTreeSet::new()),
            allowed_providers: Some(BTreeSet::new()),
            allowed_role_names: Some(Vec::new()),
            allowed_role_arns: Some(Vec::new()),
            allowed_external_ids: Some(Vec::new()),
            max_session_duration: Some(SessionDuration::HOUR),
            allowed_secrets: Some(Vec::new()),
            allowed_account_ids: Some(BTreeSet::new()),
            allowed_regions: Some(BTreeSet::new()),
            allowed_host_network: Some(BTreeSet::from([HostNetwork::Deny])),
            without_profile: Some(UnmatchedPods::Deny),
            static_pods: Some(StaticPods::Deny),
        }
    }
}

/// Treatment of pods that no profile matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnmatchedPods {
    /// 403 on every path.
    Deny,
    /// A tree of the pod's own facts. Session tokens are required. The tree has no role.
    Facts,
}

/// Treatment of static pods. No profile matches them, because a kubelet chooses their namespace and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StaticPods {
    /// 403 on every path.
    Deny,
    /// A tree of the pod's own facts. Session tokens are required. The tree has no role and no identity document.
    Facts,
}
