//! Lists where the schema has maps: serde reads a list as the fields of a struct, one after the other, without a word.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde_json::Value;

use crate::field::FieldError;
use crate::yaml::join;

/// Every list in `value` where `schema` has a map, by field.
pub(super) fn lists_for_maps(schema: &JSONSchemaProps, value: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    walk(schema, value, "", &mut found);
    found
}

fn walk(schema: &JSONSchemaProps, value: &Value, field: &str, found: &mut Vec<FieldError>) {
    match (schema.type_.as_deref(), value) {
        (Some("object"), Value::Array(_)) => {
            found.push(FieldError {
                field: field.to_owned(),
                message: "must be a map of fields, not a list".to_owned(),
            });
        }
        (Some("object"), Value::Object(object)) => {
            for (name, schema) in schema.properties.iter().flatten() {
                if let Some(value) = object.get(name) {
                    walk(schema, value, &join(field, name), found);
                }
            }
        }
        (Some("array"), Value::Array(list)) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (at, value) in list.iter().enumerate() {
                    walk(schema, value, &join(field, &format!("[{at}]")), found);
                }
            }
        }
        _ => {} // serde says what is wrong with the rest
    }
}
