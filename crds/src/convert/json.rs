//! Deserializes objects from JSON, with the path of the invalid field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::field::FieldError;

/// Deserializes an object. Unknown fields are ignored: the API server has removed them from custom resources.
///
/// # Errors
/// The first field of a wrong type.
pub fn deserialize<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError { field: field_path(error.path()), message: error.inner().to_string() })
}

/// Deserializes an object of a custom resource, and returns the paths of its unknown fields.
pub(crate) fn deserialize_strict<T: DeserializeOwned>(value: &Value) -> (Result<T, FieldError>, Vec<String>) {
    // The API server drops null values: no field of the resources is nullable.
    let mut value = without_null(value);
    if let Some(object) = value.as_object_mut() {
        // The kube type has no fields for these two.
        object.retain(|field, _| !matches!(field.as_str(), "apiVersion" | "kind"));
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
    let object = serde_ignored::deserialize(deserializer, |path| unknown.push(ignored_path(&path)));
    let object = object.map_err(|error| FieldError { field: field_path(&track.path()), message: error.to_string() });
    (object, unknown)
}

fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key.clone(), without_null(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_null).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Returns the path of a field below another. An empty path is the object itself.
pub(crate) fn join_path(parent: &str, field: &str) -> String {
    match (parent, field) {
        ("", path) | (path, "") => path.to_owned(),
        (parent, field) if field.starts_with('[') => format!("{parent}{field}"),
        (parent, field) => format!("{parent}.{field}"),
    }
}

fn field_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |parent, segment| match segment {
        Segment::Seq { index } => join_path(&parent, &format!("[{index}]")),
        Segment::Map { key } => join_path(&parent, key),
        Segment::Enum { .. } | Segment::Unknown => parent,
    })
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => join_path(&ignored_path(parent), &format!("[{index}]")),
        Path::Map { parent, key } => join_path(&ignored_path(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}
