//! `spec.metadata`: items that a profile adds to the tree.

use kube::core::Rule;
use podmeta_metadata::cel;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::item::MAX_VALUE_BYTES;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::api::{dialect_rules, schema};

/// Maximum length of `fieldPath`, in bytes. The key of a label or annotation has at most 317 bytes.
pub(crate) const MAX_FIELD_PATH_BYTES: usize = 512;

/// An item below `meta-data/`. Exactly one of `value`, `fieldRef` and `expression` must be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct ItemSpec {
    /// Dialect whose tree gets the item.
    #[schemars(schema_with = "dialect_rules::dialect")]
    pub dialect: Dialect,
    /// Path below `meta-data/`: 1 to 8 segments, separated by `/`. Paths that identify the pod, and those of credentials
    /// and tags, are reserved.
    #[schemars(schema_with = "path")]
    pub path: String,
    /// Text of the item, at most 4096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "value")]
    pub value: Option<String>,
    /// Field of the pod, as in the downward API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRefSpec>,
    /// CEL expression over `pod`, `namespaceObject` and `node`, at most 1024 bytes. If the result is null, the item is
    /// absent. Nested comprehensions are not allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "expression")]
    pub expression: Option<String>,
}

/// Reference to a field of the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldRefSpec {
    /// Path of the field, such as `metadata.name` or `metadata.labels['KEY']`.
    #[schemars(schema_with = "field_path")]
    pub field_path: String,
}

fn rules() -> Vec<Rule> {
    let one_source = schema::rule(
        "[has(self.value), has(self.fieldRef), has(self.expression)].exists_one(is_set, is_set)",
        messages::ONE_ITEM_SOURCE,
        "",
    );
    std::iter::once(one_source).chain(dialect_rules::reserved_path_rules()).collect()
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
    schema::text(1..=MAX_FIELD_PATH_BYTES, pattern)
}

fn expression(_: &mut SchemaGenerator) -> Schema {
    schema::any_text(1..=cel::MAX_BYTES)
}
