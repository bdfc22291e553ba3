//! The combination of the policies of one namespace.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::{Policy, StaticPods, UnmatchedPods};
use crate::dialect::Dialect;
use crate::names::AccountId;
use crate::options::{HopLimit, HttpTokens};
use crate::profile::HostNetwork;
use crate::role::{Provider, Role, SessionDuration};

/// Maximum of a pod's requests per second if no policy sets one: 2,000.
pub const DEFAULT_MAX_REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(1_999);

/// Maximum of a pod's open connections if no policy sets one: 1,024.
pub const DEFAULT_MAX_CONNECTIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1_023);

/// The highest value of a limit that a profile may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maximum<'p> {
    /// The highest value.
    pub limit: NonZeroU32,
    /// The policy that sets it, or `None` for the default.
    pub policy: Option<&'p Policy>,
}

/// Decision of all policies about a value that a profile claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'p> {
    /// No policy has a list.
    Unlisted,
    /// Every policy with a list lists the value.
    Allowed,
    /// This policy has a list without the value.
    Forbidden(&'p Policy),
}

/// All policies that apply to one namespace. The strictest value applies, field by field.
pub struct EffectivePolicy<'p>(Vec<&'p Policy>);

impl<'p> EffectivePolicy<'p> {
    /// Selects the policies that apply to a namespace with these labels.
    #[must_use]
    pub fn of_namespace(policies: &'p [Policy], labels: &BTreeMap<String, String>) -> Self {
        Self(policies.iter().filter(|policy| policy.namespaces.matches(labels)).collect())
    }

