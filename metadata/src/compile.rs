//! Compiles one pod's facts with the profiles and policies that hold for it into the workload that it is served, and
//! says what stood in the way. Knows nothing of addresses, requests or time.

mod instance;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cel::Scope;
use crate::compile::instance::{field_value, instance, part};
use crate::dialect::{Dialect, ec2, ecs};
use crate::facts::Facts;
use crate::finding::{Finding, FindingReason};
use crate::item::{ItemSource, ItemText};
use crate::names::InvalidValue;
use crate::options::{HttpEndpoint, HttpTokens, InstanceMetadataTags, Limits, MetadataOptions, Users};
use crate::policy::{Policy, Rules, WithoutProfile};
use crate::profile::{HostNetwork, InstanceSpec, KeyRef, MAX_USER_DATA_BYTES, Profile, UserDataSource};
use crate::role::Role;
use crate::tag;
use crate::workload::{ItemValue, PodRef, UserData, Workload};

/// How many bytes all items of one dialect may hold for a pod.
const MAX_ITEMS_BYTES: usize = 32 * 1024;

/// Values of ConfigMaps in the pod's namespace, by object and key.
pub type Sources = BTreeMap<KeyRef, Bytes>;

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The domain of the cluster's names, such as `cluster.local`.
    pub cluster_domain: String,
    /// The region of nodes without a region label.
    pub region: Option<String>,
    /// The account of pods whose role and profile name none.
    pub account: Option<crate::names::AccountId>,
    /// The domain of host names that are made of an address, in place of the cloud's own.
    pub hostname_suffix: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster_domain: "cluster.local".to_owned(), region: None, account: None, hostname_suffix: None }
    }
}

/// The outcome for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What it is served.
    pub outcome: Outcome,
    /// What its profiles should know.
    pub findings: Vec<Finding>,
}

/// Whether a pod is served at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// It is.
    Served(Box<Workload>),
    /// It gets 403 on every path.
    Denied(Denied),
    /// It is a hostNetwork pod that a policy and its profile leave to the node's own metadata service.
    Node(PodRef),
}

/// A pod that is refused whatever it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The pod.
    pub pod: PodRef,
    /// Why, for whoever runs it.
    pub why: String,
}

/// Compiles one pod. `profiles` may hold those of other namespaces; they do not match.
#[must_use]
pub fn compile(
    facts: &Facts,
    profiles: &[Profile],
    policies: &[Policy],
    sources: &Sources,
    settings: &Settings,
) -> Compiled {
    let rules = Rules::holding(policies, &facts.namespace.metadata.labels);
    let mut findings = Vec::new();
    let Some(profile) = choose(facts, profiles, &mut findings) else {
        return Compiled { outcome: without_profile(facts, &rules, settings), findings };
    };
    let outcome = Compiling { facts, profile, rules, sources, settings, findings: &mut findings }.run();
    Compiled { outcome, findings }
}

/// The profile that wins: the highest priority, then the oldest, then the first by name.
fn choose<'p>(facts: &Facts, profiles: &'p [Profile], findings: &mut Vec<Finding>) -> Option<&'p Profile> {
    let mut matching = profiles.iter().filter(|profile| profile.matches(&facts.pod)).collect::<Vec<_>>();
    matching.sort_by(|a, b| {
        b.priority.cmp(&a.priority).then(a.created.cmp(&b.created)).then(a.object.name.cmp(&b.object.name))
    });
    let winner = *matching.first()?;
    for loser in matching.iter().skip(1).filter(|loser| loser.priority == winner.priority) {
        findings.push(Finding {
            profile: Some(loser.object.clone()),
            field: "spec.priority".to_owned(),
            reason: FindingReason::Conflicted,
            message: format!(
                "pod {} is matched by MetadataProfile {} too, at the same priority, which wins: it is older or first by name",
                facts.pod.metadata.name, winner.object.name
            ),
        });
    }
    Some(winner)
}

fn pod_ref(facts: &Facts) -> PodRef {
    let metadata = &facts.pod.metadata;
    PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid: metadata.uid.clone() }
}

fn without_profile(facts: &Facts, rules: &Rules<'_>, settings: &Settings) -> Outcome {
    let denied = |why: &str| Outcome::Denied(Denied { pod: pod_ref(facts), why: why.to_owned() });
    if facts.pod.spec.host_network {
        return denied("no MetadataProfile matches this hostNetwork pod");
    }
    match rules.without_profile() {
        WithoutProfile::Deny => denied("no MetadataProfile matches it"),
        WithoutProfile::Facts => {
            let part =
                |dialect| rules.forbids_dialect(dialect).is_none().then(|| part(facts, None, dialect, None, settings));
            Outcome::Served(Box::new(Workload {
                pod: pod_ref(facts),
                profile: None,
                options: MetadataOptions::default(),
                limits: Limits::default(),
                users: Users::default(),
                instance: instance(facts, &InstanceSpec::default(), settings),
                ec2: part(Dialect::Ec2),
                ecs: part(Dialect::Ecs),
            }))
        }
    }
}

