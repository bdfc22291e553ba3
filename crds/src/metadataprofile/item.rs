//! Items that a profile adds to the tree.

use podmeta_metadata::cel;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::item::MAX_VALUE_BYTES;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::schema;

/// The longest `fieldPath`: a label's or annotation's key is at most 317 bytes.
pub(crate) const MAX_FIELD_PATH: usize = 512;

/// One item below `meta-data/`, with exactly one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "[has(self.value), has(self.fieldRef), has(self.expression)].exists_one(there, there)",
        messages::ONE_SOURCE,
        "",
    ),
    schema::rule(
        "self.dialect != 'ec2' || !self.path.matches('^((?i:iam|identity-credentials|tags|instance-id|hostname\
         |local-hostname|local-ipv4|ipv6|mac)(/|$)|network/interfaces/)')",
        messages::RESERVED,
        ".path",
    ),
    schema::rule(
        "self.dialect != 'ecs' || !self.path.matches('^((?i:ram|tags|all|instance-id|serial-number|hostname\
         |private-ipv4|mac)(/|$)|network/interfaces/)')",
        messages::RESERVED,
        ".path",
    ),
]))]
pub struct MetadataItem {
    /// The tree that the item is in.
    #[schemars(schema_with = "schema::dialect")]
    pub dialect: Dialect,
    /// Where the item stands below `meta-data/`: 1 to 8 names joined by `/`. What says who the pod is, credentials and
    /// tags cannot be set.
    #[schemars(schema_with = "path")]
    pub path: String,
    /// The value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "value")]
    pub value: Option<String>,
    /// A field of the pod, as in the downward API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
    /// A CEL expression over `pod`, `namespaceObject` and `node`. Null leaves the item out. At most 1024 bytes, and no
    /// comprehension inside another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "expression")]
    pub expression: Option<String>,
}

/// A field of the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldRef {
    /// The field, such as `metadata.name` or `metadata.labels['KEY']`.
    #[schemars(schema_with = "field_path")]
    pub field_path: String,
}

fn path(_: &mut SchemaGenerator) -> Schema {
    let mut schema = schema::ascii(1..=253, "^[-A-Za-z0-9._:@+=,]+(/[-A-Za-z0-9._:@+=,]+){0,7}$");
    let dots = schema::rule(r"!self.matches(r'(^|/)\.\.?(/|$)')", messages::DOT_SEGMENT, "");
    schema.insert(schema::RULES.to_owned(), serde_json::json!([dots]));
    schema
}

fn value(_: &mut SchemaGenerator) -> Schema {
    schema::text(0..=MAX_VALUE_BYTES, r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")
}

fn field_path(_: &mut SchemaGenerator) -> Schema {
    let pattern = r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['(?s:.+)'\]|spec\.(nodeName|serviceAccountName)|status\.(hostIPs?|podIPs?))$";
    schema::text(1..=MAX_FIELD_PATH, pattern)
}

fn expression(_: &mut SchemaGenerator) -> Schema {
    schema::any_text(1..=cel::MAX_BYTES)
}
