//! Pieces of schema that several fields share. The bounds on strings and lists are also what keeps the cost of the CEL
//! rules within the API server's budget. Nothing here knows what a field is for.

use std::ops::RangeInclusive;

use kube::core::{Reason, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Text without control characters.
pub(crate) const NO_CONTROL: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

/// The extension that holds CEL rules.
pub(crate) const RULES: &str = "x-kubernetes-validations";

/// A rule with what the user reads when it fails, and the field that is at fault, below the place of the rule.
pub(crate) fn rule(rule: &str, message: &str, field: &str) -> Rule {
    let rule = Rule::new(rule).message(message).reason(Reason::FieldValueInvalid);
    if field.is_empty() { rule } else { rule.field_path(field) }
}

/// Text of any characters, whose length counts in bytes; `maxLength` counts characters.
pub(crate) fn any_text(length: RangeInclusive<usize>) -> Schema {
    let max = *length.end();
    json_schema!({
        "type": "string",
        "minLength": length.start(),
        "maxLength": length.end(),
        "x-kubernetes-validations": [bytes_rule(max)],
    })
}

/// ASCII text, as its pattern makes sure of.
pub(crate) fn ascii(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": length.start(),
        "maxLength": length.end(),
        "pattern": pattern,
    })
}

/// Text of the characters that a pattern takes, whose length counts in bytes.
pub(crate) fn text(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    let mut schema = any_text(length);
    schema.insert("pattern".to_owned(), pattern.into());
    schema
}

fn bytes_rule(max: usize) -> Rule {
    rule(&format!("size(bytes(self)) <= {max}"), &format!("must be at most {max} bytes long"), "")
}

/// ASCII text that must not be a dot segment of a path.
pub(crate) fn segment(length: RangeInclusive<usize>, pattern: &str) -> Schema {
    let mut schema = ascii(length, pattern);
    let dots = rule("self != '.' && self != '..'", "must not be a dot segment", "");
    schema.insert(RULES.to_owned(), serde_json::json!([dots]));
    schema
}

/// One of a few words.
pub(crate) fn choice(words: &[&str]) -> Schema {
    json_schema!({ "type": "string", "enum": words })
}

/// A number in a range.
pub(crate) fn integer(range: RangeInclusive<i64>) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": range.start(), "maximum": range.end() })
}

/// A list without order or repetition.
pub(crate) fn set(items: Schema, most: usize) -> Schema {
    json_schema!({ "type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "set" })
}

/// A list that is replaced as a whole.
pub(crate) fn atomic(items: Schema, most: usize) -> Schema {
    json_schema!({ "type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "atomic" })
}

/// One line: the core's `Line`.
pub(crate) fn line(_: &mut SchemaGenerator) -> Schema {
    text(1..=253, NO_CONTROL)
}

/// `ec2` or `ecs`.
pub(crate) fn dialect(_: &mut SchemaGenerator) -> Schema {
    choice(&["ec2", "ecs"])
}
