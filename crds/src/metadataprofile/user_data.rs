//! User data and where it comes from.

use podmeta_metadata::profile::MAX_USER_DATA_BYTES;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::{names, schema};

/// User data, from exactly one source. At most 16384 bytes are served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "[has(self.inline), has(self.configMapKeyRef), has(self.secretKeyRef)].exists_one(there, there)",
        messages::ONE_USER_DATA,
        "",
    ),
]))]
pub struct UserData {
    /// The data itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "inline")]
    pub inline: Option<String>,
    /// A key of a ConfigMap in the profile's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyReference>,
    /// A key of a Secret in the profile's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyReference>,
}

/// A key of a ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeyReference {
    /// The object's name.
    #[schemars(schema_with = "names::object_name_schema")]
    pub name: String,
    /// The key in its data.
    #[schemars(schema_with = "names::data_key_schema")]
    pub key: String,
}

fn inline(_: &mut SchemaGenerator) -> Schema {
    schema::any_text(0..=MAX_USER_DATA_BYTES)
}
