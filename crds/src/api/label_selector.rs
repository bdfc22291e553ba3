//! Label selectors of the resources. Their size is bounded, unlike that of Kubernetes' own type.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{names, schema};

/// Maximum number of labels, and of expressions, in a selector.
pub(crate) const MAX_REQUIREMENTS: usize = 32;
/// Maximum number of values in an expression.
pub(crate) const MAX_VALUES: usize = 64;

pub(crate) const VALUES_REQUIRED: &str = "In and NotIn require values";
pub(crate) const VALUES_FORBIDDEN: &str = "Exists and DoesNotExist must not have values";

/// A label selector. An object must meet all requirements. An empty selector selects all objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that the object must have, with their values. At most 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels of the object. At most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_REQUIREMENTS), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
        VALUES_REQUIRED,
        ".values",
    ),
    schema::rule(
        "self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
        VALUES_FORBIDDEN,
        ".values",
    ),
]))]
pub struct LabelRequirement {
    /// Key of the label.
    #[schemars(schema_with = "names::label_key_schema")]
    pub key: String,
    /// Comparison: `In` (the label has one of the values), `NotIn` (the label is absent or has none of the values),
    /// `Exists` (the label is present) or `DoesNotExist` (the label is absent).
    #[schemars(schema_with = "operator")]
    pub operator: LabelOperator,
    /// Values of `In` and `NotIn`. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "values")]
    pub values: Vec<String>,
}

/// The comparison of a label requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": names::label_value_schema(),
        "maxProperties": MAX_REQUIREMENTS,
    })
}

fn operator(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["In", "NotIn", "Exists", "DoesNotExist"])
}

fn values(_: &mut SchemaGenerator) -> Schema {
    schema::atomic(names::label_value_schema(), MAX_VALUES)
}
