//! Converts label selectors.

use podmeta_metadata::selector::{Requirement, Selector};

use super::field::FieldErrors;
use crate::api::label_selector::{
    LabelOperator, LabelRequirement, LabelSelector, MAX_REQUIREMENTS, MAX_VALUES, VALUES_FORBIDDEN, VALUES_REQUIRED,
};
use crate::api::names;

/// Converts a selector. An absent one selects all objects.
pub(super) fn convert(field: &str, selector: Option<&LabelSelector>, errors: &mut FieldErrors) -> Selector {
    let Some(selector) = selector else { return Selector::default() };
    let labels = format!("{field}.matchLabels");
    errors.check_length(&labels, selector.match_labels.len(), MAX_REQUIREMENTS);
    for (key, value) in &selector.match_labels {
        errors.record(format_args!("{labels}.{key}"), names::check_label_value(value));
    }
    let expressions = format!("{field}.matchExpressions");
    errors.check_length(&expressions, selector.match_expressions.len(), MAX_REQUIREMENTS);
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        check(&format!("{expressions}[{index}]"), expression, errors);
    }
    let labels = selector.match_labels.iter().map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]));
    Selector { requirements: labels.chain(selector.match_expressions.iter().map(requirement)).collect() }
}

fn check(field: &str, expression: &LabelRequirement, errors: &mut FieldErrors) {
    errors.record(format_args!("{field}.key"), names::check_label_key(&expression.key));
    let values = format!("{field}.values");
    errors.convert_list(&values, MAX_VALUES, &expression.values, |value| names::check_label_value(value));
    match expression.operator {
        LabelOperator::In | LabelOperator::NotIn if expression.values.is_empty() => errors.add(values, VALUES_REQUIRED),
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
