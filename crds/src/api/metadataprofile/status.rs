//! The status that the operator writes. All fields except `lastValid` can be computed again at any time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// Maximum number of pods in `status.pods`.
pub const MAX_STATUS_PODS: usize = 16;

/// Maximum length of `status.lastValid.spec`, in bytes. An object has at most 1.5 MB.
pub const MAX_LAST_VALID_BYTES: usize = 512 * 1024;

/// Observed state of a MetadataProfile, written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataProfileStatus {
    /// Generation of the spec that the status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions `Accepted`, `Programmed`, `CredentialsReady`, `Conflicted` and `PodsExcluded`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Number of pods that the profile applies to, except those of PodsExcluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub matched_pods: Option<i64>,
    /// Number of matched pods that have a link and whose node agent holds the latest generation, or `lastValid` if the latest is
    /// invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub programmed_pods: Option<i64>,
    /// Number of matched pods that requested an item without a session token in the last 24 hours. Rejected requests do not
    /// count. The count of a node starts at 0 when its node agent starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    pub tokenless_pods: Option<i64>,
    /// Names of up to 16 pods: first those that are not programmed, then those without credentials.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pods")]
    pub pods: Vec<String>,
    /// Latest valid generation of the spec. It applies to the pods while a newer generation is invalid. Absent if the spec
    /// is longer than 512 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_valid: Option<LastValid>,
}

/// A valid generation of the spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastValid {
    /// Number of the generation.
    pub generation: i64,
    // Text, because the API server parses applied objects as YAML, which changes some characters of JSON strings.
    /// Spec of the generation, as JSON text.
    #[schemars(length(max = MAX_LAST_VALID_BYTES))]
    pub spec: String,
}

fn count(_: &mut SchemaGenerator) -> Schema {
    schema::integer(0..=i64::from(i32::MAX))
}

fn pods(_: &mut SchemaGenerator) -> Schema {
    schema::atomic(schema::any_text(1..=253), MAX_STATUS_PODS)
}
