//! Finds lists where the schema has an object. Serde accepts a list as the fields of a struct, in their order.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde_json::Value;

use crate::convert::field::FieldError;
use crate::convert::json::join_path;

/// Returns an error for each list in `value` where `schema` has an object.
pub(super) fn check(schema: &JSONSchemaProps, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(schema, value, "", &mut errors);
    errors
}

fn walk(schema: &JSONSchemaProps, value: &Value, field: &str, errors: &mut Vec<FieldError>) {
    match (schema.type_.as_deref(), value) {
        (Some("object"), Value::Array(_)) => {
            errors.push(FieldError { field: field.to_owned(), message: "must be an object, not a list".to_owned() });
        }
        (Some("object"), Value::Object(object)) => {
            for (name, schema) in schema.properties.iter().flatten() {
                if let Some(value) = object.get(name) {
                    walk(schema, value, &join_path(field, name), errors);
                }
            }
        }
        (Some("array"), Value::Array(list)) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, value) in list.iter().enumerate() {
                    walk(schema, value, &join_path(field, &format!("[{index}]")), errors);
                }
            }
        }
        _ => {} // serde reports other wrong types
    }
}