    /// Returns the policy that makes tokens required, if there is one.
    #[must_use]
    pub fn requires_tokens(&self) -> Option<&'p Policy> {
        self.0.iter().copied().find(|policy| policy.http_tokens == Some(HttpTokens::Required))
    }

    /// Returns the lowest maximum of the hop limit, and its policy.
    #[must_use]
    pub fn max_hop_limit(&self) -> Option<(HopLimit, &'p Policy)> {
        self.0
            .iter()
            .filter_map(|policy| policy.max_hop_limit.map(|limit| (limit, *policy)))
            .min_by_key(|(limit, _)| *limit)
    }

    /// Returns the lowest maximum of requests per second. Default: [`DEFAULT_MAX_REQUESTS_PER_SECOND`].
    #[must_use]
    pub fn max_requests_per_second(&self) -> Maximum<'p> {
        self.maximum(DEFAULT_MAX_REQUESTS_PER_SECOND, |policy| policy.max_requests_per_second)
    }

    /// Returns the lowest maximum of open connections. Default: [`DEFAULT_MAX_CONNECTIONS`].
    #[must_use]
    pub fn max_connections(&self) -> Maximum<'p> {
        self.maximum(DEFAULT_MAX_CONNECTIONS, |policy| policy.max_connections)
    }

    fn maximum(&self, default: NonZeroU32, of: impl Fn(&Policy) -> Option<NonZeroU32>) -> Maximum<'p> {
        let maxima = self.0.iter().filter_map(|policy| Some(Maximum { limit: of(policy)?, policy: Some(*policy) }));
        maxima.min_by_key(|maximum| maximum.limit).unwrap_or(Maximum { limit: default, policy: None })
    }

    /// Returns the policy that forbids a dialect, if there is one.
    #[must_use]
    pub fn forbids_dialect(&self, dialect: Dialect) -> Option<&'p Policy> {
        self.0
            .iter()
            .copied()
            .find(|policy| policy.allowed_dialects.as_ref().is_some_and(|all| !all.contains(&dialect)))
    }

    /// Returns why a role is forbidden, or `None` if it is allowed.
    #[must_use]
    pub fn role_denial(&self, role: &Role) -> Option<String> {
        let kind = role.provider.kind();
        let (mut is_provider_listed, mut is_arn_listed) = (false, false);
        for policy in &self.0 {
            if let Some(providers) = &policy.allowed_providers {
                is_provider_listed |= providers.contains(&kind);
                if !providers.contains(&kind) {
                    return Some(format!("MetadataPolicy {} does not allow the provider {kind}", policy.name));
                }
            }
            if let Some(names) = &policy.allowed_role_names
                && !names.iter().any(|glob| glob.matches(role.name.as_str()))
            {
                return Some(format!("MetadataPolicy {} does not allow the role name {}", policy.name, role.name));
            }
            if let Some(arns) = &policy.allowed_role_arns {
                is_arn_listed = true; // the checks below return if it is not
                let Some(arn) = role.provider.arn() else {
                    return Some(format!("MetadataPolicy {} allows roles with an ARN only, not {kind}", policy.name));
                };
                if !arns.iter().any(|glob| glob.matches(arn.as_str())) {
                    return Some(format!("MetadataPolicy {} does not allow the role ARN {arn}", policy.name));
                }
            }
        }
        if let Some(name) = role.provider.secret_name()
            && let Some(message) = self.forbids_secret(name)
        {
            return Some(message);
        }
        match role.provider {
            // It uses the operator's own credentials, which the cloud does not bind to the pod.
            Provider::AwsAssumeRole { .. } if !is_provider_listed => {
                Some("awsAssumeRole needs a MetadataPolicy that lists it in allowedProviders".to_owned())
            }
            Provider::AwsAssumeRole { .. } if !is_arn_listed => {
                Some("awsAssumeRole needs a MetadataPolicy that lists its ARN in allowedRoleArns".to_owned())
            }
            Provider::AwsAssumeRole { .. }
            | Provider::Secret { .. }
            | Provider::AwsWebIdentity { .. }
            | Provider::AliyunOidc { .. } => None,
        }
    }

    /// Returns true if a profile may set this external ID. It must match the list of every policy that has one. Returns false
    /// if no policy has a list.
    #[must_use]
    pub fn allows_external_id(&self, external_id: &str) -> bool {
        let claim = self.claim(|policy| {
            let listed = policy.allowed_external_ids.as_ref()?;
            Some(listed.iter().any(|glob| glob.matches(external_id)))
        });
        claim == Claim::Allowed
    }

    /// Returns the lowest maximum of the lifetime of a session, and its policy.
    #[must_use]
    pub fn max_session_duration(&self) -> Option<(SessionDuration, &'p Policy)> {
        let maxima = self.0.iter().filter_map(|policy| Some((policy.max_session_duration?, *policy)));
        maxima.min_by_key(|(duration, _)| *duration)
    }

    /// Returns why the Secret with this name is forbidden, or `None` if it is allowed. The message does not reveal that the
    /// Secret exists.
    #[must_use]
    pub fn forbids_secret(&self, name: &str) -> Option<String> {
        let forbids = |policy: &&Policy| {
            policy.allowed_secrets.as_ref().is_some_and(|globs| !globs.iter().any(|glob| glob.matches(name)))
        };
        let policy = self.0.iter().copied().find(forbids)?;
        Some(format!("MetadataPolicy {} does not allow the Secret {name}", policy.name))
    }

    /// Returns the decision about an account.
    #[must_use]
    pub fn account_claim(&self, account: &AccountId) -> Claim<'p> {
        self.claim(|policy| policy.allowed_account_ids.as_ref().map(|listed| listed.contains(account)))
    }

    /// Returns the decision about a region.
    #[must_use]
    pub fn region_claim(&self, region: &str) -> Claim<'p> {
        self.claim(|policy| {
            let listed = policy.allowed_regions.as_ref()?;
            Some(listed.iter().any(|allowed| allowed.as_str() == region))
        })
    }

    /// Returns the decision about an availability zone. A list of regions also lists their zones.
    #[must_use]
    pub fn zone_claim(&self, zone: &str) -> Claim<'p> {
        self.claim(|policy| {
            let listed = policy.allowed_regions.as_ref()?;
            Some(listed.iter().any(|region| is_zone_of(zone, region.as_str())))
        })
    }

    /// Returns the first policy with a list of regions, or `None` if no policy has one.
    #[must_use]
    pub fn lists_regions(&self) -> Option<&'p Policy> {
        self.0.iter().copied().find(|policy| policy.allowed_regions.is_some())
    }

    /// Combines the decisions of the policies. `decide` returns `None` for a policy without a list.
    fn claim(&self, decide: impl Fn(&Policy) -> Option<bool>) -> Claim<'p> {
        let mut claim = Claim::Unlisted;
        for policy in self.0.iter().copied() {
            match decide(policy) {
                None => {}
                Some(true) => claim = Claim::Allowed,
                Some(false) => return Claim::Forbidden(policy),
            }
        }
        claim
    }

    /// Returns why a mode of hostNetwork pods is forbidden, or `None` if it is allowed. `Deny` is always allowed.
    #[must_use]
    pub fn forbids_host_network(&self, mode: HostNetwork) -> Option<String> {
        if mode == HostNetwork::Deny {
            return None;
        }
        let mut listed = false;
        for policy in &self.0 {
            if let Some(modes) = &policy.allowed_host_network {
                listed |= modes.contains(&mode);
                if !modes.contains(&mode) {
                    return Some(format!("MetadataPolicy {} does not allow hostNetwork {mode:?}", policy.name));
                }
            }
        }
        (mode == HostNetwork::Node && !listed)
            .then(|| "hostNetwork Node needs a MetadataPolicy that lists it in allowedHostNetwork".to_owned())
    }

    /// Returns the treatment of pods that no profile matches: `Facts` if a policy has it and no policy has `Deny`.
    #[must_use]
    pub fn without_profile(&self) -> UnmatchedPods {
        self.0.iter().filter_map(|policy| policy.without_profile).min().unwrap_or(UnmatchedPods::Deny)
    }

    /// Returns the treatment of static pods: `Facts` if a policy has it and no policy has `Deny`.
    #[must_use]
    pub fn static_pods(&self) -> StaticPods {
        self.0.iter().filter_map(|policy| policy.static_pods).min().unwrap_or(StaticPods::Deny)
    }
}

/// Returns true if the name of a zone is the name of the region, with or without a suffix: `us-east-1b`, `us-west-2-lax-1a`.
/// The suffix cannot start with a digit, so `us-east-10a` is not in `us-east-1`.
#[must_use]
pub fn is_zone_of(zone: &str, region: &str) -> bool {
    zone.strip_prefix(region).is_some_and(|suffix| !suffix.starts_with(|c: char| c.is_ascii_digit()))
}
