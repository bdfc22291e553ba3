//! Label selectors as resources hold them, bounded, and as the core evaluates them.

use std::collections::BTreeMap;

use podmeta_metadata::selector::{Requirement, Selector};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::field::Errors;
use crate::{names, schema};

/// How many labels or expressions a selector may have.
const MAX_REQUIREMENTS: usize = 32;
/// How many values an expression may have.
const MAX_VALUES: usize = 64;

/// A label selector: all of its requirements must hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_REQUIREMENTS), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
        VALUES_NEEDED,
        ".values",
    ),
    schema::rule(
        "self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
        VALUES_FORBIDDEN,
        ".values",
    ),
]))]
pub struct LabelRequirement {
    /// The label's key.
    #[schemars(schema_with = "names::label_key_schema")]
    pub key: String,
    /// `In`: the label has one of the values. `NotIn`: it is absent or has none of them. `Exists`: it is there.
    /// `DoesNotExist`: it is absent.
    #[schemars(schema_with = "operator")]
    pub operator: LabelOperator,
    /// The values of `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "values")]
    pub values: Vec<String>,
}

/// How a requirement looks at a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

const VALUES_NEEDED: &str = "In and NotIn need values";
const VALUES_FORBIDDEN: &str = "Exists and DoesNotExist have no values";

fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": names::label_value(),
        "maxProperties": MAX_REQUIREMENTS,
    })
}

fn operator(_: &mut SchemaGenerator) -> Schema {
    schema::choice(&["In", "NotIn", "Exists", "DoesNotExist"])
}

fn values(_: &mut SchemaGenerator) -> Schema {
    schema::atomic(names::label_value(), MAX_VALUES)
}

/// The core's form of a selector; an absent one selects everything.
pub(crate) fn selector(field: &str, selector: Option<&LabelSelector>, errors: &mut Errors) -> Selector {
    let Some(selector) = selector else { return Selector::default() };
    let labels = format!("{field}.matchLabels");
    errors.limit(&labels, selector.match_labels.len(), MAX_REQUIREMENTS);
    for (key, value) in &selector.match_labels {
        errors.keep(format_args!("{labels}.{key}"), names::check_label_value(value));
    }
    let expressions = format!("{field}.matchExpressions");
    errors.limit(&expressions, selector.match_expressions.len(), MAX_REQUIREMENTS);
    for (at, expression) in selector.match_expressions.iter().enumerate() {
        check(&format!("{expressions}[{at}]"), expression, errors);
    }
    let labels = selector.match_labels.iter().map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]));
    Selector { requirements: labels.chain(selector.match_expressions.iter().map(requirement)).collect() }
}

fn check(field: &str, expression: &LabelRequirement, errors: &mut Errors) {
    errors.keep(format_args!("{field}.key"), names::label_key(&expression.key));
    let values = format!("{field}.values");
    errors.keep_all(&values, MAX_VALUES, &expression.values, |value| names::check_label_value(value));
    match expression.operator {
        LabelOperator::In | LabelOperator::NotIn if expression.values.is_empty() => errors.add(values, VALUES_NEEDED),
        LabelOperator::Exists | LabelOperator::DoesNotExist if !expression.values.is_empty() => {
            errors.add(values, VALUES_FORBIDDEN);
        }
        LabelOperator::In | LabelOperator::NotIn | LabelOperator::Exists | LabelOperator::DoesNotExist => {}
    }
}

fn requirement(expression: &LabelRequirement) -> Requirement {
    let key = expression.key.clone();
    match expression.operator {
        LabelOperator::In => Requirement::In(key, expression.values.clone()),
        LabelOperator::NotIn => Requirement::NotIn(key, expression.values.clone()),
        LabelOperator::Exists => Requirement::Exists(key),
        LabelOperator::DoesNotExist => Requirement::DoesNotExist(key),
    }
}
