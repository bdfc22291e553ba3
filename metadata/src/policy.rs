//! What an administrator holds every profile to: `MetadataPolicy` after it was validated, and the sum of several.

use crate::dialect::Dialect;
use crate::names::{check_text, text_type};
use crate::options::{HopLimit, HttpTokens};
use crate::profile::HostNetwork;
use crate::role::{Provider, ProviderKind, Role};
use crate::selector::Selector;
use std::collections::BTreeSet;

/// A validated policy. What is absent is left to profiles and to other policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The namespaces it holds for, by label.
    pub namespaces: Selector,
    /// `Required` makes tokens required.
    pub http_tokens: Option<HttpTokens>,
    /// The highest hop limit.
    pub max_hop_limit: Option<HopLimit>,
    /// The dialects that may be used.
    pub allowed_dialects: Option<BTreeSet<Dialect>>,
    /// The providers that may be used.
    pub allowed_providers: Option<BTreeSet<ProviderKind>>,
    /// The names that roles may have.
    pub allowed_role_names: Option<Vec<Glob>>,
    /// The ARNs that may be assumed.
    pub allowed_role_arns: Option<Vec<Glob>>,
    /// The modes that hostNetwork pods may have.
    pub allowed_host_network: Option<BTreeSet<HostNetwork>>,
    /// What a pod without a profile gets.
    pub without_profile: Option<UnmatchedPods>,
}

impl Policy {
    /// The policy that forbids everything that a policy can, everywhere.
    #[must_use]
    pub fn strictest(name: String) -> Self {
        Self {
            name,
            namespaces: Selector::default(),
            http_tokens: Some(HttpTokens::Required),
            max_hop_limit: Some(HopLimit::ONE),
            allowed_dialects: None, // what is left is facts, which every pod may know of itself
            allowed_providers: Some(BTreeSet::new()),
            allowed_role_names: Some(Vec::new()),
            allowed_role_arns: Some(Vec::new()),
            allowed_host_network: Some(BTreeSet::from([HostNetwork::Deny])),
            without_profile: Some(UnmatchedPods::Deny),
        }
    }
}

/// What a pod without a profile gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnmatchedPods {
    /// 403 on every path.
    Deny,
    /// The tree of its own facts, tokens required, no role.
    Facts,
}

text_type!(
    /// A pattern for a whole text: `*` stands for any run of characters, `?` for one; all else stands for itself.
    /// It is anchored at both ends.
    Glob,
    |text| check_text(text, 1..=2048, |c| c.is_ascii_graphic(), "visible ASCII characters")
);

impl Glob {
    /// Whether the whole of `text` fits the pattern.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut text) = (self.as_str(), text);
        // Where the last star stood, and the text that it has not swallowed yet.
        let mut retry: Option<(&str, &str)> = None;
        loop {
            let (mut rest, mut text_rest) = (pattern.chars(), text.chars());
            match (rest.next(), text_rest.next()) {
                (Some('*'), _) => {
                    retry = Some((rest.as_str(), text));
                    pattern = rest.as_str();
                }
                (None, None) => return true,
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    (pattern, text) = (rest.as_str(), text_rest.as_str());
                }
                (Some(_), _) | (None, Some(_)) => {
                    let Some((after_star, swallowed)) = retry else { return false };
                    let mut longer = swallowed.chars();
                    if longer.next().is_none() {
                        return false;
                    }
                    retry = Some((after_star, longer.as_str()));
                    (pattern, text) = (after_star, longer.as_str());
                }
            }
        }
    }
}

/// All policies that hold for one namespace, together: the strictest wins field by field.
pub struct EffectivePolicy<'p>(Vec<&'p Policy>);

impl<'p> EffectivePolicy<'p> {
    /// Those of `policies` that hold for a namespace with these labels.
    #[must_use]
    pub fn of_namespace(policies: &'p [Policy], labels: &std::collections::BTreeMap<String, String>) -> Self {
        Self(policies.iter().filter(|policy| policy.namespaces.matches(labels)).collect())
    }

