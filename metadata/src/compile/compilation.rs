//! The compilation of one pod with the profile that was selected for it.

use std::collections::BTreeMap;

use crate::cel::Scope;
use crate::compile::instance::{instance, part};
use crate::compile::{ConfigMapValues, DenialReason, Denied, Outcome, Settings, limits, pod_ref};
use crate::dialect::Dialect;
use crate::facts::Facts;
use crate::finding::{Finding, FindingReason};
use crate::names::InvalidValue;
use crate::options::{HttpEndpoint, HttpTokens, Limits, MetadataOptions};
use crate::policy::{Claim, EffectivePolicy};
use crate::profile::{HostNetwork, InstanceSpec, Profile};
use crate::role::{Provider, Role};
use crate::user_data::{self, UserDataSource};
use crate::workload::{IdentityDocuments, UserData, Workload};

/// One pod and its profile, in compilation.
pub(super) struct Compilation<'a> {
    pub(super) facts: &'a Facts,
    pub(super) profile: &'a Profile,
    pub(super) rules: EffectivePolicy<'a>,
    pub(super) config_map_values: &'a ConfigMapValues,
    pub(super) settings: &'a Settings,
    pub(super) findings: &'a mut Vec<Finding>,
    /// The variables of expressions. Created for the first expression.
    pub(super) scope: Option<Result<Scope, InvalidValue>>,
}

