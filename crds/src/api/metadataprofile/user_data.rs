//! `spec.userData`: user data and its source.

use podmeta_metadata::profile::MAX_USER_DATA_BYTES;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::api::{names, schema};

/// User data, at most 16384 bytes. Exactly one of `inline`, `configMapKeyRef` and `secretKeyRef` must be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "[has(self.inline), has(self.configMapKeyRef), has(self.secretKeyRef)].exists_one(is_set, is_set)",
        messages::ONE_USER_DATA_SOURCE,
        "",
    ),
]))]
pub struct UserDataSpec {
    /// User data as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "inline")]
    pub inline: Option<String>,
    /// Key of a ConfigMap in the namespace of the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRefSpec>,
    /// Key of a Secret in the namespace of the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRefSpec>,
}

/// Key of a ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRefSpec {
    /// Name of the ConfigMap or Secret.
    #[schemars(schema_with = "names::object_name_schema")]
    pub name: String,
    /// Key in its data.
    #[schemars(schema_with = "names::data_key_schema")]
    pub key: String,
}

fn inline(_: &mut SchemaGenerator) -> Schema {
    schema::any_text(0..=MAX_USER_DATA_BYTES)
}
