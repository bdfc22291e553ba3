//! The part of the API server's schema validation that our schemas use: defaults, types, bounds, patterns and list types.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};

/// The object as it is after defaulting.
pub(super) fn with_defaults(schema: &Value, value: &Value) -> Value {
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
                    let value = with_defaults(property, value);
                    map.insert(name.clone(), value);
                }
            }
            Value::Object(map)
        }
        Value::Array(list) => list.iter().map(|value| with_defaults(&schema["items"], value)).collect(),
        other => other.clone(),
    }
}

/// What is wrong with a value.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(schema, value, "", &mut errors);
    errors
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let mut add = |wrong: bool, message: String| {
        if wrong {
            errors.push(format!("{path}: {message}"));
        }
    };
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let over = |size: usize, least: &str, most: &str| {
        limit(least).is_some_and(|least| (size as f64) < least) || limit(most).is_some_and(|most| size as f64 > most)
    };
    if let Some(choices) = schema["enum"].as_array() {
        add(!choices.contains(value), format!("unsupported value {value}"));
    }
    match (schema["type"].as_str(), value) {
        (Some("string"), Value::String(text)) => {
            add(over(text.chars().count(), "minLength", "maxLength"), "has a wrong length".to_owned());
            if let Some(pattern) = schema["pattern"].as_str() {
                add(!Regex::new(pattern).unwrap().is_match(text), format!("does not match {pattern}"));
            }
        }
        (Some("integer"), Value::Number(number)) => {
            let number = number.as_i64().map(|number| number as f64);
            add(number.is_none(), "is not an integer".to_owned());
            let number = number.unwrap_or_default();
            let wrong = limit("minimum").is_some_and(|least| number < least)
                || limit("maximum").is_some_and(|most| number > most);
            add(wrong, "is out of range".to_owned());
        }
        (Some("boolean"), Value::Bool(_)) => {}
        (Some("array"), Value::Array(list)) => {
            add(over(list.len(), "minItems", "maxItems"), "has a wrong number of items".to_owned());
            add(has_twins(schema, list), "duplicate value".to_owned());
            for (at, value) in list.iter().enumerate() {
                walk(&schema["items"], value, &format!("{path}[{at}]"), errors);
            }
        }
        (Some("object"), Value::Object(map)) => {
            add(over(map.len(), "minProperties", "maxProperties"), "has a wrong number of fields".to_owned());
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                add(!map.contains_key(name), format!("{name} is required"));
            }
            for (name, value) in map {
                let schema = schema["properties"].get(name).or(schema.get("additionalProperties"));
                if let Some(schema) = schema {
                    walk(schema, value, &format!("{path}.{name}"), errors);
                }
            }
        }
        (None, _) => {}
        (Some(wanted), _) => add(true, format!("must be of type {wanted}")),
    }
}

fn has_twins(schema: &Value, list: &[Value]) -> bool {
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
