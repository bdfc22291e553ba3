//! The schema validation of the API server, as far as the CRDs use it: defaults, types, bounds, patterns, list types.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};

/// Returns the value with the defaults of the schema.
pub(super) fn set_defaults(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut map = map.clone();
            for (name, property) in properties(schema) {
                if map.get(name).is_none_or(Value::is_null) {
                    map.remove(name);
                    if let Some(default) = property.get("default") {
                        map.insert(name.clone(), default.clone());
                    }
                }
                if let Some(value) = map.get(name) {
                    let value = set_defaults(property, value);
                    map.insert(name.clone(), value);
                }
            }
            Value::Object(map)
        }
        Value::Array(list) => list.iter().map(|value| set_defaults(&schema["items"], value)).collect(),
        other => other.clone(),
    }
}

/// Returns the errors of a value.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(schema, value, "", &mut errors);
    errors
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let mut add_if = |condition: bool, message: String| {
        if condition {
            errors.push(format!("{path}: {message}"));
        }
    };
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let is_outside = |size: usize, min: &str, max: &str| {
        limit(min).is_some_and(|min| (size as f64) < min) || limit(max).is_some_and(|max| size as f64 > max)
    };
    if let Some(choices) = schema["enum"].as_array() {
        add_if(!choices.contains(value), format!("unsupported value {value}"));
    }
    match (schema["type"].as_str(), value) {
        (Some("string"), Value::String(text)) => {
            add_if(is_outside(text.chars().count(), "minLength", "maxLength"), "has an invalid length".to_owned());
            if let Some(pattern) = schema["pattern"].as_str() {
                add_if(!Regex::new(pattern).unwrap().is_match(text), format!("does not match {pattern}"));
            }
        }
        (Some("integer"), Value::Number(number)) => {
            let number = number.as_i64().map(|number| number as f64);
            add_if(number.is_none(), "is not an integer".to_owned());
            let number = number.unwrap_or_default();
            let out_of_range =
                limit("minimum").is_some_and(|min| number < min) || limit("maximum").is_some_and(|max| number > max);
            add_if(out_of_range, "is out of range".to_owned());
        }
        (Some("boolean"), Value::Bool(_)) => {}
        (Some("array"), Value::Array(list)) => {
            add_if(is_outside(list.len(), "minItems", "maxItems"), "has an invalid number of items".to_owned());
            add_if(has_duplicates(schema, list), "duplicate value".to_owned());
            for (index, value) in list.iter().enumerate() {
                walk(&schema["items"], value, &format!("{path}[{index}]"), errors);
            }
        }
        (Some("object"), Value::Object(map)) => {
            add_if(
                is_outside(map.len(), "minProperties", "maxProperties"),
                "has an invalid number of fields".to_owned(),
            );
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                add_if(!map.contains_key(name), format!("{name} is required"));
            }
            for (name, value) in map {
                let schema = schema["properties"].get(name).or(schema.get("additionalProperties"));
                if let Some(schema) = schema {
                    walk(schema, value, &format!("{path}.{name}"), errors);
                }
            }
        }
        (None, _) => {}
        (Some(expected), _) => add_if(true, format!("must be of type {expected}")),
    }
}

fn has_duplicates(schema: &Value, list: &[Value]) -> bool {
    let identity = |value: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(value.to_string()),
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
            let keys = keys.iter().filter_map(Value::as_str).map(|key| (key.to_owned(), value[key].clone()));
            Some(json!(keys.collect::<Map<_, _>>()).to_string())
        }
        _ => None,
    };
    let identities = list.iter().filter_map(identity).collect::<Vec<_>>();
    identities.iter().collect::<BTreeSet<_>>().len() < identities.len()
}
