//! `spec.tags` and `spec.publicKeys`.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// Maximum number of label patterns.
pub(crate) const MAX_LABEL_PATTERNS: usize = 32;
/// Maximum number of static tags.
pub(crate) const MAX_STATIC_TAGS: usize = 50;

/// Instance tags: labels of the pod and static tags. A static tag takes precedence over a label with the same key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TagsSpec {
    /// Keys of the pod's labels that become tags. A `*` at the end matches any text. At most 32. A label whose key the
    /// dialect does not allow is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: Vec<String>,
    /// Static tags. At most 50. Every dialect of the profile must allow the key.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_STATIC_TAGS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key"])
    )]
    pub fixed: Vec<StaticTagSpec>,
}

/// A static tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StaticTagSpec {
    /// Key of the tag, 1 to 128 bytes.
    #[schemars(schema_with = "tag_key")]
    pub key: String,
    /// Value of the tag, at most 256 bytes. Default: empty.
    #[serde(default)]
    #[schemars(schema_with = "tag_value")]
    pub value: String,
}

/// An SSH public key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicKeySpec {
    /// Name of the key in the tree: one path segment, 1 to 128 characters.
    #[schemars(schema_with = "key_name")]
    pub name: String,
    /// Key in OpenSSH format on one line: type, base64 data and comment. At most 4096 bytes.
    #[schemars(schema_with = "open_ssh_key")]
    pub open_ssh_key: String,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::ascii(1..=317, r"^[-A-Za-z0-9_./]*\*?$"), MAX_LABEL_PATTERNS)
}

fn tag_key(_: &mut SchemaGenerator) -> Schema {
    schema::text(1..=128, schema::NO_CONTROL)
}

fn tag_value(_: &mut SchemaGenerator) -> Schema {
    schema::text(0..=256, schema::NO_CONTROL)
}

fn key_name(_: &mut SchemaGenerator) -> Schema {
    schema::segment(1..=128, "^[-A-Za-z0-9_.@+]*$")
}

fn open_ssh_key(_: &mut SchemaGenerator) -> Schema {
    schema::text(16..=4096, r"^(ssh-|ecdsa-|sk-)[^\x00-\x20\x7f-\x9f]* AAAA[^\x00-\x1f\x7f-\x9f]*$")
}