impl Compilation<'_> {
    /// Records a finding about the profile.
    pub(super) fn report(&mut self, field: impl Into<String>, reason: FindingReason, message: impl Into<String>) {
        self.findings.push(Finding {
            profile: Some(self.profile.object.clone()),
            field: field.into(),
            reason,
            message: message.into(),
        });
    }

    /// Compiles the pod. Parts of the profile that a policy forbids or that are not available are left out and reported.
    pub(super) fn run(mut self) -> Outcome {
        if self.facts.pod.spec.host_network {
            match self.host_network() {
                Ok(HostNetwork::Pod) => {}
                Ok(HostNetwork::Node) => return Outcome::Node(pod_ref(self.facts)),
                Ok(HostNetwork::Deny) => {
                    return self
                        .denied("spec.hostNetwork of its profile is Deny, so this hostNetwork pod gets nothing");
                }
                Err(message) => return self.denied(&message),
            }
        }
        let roles = self.roles();
        let spec = self.instance_spec();
        let mut workload = Workload {
            pod: pod_ref(self.facts),
            profile: Some(self.profile.object.clone()),
            options: self.options(),
            limits: self.limits(),
            users: self.profile.users.clone(),
            documents: IdentityDocuments::Signed,
            instance: instance(self.facts, &spec, &self.rules, self.settings),
            dialects: BTreeMap::new(),
        };
        workload.instance.public_keys.clone_from(&self.profile.public_keys);
        workload.instance.user_data = self.user_data();
        for dialect in self.dialects() {
            let role = roles.get(&dialect).cloned();
            let mut part = part(self.facts, &spec, dialect, role, &self.rules, self.settings);
            part.tags = self.tags(dialect, workload.options.instance_metadata_tags);
            part.items = self.items(dialect);
            self.drop_misplaced_items(&workload, dialect, &mut part);
            workload.dialects.insert(dialect, part);
        }
        Outcome::Served(Box::new(workload))
    }

    fn denied(&self, message: &str) -> Outcome {
        let reason = DenialReason::of_profile(self.profile.object.clone(), message);
        Outcome::Denied(Denied { pod: pod_ref(self.facts), reason })
    }

    /// Returns the profile's mode, or the message of the policy that forbids it.
    fn host_network(&mut self) -> Result<HostNetwork, String> {
        let mode = self.profile.host_network;
        match self.rules.forbids_host_network(mode) {
            Some(message) => {
                self.report("spec.hostNetwork", FindingReason::PolicyForbids, message.clone());
                Err(message)
            }
            None => Ok(mode),
        }
    }

    /// Returns the profile's options as tightened by policies.
    fn options(&mut self) -> MetadataOptions {
        let mut options = self.profile.options;
        let enabled = options.http_endpoint == HttpEndpoint::Enabled;
        if options.http_tokens == HttpTokens::Optional
            && let Some(policy) = self.rules.requires_tokens()
        {
            let message = format!("MetadataPolicy {} requires tokens", policy.name);
            options.http_tokens = HttpTokens::Required;
            if enabled {
                self.report("spec.metadataOptions.httpTokens", FindingReason::PolicyTightened, message);
            }
        }
        if let Some((limit, policy)) = self.rules.max_hop_limit()
            && limit < options.http_put_response_hop_limit
        {
            let message = format!("MetadataPolicy {} allows {} at most", policy.name, limit.get());
            options.http_put_response_hop_limit = limit;
            if enabled {
                self.report("spec.metadataOptions.httpPutResponseHopLimit", FindingReason::PolicyTightened, message);
            }
        }
        options
    }

    /// Returns the profile's limits, reduced to the maxima of the policies.
    fn limits(&mut self) -> Limits {
        let (limits, reduced) = limits::reduce(self.profile.limits, &self.rules);
        for limit in reduced {
            self.report(limit.field, FindingReason::PolicyTightened, limit.message);
        }
        limits
    }

    fn dialects(&mut self) -> Vec<Dialect> {
        let mut allowed = Vec::new();
        for dialect in &self.profile.dialects {
            match self.rules.forbids_dialect(*dialect) {
                Some(policy) => {
                    let message = format!("MetadataPolicy {} does not allow {dialect}", policy.name);
                    self.report("spec.dialects", FindingReason::PolicyForbids, message);
                }
                None => allowed.push(*dialect),
            }
        }
        allowed
    }

    fn roles(&mut self) -> BTreeMap<Dialect, Role> {
        let mut allowed = BTreeMap::new();
        for (dialect, role) in &self.profile.roles {
            match self.rules.role_denial(role) {
                Some(message) => {
                    let message = format!("role {}: {message}", role.name);
                    self.report("spec.roles", FindingReason::PolicyForbids, message);
                }
                None if role.provider.needs_service_account() && self.facts.pod.spec.service_account_name.is_none() => {
                    let pod = &self.facts.pod.metadata.name;
                    let message =
                        format!("role {} is left out for pod {pod}: the pod has no ServiceAccount", role.name);
                    self.report("spec.roles", FindingReason::RoleUnavailable, message);
                }
                None => {
                    let role = self.restrict_session(role.clone());
                    allowed.insert(*dialect, role);
                }
            }
        }
        allowed
    }

    /// Reduces the lifetime of a role's sessions to the maximum of the policies, and marks an external ID that they allow.
    fn restrict_session(&mut self, mut role: Role) -> Role {
        if let Provider::AwsAssumeRole { external_id, is_external_id_allowed, .. } = &mut role.provider {
            *is_external_id_allowed = external_id.as_ref().is_some_and(|id| self.rules.allows_external_id(id.as_str()));
        }
        if let Some((maximum, policy)) = self.rules.max_session_duration()
            && let Some(duration) = role.provider.duration_mut()
            && maximum < *duration
        {
            *duration = maximum;
            let (policy, seconds) = (&policy.name, maximum.seconds());
            let message = format!(
                "role {}: durationSeconds is reduced to {seconds}, the maximum of MetadataPolicy {policy}",
                role.name
            );
            self.report("spec.roles", FindingReason::PolicyTightened, message);
        }
        role
    }

    /// Returns the profile's properties of the instance without an account, region or zone that a policy forbids.
    fn instance_spec(&mut self) -> InstanceSpec {
        let mut spec = self.profile.instance.clone();
        if let Some(account) = &spec.account_id
            && let Claim::Forbidden(policy) = self.rules.account_claim(account)
        {
            let message = format!("MetadataPolicy {} does not allow the account {account}", policy.name);
            self.report("spec.instance.accountId", FindingReason::PolicyForbids, message);
            spec.account_id = None;
        }
        if let Some(region) = &spec.region
            && let Claim::Forbidden(policy) = self.rules.region_claim(region.as_str())
        {
            let message = format!("MetadataPolicy {} does not allow the region {region}", policy.name);
            self.report("spec.instance.region", FindingReason::PolicyForbids, message);
            spec.region = None;
        }
        if let Some(zone) = &spec.availability_zone
            && let Claim::Forbidden(policy) = self.rules.zone_claim(zone.as_str())
        {
            let message = format!("MetadataPolicy {} does not allow the region of the zone {zone}", policy.name);
            self.report("spec.instance.availabilityZone", FindingReason::PolicyForbids, message);
            (spec.availability_zone, spec.availability_zone_id) = (None, None);
        }
        // A zone ID does not contain the name of its region. With a zone, the zone was checked above.
        if spec.availability_zone_id.is_some()
            && spec.availability_zone.is_none()
            && let Some(policy) = self.rules.lists_regions()
        {
            let message = format!(
                "MetadataPolicy {} lists regions, so availabilityZoneId needs an availabilityZone",
                policy.name
            );
            self.report("spec.instance.availabilityZoneId", FindingReason::PolicyForbids, message);
            spec.availability_zone_id = None;
        }
        spec
    }

    fn user_data(&mut self) -> Option<UserData> {
        let key = match self.profile.user_data.as_ref()? {
            UserDataSource::Inline(bytes) => return Some(UserData::Bytes(bytes.clone())), // cheap: shared bytes
            UserDataSource::Secret(key) => {
                let Some(message) = self.rules.forbids_secret(&key.name) else {
                    return Some(UserData::Secret(key.clone()));
                };
                self.report("spec.userData.secretKeyRef", FindingReason::PolicyForbids, message);
                return None;
            }
            UserDataSource::ConfigMap(key) => key,
        };
        match user_data::from_config_map(key, self.config_map_values.get(key)) {
            Ok(bytes) => Some(UserData::Bytes(bytes)),
            Err(message) => {
                self.report("spec.userData.configMapKeyRef", FindingReason::UserDataUnavailable, message);
                None
            }
        }
    }
}
