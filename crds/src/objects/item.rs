//! From documents to single objects: lists are taken apart, kinds and names are read, values become types.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::source::{Problem, Source};
use crate::field::FieldError;
use crate::yaml::join;

/// One object as it was written.
pub(super) struct Item {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// As written; objects without namespaces have none.
    pub(super) namespace: Option<String>,
    pub(super) value: Value,
    pub(super) source: Source,
}

impl Item {
    /// The namespace of an object that is in one.
    pub(super) fn in_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// How the object is called in messages.
    pub(super) fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    pub(super) fn problem(&self, field: &str, message: impl std::fmt::Display) -> Problem {
        self.source.problem(&self.label(), field, message)
    }
}

/// Splits a document into its objects: itself, or what the list holds that it is.
pub(super) fn split(value: Value, source: Source, problems: &mut Vec<Problem>) -> Vec<Item> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    if api_version.is_empty() || kind.is_empty() {
        problems.push(source.problem("", "", "is no Kubernetes object: it needs apiVersion and kind"));
        return Vec::new();
    }
    let element = kind.strip_suffix("List");
    match (element, value) {
        (Some(element), Value::Object(mut list)) if list.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = list.remove("items") else { return Vec::new() };
            let objects = items.into_iter().enumerate().flat_map(|(at, mut value)| {
                // The elements of a PodList need not say that they are Pods.
                if let (false, Value::Object(object)) = (element.is_empty(), &mut value) {
                    object.entry("kind").or_insert_with(|| element.into());
                    object.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
                }
                split(value, source.below(&format!("items[{at}]")), problems)
            });
            objects.collect()
        }
        (_, value) => {
            let metadata = value.get("metadata").unwrap_or(&Value::Null);
            let name = text(metadata, "name");
            let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
            let namespace = namespace.map(str::to_owned);
            vec![Item { api_version, kind, name, namespace, value, source }]
        }
    }
}

/// An object of one of Kubernetes' types. Fields that the type does not know are passed over, as newer ones must be.
pub(super) fn known<T: DeserializeOwned>(item: &Item) -> Result<T, Problem> {
    read(&item.value).map_err(|error| item.problem(&error.field, error.message))
}

/// An object of a type, from an API server that has dropped the fields that it does not know.
///
/// # Errors
/// The first field that has another type.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError { field: path(error.path()), message: error.inner().to_string() })
}

/// An object of one of our types, and a problem for each field that it does not know.
pub(super) fn ours<T: DeserializeOwned>(item: &Item) -> (Option<T>, Vec<Problem>) {
    // Nothing of ours may be null; the API server drops those.
    let mut value = without_null(&item.value);
    if let Some(object) = value.as_object_mut() {
        // These two say which type it is; the type itself does not know them.
        object.retain(|field, _| !matches!(field.as_str(), "apiVersion" | "kind"));
    }
    let mut problems = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
    let object = serde_ignored::deserialize(deserializer, |ignored| {
        problems.push(item.problem(&ignored_path(&ignored), "is no field of this resource"));
    });
    match object {
        Ok(object) => (Some(object), problems),
        Err(error) => {
            problems.push(item.problem(&path(&track.path()), error));
            (None, problems)
        }
    }
}

fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let there = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(there.map(|(key, value)| (key.clone(), without_null(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_null).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |above, segment| match segment {
        Segment::Seq { index } => join(&above, &format!("[{index}]")),
        Segment::Map { key } => join(&above, key),
        Segment::Enum { .. } | Segment::Unknown => above,
    })
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => join(&ignored_path(parent), &format!("[{index}]")),
        Path::Map { parent, key } => join(&ignored_path(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}