/// One pod with the profile that won.
struct Compiling<'a> {
    facts: &'a Facts,
    profile: &'a Profile,
    rules: Rules<'a>,
    sources: &'a Sources,
    settings: &'a Settings,
    findings: &'a mut Vec<Finding>,
}

impl Compiling<'_> {
    fn find(&mut self, field: impl Into<String>, reason: FindingReason, message: impl Into<String>) {
        self.findings.push(Finding {
            profile: Some(self.profile.object.clone()),
            field: field.into(),
            reason,
            message: message.into(),
        });
    }

    fn run(mut self) -> Outcome {
        if self.facts.pod.spec.host_network {
            match self.host_network() {
                HostNetwork::Deny => {
                    let why = "hostNetwork pods get nothing: spec.hostNetwork of its profile is Deny, or a policy forbids more";
                    return Outcome::Denied(Denied { pod: pod_ref(self.facts), why: why.to_owned() });
                }
                HostNetwork::Node => return Outcome::Node(pod_ref(self.facts)),
                HostNetwork::Pod => {}
            }
        }
        let roles = self.roles();
        let mut workload = Workload {
            pod: pod_ref(self.facts),
            profile: Some(self.profile.object.clone()),
            options: self.options(),
            limits: self.profile.limits,
            users: self.profile.users.clone(),
            instance: instance(self.facts, &self.profile.instance, self.settings),
            ec2: None,
            ecs: None,
        };
        workload.instance.public_keys.clone_from(&self.profile.public_keys);
        workload.instance.user_data = self.user_data();
        for dialect in self.dialects() {
            let role = roles.get(&dialect).cloned();
            let mut part = part(self.facts, Some(self.profile), dialect, role, self.settings);
            part.tags = self.tags(dialect, workload.options.instance_metadata_tags);
            part.items = self.items(dialect);
            match dialect {
                Dialect::Ec2 => workload.ec2 = Some(part),
                Dialect::Ecs => workload.ecs = Some(part),
            }
            self.drop_misplaced_items(&mut workload, dialect);
        }
        Outcome::Served(Box::new(workload))
    }

    fn host_network(&mut self) -> HostNetwork {
        let mode = self.profile.host_network;
        match self.rules.forbids_host_network(mode) {
            Some(why) => {
                self.find("spec.hostNetwork", FindingReason::PolicyForbids, why);
                HostNetwork::Deny
            }
            None => mode,
        }
    }

    /// The profile's options, tightened by policies.
    fn options(&mut self) -> MetadataOptions {
        let mut options = self.profile.options;
        let enabled = options.http_endpoint == HttpEndpoint::Enabled;
        if options.http_tokens == HttpTokens::Optional
            && let Some(policy) = self.rules.requires_tokens()
        {
            let message = format!("MetadataPolicy {} requires tokens", policy.name);
            options.http_tokens = HttpTokens::Required;
            if enabled {
                self.find("spec.metadataOptions.httpTokens", FindingReason::PolicyTightened, message);
            }
        }
        if let Some((limit, policy)) = self.rules.max_hop_limit()
            && limit < options.http_put_response_hop_limit
        {
            let message = format!("MetadataPolicy {} allows {} at most", policy.name, limit.get());
            options.http_put_response_hop_limit = limit;
            if enabled {
                self.find("spec.metadataOptions.httpPutResponseHopLimit", FindingReason::PolicyTightened, message);
            }
        }
        options
    }

    fn dialects(&mut self) -> Vec<Dialect> {
        let mut allowed = Vec::new();
        for dialect in &self.profile.dialects {
            match self.rules.forbids_dialect(*dialect) {
                Some(policy) => {
                    let message = format!("MetadataPolicy {} does not allow {dialect}", policy.name);
                    self.find("spec.dialects", FindingReason::PolicyForbids, message);
                }
                None => allowed.push(*dialect),
            }
        }
        allowed
    }

    fn roles(&mut self) -> BTreeMap<Dialect, Role> {
        let mut allowed = BTreeMap::new();
        for (dialect, role) in &self.profile.roles {
            match self.rules.forbids_role(role) {
                Some(why) => {
                    self.find("spec.roles", FindingReason::PolicyForbids, format!("role {}: {why}", role.name))
                }
                None => {
                    allowed.insert(*dialect, role.clone());
                }
            }
        }
        allowed
    }

    fn user_data(&mut self) -> Option<UserData> {
        match self.profile.user_data.as_ref()? {
            UserDataSource::Inline(bytes) => Some(UserData::Bytes(bytes.clone())), // shared by all pods of the profile
            UserDataSource::Secret(key) => Some(UserData::Secret(key.clone())),
            UserDataSource::ConfigMap(key) => match self.sources.get(key) {
                Some(data) if data.len() <= MAX_USER_DATA_BYTES => Some(UserData::Bytes(data.clone())),
                Some(data) => {
                    let message = format!(
                        "ConfigMap {} key {}: must be at most {MAX_USER_DATA_BYTES} bytes long, not {}",
                        key.name,
                        key.key,
                        data.len()
                    );
                    self.find("spec.userData.configMapKeyRef", FindingReason::UserDataUnavailable, message);
                    None
                }
                None => {
                    let message = format!("ConfigMap {} or its key {} does not exist", key.name, key.key);
                    self.find("spec.userData.configMapKeyRef", FindingReason::UserDataUnavailable, message);
                    None
                }
            },
        }
    }

    /// Labels that were selected and whose key the dialect allows, then static tags, which win.
    fn tags(&mut self, dialect: Dialect, shown: InstanceMetadataTags) -> Vec<(String, String)> {
        if shown == InstanceMetadataTags::Disabled {
            return Vec::new();
        }
        let selected = |key: &str| self.profile.tag_labels.iter().any(|pattern| pattern.matches(key));
        let mut tags = BTreeMap::new();
        let mut dropped = Vec::new();
        for (key, value) in self.facts.pod.metadata.labels.iter().filter(|(key, _)| selected(key)) {
            match tag::check_key(dialect, key) {
                Ok(()) => {
                    tags.insert(key.clone(), value.clone());
                }
                Err(_) => dropped.push(key.as_str()),
            }
        }
        if !dropped.is_empty() {
            let message = format!("{dialect} allows no tag with the key of these labels: {}", dropped.join(", "));
            self.find("spec.tags.labels", FindingReason::TagDropped, message);
        }
        tags.extend(self.profile.static_tags.iter().map(|tag| (tag.key.clone(), tag.value.to_string())));
        tags.into_iter().collect()
    }

    fn items(&mut self, dialect: Dialect) -> Vec<(crate::item::ItemPath, ItemValue)> {
        let mut items = Vec::new();
        let mut scope = None;
        let mut left = MAX_ITEMS_BYTES;
        for (index, item) in self.profile.items.iter().enumerate().filter(|(_, item)| item.dialect == dialect) {
            let value = match &item.source {
                ItemSource::Value(text) => Ok(Some(ItemValue::Text(text.clone()))),
                ItemSource::Field(field) => field_value(self.facts, field),
                ItemSource::Expression(expression) => {
                    scope.get_or_insert_with(|| Scope::new(self.facts)).as_ref().map_err(Clone::clone).and_then(
                        |scope| match expression.evaluate(scope)? {
                            Some(text) => ItemText::try_from(text).map(|text| Some(ItemValue::Text(text))),
                            None => Ok(None),
                        },
                    )
                }
            };
            match value.and_then(|value| fits(value, &mut left)) {
                Ok(Some(value)) => items.push((item.path.clone(), value)),
                Ok(None) => {}
                Err(InvalidValue(why)) => {
                    let message =
                        format!("item {} is left out for pod {}: {why}", item.path, self.facts.pod.metadata.name);
                    self.find(format!("spec.metadata[{index}]"), FindingReason::ItemUnavailable, message);
                }
            }
        }
        items
    }

    /// Leaves out items whose name is a directory of the tree, or that lie below one of its leaves.
    fn drop_misplaced_items(&mut self, workload: &mut Workload, dialect: Dialect) {
        let misplaced = match dialect {
            Dialect::Ec2 => ec2::tree::misplaced_items(workload),
            Dialect::Ecs => ecs::tree::misplaced_items(workload),
        };
        for path in &misplaced {
            let message =
                format!("item {path} would be both a leaf and a directory of the {dialect} tree; it is left out");
            let place = self.profile.items.iter().position(|item| item.dialect == dialect && item.path == *path);
            self.find(
                format!("spec.metadata[{}].path", place.unwrap_or_default()),
                FindingReason::ItemMisplaced,
                message,
            );
        }
        if let Some(part) = workload.part_mut(dialect) {
            part.items.retain(|(path, _)| !misplaced.contains(path));
        }
    }
}

/// The value, if there is room for it. Every pod of a node is held in its agent's memory, whoever wrote its profile.
fn fits(value: Option<ItemValue>, left: &mut usize) -> Result<Option<ItemValue>, InvalidValue> {
    let size = match &value {
        Some(ItemValue::Text(text)) => text.as_str().len(),
        Some(ItemValue::PodIp | ItemValue::PodIps) | None => 0,
    };
    *left = left
        .checked_sub(size)
        .ok_or_else(|| InvalidValue(format!("the items of a dialect may hold {MAX_ITEMS_BYTES} bytes together")))?;
    Ok(value)
}

#[cfg(test)]
mod tests;
