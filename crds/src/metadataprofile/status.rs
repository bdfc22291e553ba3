//! What the operator says of a profile. All of it but `lastValid` can be found out again at any time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::schema;

/// The most pods that a status names.
pub const MAX_STATUS_PODS: usize = 16;

/// The longest spec that a status keeps, in bytes: an object may be 1.5 MB long.
pub const MAX_SPEC: usize = 512 * 1024;

/// The observed state of a MetadataProfile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataProfileStatus {
    /// The generation of the spec that the rest of the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, `CredentialsReady` and `Conflicted`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// How many pods the profile serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub matched_pods: Option<i64>,
    /// How many of them are on agents that have what they are served by: the newest generation, or the last valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub programmed_pods: Option<i64>,
    /// How many of them asked without a token lately. None: tokens can be required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub tokenless_pods: Option<i64>,
    /// The names of up to 16 pods that the conditions are about: those not programmed first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pods")]
    pub pods: Vec<String>,
    /// The newest generation of the spec that is valid. Pods are served by it while a newer one is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_valid: Option<LastValid>,
}

/// A generation of a spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastValid {
    /// Which generation.
    pub generation: i64,
    /// The spec as it was written, in JSON. It is text so that nothing on its way takes it for anything else: the API server
    /// reads what is applied as YAML, in which some characters of a JSON string mean something, or may not be.
    #[schemars(length(max = MAX_SPEC))]
    pub spec: String,
}

fn count(_: &mut SchemaGenerator) -> Schema {
    schema::integer(0..=i64::from(i32::MAX))
}

fn pods(_: &mut SchemaGenerator) -> Schema {
    schema::atomic(schema::any_text(1..=253), MAX_STATUS_PODS)
}