    /// The policy that makes tokens required, if one does.
    #[must_use]
    pub fn requires_tokens(&self) -> Option<&'p Policy> {
        self.0.iter().copied().find(|policy| policy.http_tokens == Some(HttpTokens::Required))
    }

    /// The lowest of the highest hop limits, and the policy that sets it.
    #[must_use]
    pub fn max_hop_limit(&self) -> Option<(HopLimit, &'p Policy)> {
        self.0
            .iter()
            .filter_map(|policy| policy.max_hop_limit.map(|limit| (limit, *policy)))
            .min_by_key(|(limit, _)| *limit)
    }

    /// The policy that forbids a dialect, if one does.
    #[must_use]
    pub fn forbids_dialect(&self, dialect: Dialect) -> Option<&'p Policy> {
        self.0
            .iter()
            .copied()
            .find(|policy| policy.allowed_dialects.as_ref().is_some_and(|all| !all.contains(&dialect)))
    }

    /// Why a role may not be served, if it may not.
    #[must_use]
    pub fn forbids_role(&self, role: &Role) -> Option<String> {
        let kind = role.provider.kind();
        let mut named = false;
        for policy in &self.0 {
            if let Some(providers) = &policy.allowed_providers {
                named |= providers.contains(&kind);
                if !providers.contains(&kind) {
                    return Some(format!("MetadataPolicy {} does not allow the provider {kind}", policy.name));
                }
            }
            if let Some(names) = &policy.allowed_role_names
                && !names.iter().any(|glob| glob.matches(role.name.as_str()))
            {
                return Some(format!("MetadataPolicy {} does not allow the role name {}", policy.name, role.name));
            }
            if let (Some(arns), Some(arn)) = (&policy.allowed_role_arns, role.provider.arn())
                && !arns.iter().any(|glob| glob.matches(arn.as_str()))
            {
                return Some(format!("MetadataPolicy {} does not allow the role ARN {arn}", policy.name));
            }
        }
        match role.provider {
            // It uses the operator's own power, which nothing in the cloud ties to the pod.
            Provider::AwsAssumeRole { .. } if !named => {
                Some("awsAssumeRole needs a MetadataPolicy that lists it in allowedProviders".to_owned())
            }
            Provider::AwsAssumeRole { .. }
            | Provider::Secret { .. }
            | Provider::AwsWebIdentity { .. }
            | Provider::AliyunOidc { .. } => None,
        }
    }

    /// Why a hostNetwork pod may not have a mode, if it may not. `Deny` is always allowed.
    #[must_use]
    pub fn forbids_host_network(&self, mode: HostNetwork) -> Option<String> {
        if mode == HostNetwork::Deny {
            return None;
        }
        let mut named = false;
        for policy in &self.0 {
            if let Some(modes) = &policy.allowed_host_network {
                named |= modes.contains(&mode);
                if !modes.contains(&mode) {
                    return Some(format!("MetadataPolicy {} does not allow hostNetwork {mode:?}", policy.name));
                }
            }
        }
        (mode == HostNetwork::Node && !named)
            .then(|| "hostNetwork Node needs a MetadataPolicy that lists it in allowedHostNetwork".to_owned())
    }

    /// What a pod without a profile gets: `Deny`, unless a policy says `Facts` and none says `Deny`.
    #[must_use]
    pub fn without_profile(&self) -> UnmatchedPods {
        self.0.iter().filter_map(|policy| policy.without_profile).min().unwrap_or(UnmatchedPods::Deny)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::names::{RoleArn, RoleName};
    use crate::role::SessionDuration;

    fn glob(pattern: &str) -> Glob {
        Glob::try_from(pattern).unwrap()
    }

    fn assume_role(arn: &str) -> Role {
        Role {
            name: RoleName::try_from("web").unwrap(),
            provider: Provider::AwsAssumeRole {
                role_arn: RoleArn::try_from(arn).unwrap(),
                external_id: None,
                duration: SessionDuration::HOUR,
            },
        }
    }

    #[test]
    fn a_glob_is_anchored_at_both_ends() {
        for (pattern, text, fits) in [
            ("team-*", "team-a", true),
            ("team-*", "my-team-a", false),
            ("*-ro", "a-ro", true),
            ("*-ro", "a-ro-admin", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "a", true),
            ("?", "", false),
            ("*", "", true),
            ("a|b", "a", false),
            ("a.c", "abc", false),
            ("arn:aws:iam::123456789012:role/team/*", "arn:aws:iam::123456789012:role/admin", false),
        ] {
            assert_eq!(glob(pattern).matches(text), fits, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_strictest_policy_wins_field_by_field() {
        let hops = |limit| Policy { max_hop_limit: Some(HopLimit::try_from(limit).unwrap()), ..Policy::default() };
        let policies = [hops(4), hops(2), Policy { http_tokens: Some(HttpTokens::Required), ..hops(3) }];
        let rules = EffectivePolicy::of_namespace(&policies, &BTreeMap::new());
        assert_eq!(rules.max_hop_limit().unwrap().0.get(), 2);
        assert!(rules.requires_tokens().is_some());
    }

    #[test]
    fn the_operators_own_power_must_be_allowed_by_name() {
        let role = assume_role("arn:aws:iam::123456789012:role/web");
        let forbids = |policies: &[Policy]| {
            EffectivePolicy::of_namespace(policies, &BTreeMap::new()).forbids_role(&role).is_some()
        };
        let listing = |kinds: &[ProviderKind]| Policy {
            allowed_providers: Some(kinds.iter().copied().collect()),
            ..Policy::default()
        };
        assert!(forbids(&[]));
        assert!(forbids(&[Policy::default()]));
        assert!(!forbids(&[listing(&[ProviderKind::AwsAssumeRole])]));
        assert!(forbids(&[listing(&[ProviderKind::AwsAssumeRole]), listing(&[ProviderKind::Secret])]));
    }

    #[test]
    fn a_role_must_fit_a_glob_of_every_policy() {
        let role = assume_role("arn:aws:iam::123456789012:role/web");
        let with = |names: &[&str], arns: &[&str]| Policy {
            allowed_providers: Some([ProviderKind::AwsAssumeRole].into()),
            allowed_role_names: Some(names.iter().map(|name| glob(name)).collect()),
            allowed_role_arns: Some(arns.iter().map(|arn| glob(arn)).collect()),
            ..Policy::default()
        };
        let forbids = |policies: &[Policy]| {
            EffectivePolicy::of_namespace(policies, &BTreeMap::new()).forbids_role(&role).is_some()
        };
        assert!(!forbids(&[with(&["w*"], &["arn:aws:iam::123456789012:role/*"])]));
        assert!(forbids(&[with(&["w*"], &["arn:aws:iam::999999999999:role/*"])]));
        assert!(forbids(&[with(&["w*"], &["*"]), with(&["x*"], &["*"])]));
    }

    #[test]
    fn the_node_s_identity_must_be_allowed_by_name() {
        let forbids = |policies: &[Policy], mode| {
            EffectivePolicy::of_namespace(policies, &BTreeMap::new()).forbids_host_network(mode)
        };
        let allow = Policy { allowed_host_network: Some([HostNetwork::Node].into()), ..Policy::default() };
        assert!(forbids(&[], HostNetwork::Node).is_some());
        assert!(forbids(&[], HostNetwork::Pod).is_none());
        assert!(forbids(std::slice::from_ref(&allow), HostNetwork::Node).is_none());
        assert!(forbids(&[allow], HostNetwork::Pod).is_some());
    }

    #[test]
    fn a_pod_without_a_profile_gets_nothing_unless_every_policy_that_speaks_says_facts() {
        let says = |what| Policy { without_profile: Some(what), ..Policy::default() };
        let sum = |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).without_profile();
        assert_eq!(sum(&[]), UnmatchedPods::Deny);
        assert_eq!(sum(&[says(UnmatchedPods::Facts), Policy::default()]), UnmatchedPods::Facts);
        assert_eq!(sum(&[says(UnmatchedPods::Facts), says(UnmatchedPods::Deny)]), UnmatchedPods::Deny);
    }
}
