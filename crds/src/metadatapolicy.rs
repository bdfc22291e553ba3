//! `MetadataPolicy` as administrators write it: what they hold every profile to.

#![allow(clippy::duplicated_attributes, reason = "printer columns share types and priorities")]

use kube::CustomResource;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::options::HttpTokens;
use podmeta_metadata::policy::UnmatchedPods;
use podmeta_metadata::profile::HostNetwork;
use podmeta_metadata::role::ProviderKind;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::labels::LabelSelector;
use crate::schema;

/// How many patterns a list may have.
pub(crate) const MAX_GLOBS: usize = 64;

/// The desired state of a MetadataPolicy. What is absent is left to profiles and to other policies.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podmeta.dev",
    version = "v1alpha1",
    kind = "MetadataPolicy",
    plural = "metadatapolicies",
    shortname = "mdpol",
    category = "podmeta",
    derive = "PartialEq",
    doc = "A MetadataPolicy is what an administrator holds every MetadataProfile of some namespaces to. Of several policies the strictest wins, field by field. A profile can be stricter, never looser.",
    printcolumn(name = "Tokens", type_ = "string", json_path = ".spec.httpTokens"),
    printcolumn(name = "Hops", type_ = "integer", json_path = ".spec.maxHopLimit"),
    printcolumn(name = "Without Profile", type_ = "string", json_path = ".spec.withoutProfile"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Dialects", type_ = "string", json_path = ".spec.allowedDialects", priority = 1),
    printcolumn(name = "Providers", type_ = "string", json_path = ".spec.allowedProviders", priority = 1),
    printcolumn(name = "Host Network", type_ = "string", json_path = ".spec.allowedHostNetwork", priority = 1)
)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataPolicySpec {
    /// The namespaces that the policy holds for, by label. Absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// `required`: a session token is needed, whatever a profile says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "http_tokens")]
    pub http_tokens: Option<HttpTokens>,
    /// The highest hop limit. A profile's higher one is cut to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "hop_limit")]
    pub max_hop_limit: Option<i64>,
    /// The dialects that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dialects")]
    pub allowed_dialects: Option<Vec<Dialect>>,
    /// The providers of credentials that may be used. Absent: all but `awsAssumeRole`, which must be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "providers")]
    pub allowed_providers: Option<Vec<ProviderKind>>,
    /// The names that roles may have, as patterns of the whole name with `*` and `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "globs")]
    pub allowed_role_names: Option<Vec<String>>,
    /// The ARNs of roles that may be assumed, as patterns of the whole ARN with `*` and `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "globs")]
    pub allowed_role_arns: Option<Vec<String>>,
    /// The modes that profiles may give hostNetwork pods. Absent: all but `Node`, which must be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "host_networks")]
    pub allowed_host_network: Option<Vec<HostNetwork>>,
    /// What a pod gets that no profile matches. `Deny`, which holds when no policy speaks: 403 on every path. `Facts`:
    /// the tree of the pod's own facts, tokens required, no role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "without_profile")]
    pub without_profile: Option<WithoutProfileSpec>,
}

/// What a pod gets that no profile matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WithoutProfileSpec {
    /// 403 on every path.
    Deny,
    /// The tree of its own facts, tokens required, no role.
    Facts,
}

impl From<WithoutProfileSpec> for UnmatchedPods {
    fn from(spec: WithoutProfileSpec) -> Self {
        match spec {
            WithoutProfileSpec::Deny => Self::Deny,
            WithoutProfileSpec::Facts => Self::Facts,
        }
    }
}

fn http_tokens(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["required"])
}

fn hop_limit(_: &mut SchemaGenerator) -> Schema {
    schema::integer(1..=64)
}

fn dialects(generator: &mut SchemaGenerator) -> Schema {
    schema::set(schema::dialect(generator), 2)
}

fn providers(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::choice(&["secret", "awsWebIdentity", "awsAssumeRole", "aliyunOidc"]), 4)
}

fn globs(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::ascii(1..=2048, "^[!-~]*$"), MAX_GLOBS)
}

fn host_networks(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::choice(&["Deny", "Node", "Pod"]), 3)
}

fn without_profile(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["Deny", "Facts"])
}
