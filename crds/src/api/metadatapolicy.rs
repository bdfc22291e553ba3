//! `MetadataPolicy`: an administrator's restrictions on the profiles of many namespaces.

#![allow(clippy::duplicated_attributes, reason = "printer columns share types and priorities")]

use kube::CustomResource;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::options::HttpTokens;
use podmeta_metadata::policy::{StaticPods, UnmatchedPods};
use podmeta_metadata::profile::HostNetwork;
use podmeta_metadata::role::ProviderKind;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::dialect_rules::{self, DIALECT_COUNT};
use super::label_selector::LabelSelector;
use super::metadataprofile::{MAX_CONNECTIONS, MAX_REQUESTS_PER_SECOND};
use super::schema;

/// Maximum number of patterns, accounts or regions in a list.
pub(crate) const MAX_LIST_ENTRIES: usize = 64;

/// Desired state of a MetadataPolicy. An absent field has the effect that its description names as the default.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podmeta.dev",
    version = "v1alpha1",
    kind = "MetadataPolicy",
    plural = "metadatapolicies",
    shortname = "mdpol",
    category = "podmeta",
    derive = "PartialEq",
    doc = "MetadataPolicy restricts the MetadataProfiles of the namespaces that it selects. If several policies apply, the strictest value of each field applies. A policy takes effect for requests that reach a podmeta node agent.",
    printcolumn(
        name = "Tokens",
        type_ = "string",
        json_path = ".spec.httpTokens",
        description = "Value of spec.httpTokens."
    ),
    printcolumn(
        name = "Hops",
        type_ = "integer",
        json_path = ".spec.maxHopLimit",
        description = "Value of spec.maxHopLimit."
    ),
    printcolumn(
        name = "Without Profile",
        type_ = "string",
        json_path = ".spec.withoutProfile",
        description = "Value of spec.withoutProfile."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Dialects",
        type_ = "string",
        json_path = ".spec.allowedDialects",
        description = "Value of spec.allowedDialects.",
        priority = 1
    ),
    printcolumn(
        name = "Providers",
        type_ = "string",
        json_path = ".spec.allowedProviders",
        description = "Value of spec.allowedProviders.",
        priority = 1
    ),
    printcolumn(
        name = "Host Network",
        type_ = "string",
        json_path = ".spec.allowedHostNetwork",
        description = "Value of spec.allowedHostNetwork.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataPolicySpec {
    /// Label selector of the namespaces that the policy applies to. Default: all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Session token requirement. `required` overrides `httpTokens: optional` of a profile. Default: the profile decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "http_tokens")]
    pub http_tokens: Option<HttpTokens>,
    /// Maximum hop limit, 1 to 64. A higher `httpPutResponseHopLimit` of a profile is reduced to it. Default: no maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "hop_limit")]
    pub max_hop_limit: Option<i64>,
    /// Maximum of `limits.requestsPerSecond`, 1 to 100000. A higher value of a profile is reduced to it, and `limits.burst`
    /// to twice as many. Default: 2000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rate")]
    pub max_requests_per_second: Option<i64>,
    /// Maximum of `limits.connections`, 1 to 16384. A higher value of a profile is reduced to it. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "connections")]
    pub max_connections: Option<i64>,
    /// Dialects that profiles may use. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dialects")]
    pub allowed_dialects: Option<Vec<Dialect>>,
    /// Credential providers that roles may use. A role of `awsAssumeRole` also needs its ARN in `allowedRoleArns`. Default: all
    /// except `awsAssumeRole`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dialect_rules::providers")]
    pub allowed_providers: Option<Vec<ProviderKind>>,
    /// Patterns of role names that profiles may use. `*` matches any text and `?` one character. A pattern matches the
    /// whole name. At most 64. Default: all names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "patterns")]
    pub allowed_role_names: Option<Vec<String>>,
    /// Patterns of role ARNs that profiles may use. `*` matches any text and `?` one character. A pattern matches the
    /// whole ARN. A role without an ARN, such as one of `secret`, is not allowed. At most 64. Default: all roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "patterns")]
    pub allowed_role_arns: Option<Vec<String>>,
    /// Patterns of external IDs that `awsAssumeRole` roles may set, in addition to `CLUSTER/NAMESPACE`. `*` matches any text
    /// and `?` one character. A pattern matches the whole ID. A pattern that matches `CLUSTER/NAMESPACE` of another
    /// namespace lets profiles use the roles of that namespace. At most 64. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "patterns")]
    pub allowed_external_ids: Option<Vec<String>>,
    /// Maximum of `durationSeconds` of roles, 3600 to 43200. A higher value of a profile is reduced to it. Default: no maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_seconds")]
    pub max_duration_seconds: Option<i64>,
    /// Patterns of the names of Secrets that profiles may use, among those with the label
    /// `podmeta.dev/usable-by: metadataprofiles`. `*` matches any text and `?` one character. A pattern matches the whole
    /// name. At most 64. Default: all Secrets with the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "patterns")]
    pub allowed_secrets: Option<Vec<String>>,
    /// Account IDs that profiles may set, strings of 12 to 20 digits. The signed identity document has an account of a
    /// profile or its role only if it is listed. Otherwise it has `cluster.accountId` of the Helm chart. At most 64.
    /// Default: profiles may set all, and none is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "account_ids")]
    pub allowed_account_ids: Option<Vec<String>>,
    /// Regions that profiles may set. The signed identity document has a region and zone of a profile only if the region
    /// is listed. Otherwise it has `cluster.region` of the Helm chart or the region of the node. At most 64. Default:
    /// profiles may set all, and none is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "regions")]
    pub allowed_regions: Option<Vec<String>>,
    /// Values of `hostNetwork` that profiles may use. `Node` is allowed only if it is listed. Default: `Deny` and `Pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "host_networks")]
    pub allowed_host_network: Option<Vec<HostNetwork>>,
    /// Response to pods that no profile matches. `Deny`: 403 on every path. `Facts`: a tree of the pod's own facts, with
    /// session tokens required and no role. Default: `Deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "without_profile")]
    pub without_profile: Option<UnmatchedPodsSpec>,
    /// Response to static pods. No profile matches them, because a kubelet chooses their namespace and labels. `Deny`: 403 on
    /// every path. `Facts`: a tree of the pod's own facts, with session tokens required, no role and no identity document.
    /// Default: `Deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "static_pods")]
    pub static_pods: Option<StaticPods>,
}

