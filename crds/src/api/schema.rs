//! Building blocks of the schema. The bounds on strings and lists also keep the cost of the CEL rules within the API
//! server's budget.

use std::ops::RangeInclusive;

use kube::core::{Reason, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Pattern of text without control characters.
pub(super) const NO_CONTROL: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

/// The schema extension that holds CEL rules.
pub(super) const RULES: &str = "x-kubernetes-validations";

/// Returns a CEL rule. `field` is the path of the invalid field, relative to the field that has the rule. It is empty if both
/// are the same.
pub(super) fn rule(rule: &str, message: &str, field: &str) -> Rule {
    let rule = Rule::new(rule).message(message).reason(Reason::FieldValueInvalid);
    if field.is_empty() { rule } else { rule.field_path(field) }
}

/// Returns the schema of text with any characters. The length is in bytes: `maxLength` counts characters, a CEL rule
/// counts bytes.
pub(super) fn any_text(length: RangeInclusive<usize>) -> Schema {
    let max = *length.end();
    json_schema!({
        "type": "string",
        "minLength": length.start(),
        "maxLength": length.end(),
        "x-kubernetes-validations": [max_bytes_rule(max)],
    })
}

/// Returns the schema of text with a pattern that matches ASCII only. Its length in characters is its length in bytes.
pub(super) fn ascii(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": length.start(),
        "maxLength": length.end(),
        "pattern": pattern,
    })
}

/// Returns the schema of text with a pattern. The length is in bytes.
pub(super) fn text(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    let mut schema = any_text(length);
    schema.insert("pattern".to_owned(), pattern.into());
    schema
}

fn max_bytes_rule(max: usize) -> Rule {
    rule(&format!("size(bytes(self)) <= {max}"), &format!("must be at most {max} bytes long"), "")
}

/// Returns the schema of ASCII text that is one path segment, and not a dot segment.
pub(super) fn segment(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    let mut schema = ascii(length, pattern);
    let dots = rule("self != '.' && self != '..'", "must not be a dot segment", "");
    schema.insert(RULES.to_owned(), serde_json::json!([dots]));
    schema
}

/// Returns the schema of an enum.
pub(super) fn choice(values: &[&str]) -> Schema {
    json_schema!({ "type": "string", "enum": values })
}

/// Returns the schema of an integer in a range.
pub(super) fn integer(range: RangeInclusive<i64>) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": range.start(), "maximum": range.end() })
}

/// Returns the schema of a list with unique elements, in any order.
pub(super) fn set(items: Schema, max_items: usize) -> Schema {
    json_schema!({ "type": "array", "items": items, "maxItems": max_items, "x-kubernetes-list-type": "set" })
}

/// Returns the schema of a list that is replaced as a whole.
pub(super) fn atomic(items: Schema, max_items: usize) -> Schema {
    json_schema!({ "type": "array", "items": items, "maxItems": max_items, "x-kubernetes-list-type": "atomic" })
}

/// Returns the schema of an account ID: `podmeta_metadata::names::AccountId`.
pub(super) fn account_id() -> Schema {
    ascii(12..=20, "^[0-9]*$")
}

/// Returns the schema of one line of text: `podmeta_metadata::names::Line`.
pub(super) fn line(_: &mut SchemaGenerator) -> Schema {
    text(1..=253, NO_CONTROL)
}
