//! Instance tags and public keys.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::schema;

/// How many label patterns a profile may have.
pub(crate) const MAX_LABELS: usize = 32;
/// How many static tags a profile may have, which is what either cloud allows an instance less its own.
pub(crate) const MAX_STATIC: usize = 50;

/// Instance tags: selected labels, then static tags, which win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TagsSpec {
    /// Labels of the pod that become tags: keys, or the first part of a key and a `*`. A label whose key the dialect
    /// does not allow is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: Vec<String>,
    /// Tags with a value of their own. A key must be one that every dialect of the profile allows.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_STATIC),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key"])
    )]
    pub fixed: Vec<StaticTagSpec>,
}

/// A tag with a value of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StaticTagSpec {
    /// The key.
    #[schemars(schema_with = "tag_key")]
    pub key: String,
    /// The value, which may be empty.
    #[serde(default)]
    #[schemars(schema_with = "tag_value")]
    pub value: String,
}

/// An SSH public key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicKeySpec {
    /// Its name in the tree.
    #[schemars(schema_with = "key_name")]
    pub name: String,
    /// The key in OpenSSH's form: type, base64 and comment.
    #[schemars(schema_with = "open_ssh_key")]
    pub open_ssh_key: String,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    schema::set(schema::ascii(1..=317, r"^[-A-Za-z0-9_./]*\*?$"), MAX_LABELS)
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