/// Response to pods that no profile matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmatchedPodsSpec {
    /// 403 on every path.
    Deny,
    /// A tree of the pod's own facts, with session tokens required and no role.
    Facts,
}

impl From<UnmatchedPodsSpec> for UnmatchedPods {
    fn from(spec: UnmatchedPodsSpec) -> Self {
        match spec {
            UnmatchedPodsSpec::Deny => Self::Deny,
            UnmatchedPodsSpec::Facts => Self::Facts,
        }
    }
}

fn http_tokens(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["required"])
}

fn hop_limit(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=64)
}

fn rate(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_REQUESTS_PER_SECOND)
}

fn connections(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=MAX_CONNECTIONS)
}

fn duration_seconds(_: &mut SchemaGenerator) -> Schema {
    schema::integer(3600..=43_200)
}

fn dialects(generator: &mut SchemaGenerator) -> Schema {
    schema::set(dialect_rules::dialect(generator), DIALECT_COUNT)
}

fn patterns(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::ascii(1..=2048, "^[!-~]*$"), MAX_LIST_ENTRIES)
}

fn account_ids(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::account_id(), MAX_LIST_ENTRIES)
}

fn regions(generator: &mut SchemaGenerator) -> Schema {
    schema::set(schema::line(generator), MAX_LIST_ENTRIES)
}

fn host_networks(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::choice(&["Deny", "Node", "Pod"]), 3)
}

fn without_profile(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["Deny", "Facts"])
}

fn static_pods(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["Deny", "Facts"])
}
