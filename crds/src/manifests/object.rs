//! Single objects of the documents of a file.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ManifestError, ObjectSource};
use crate::convert::json;

/// The namespace of namespaced objects that name none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// One object as it is in the file.
pub(super) struct ManifestObject {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// `None` for cluster-scoped objects, and until the loader has set the default.
    pub(super) namespace: Option<String>,
    pub(super) value: Value,
    pub(super) source: ObjectSource,
}

impl ManifestObject {
    pub(super) fn namespace_or_default(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// Returns the kind and name for messages, such as `Pod default/web`.
    pub(super) fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    pub(super) fn error(&self, field: &str, message: impl std::fmt::Display) -> ManifestError {
        self.source.error(&self.label(), field, message)
    }

    /// Deserializes an object of a built-in kind. Unknown fields are ignored: newer Kubernetes versions add fields.
    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        json::deserialize(&self.value).map_err(|error| self.error(&error.field, error.message))
    }
}

/// Returns the objects of a document: the elements of a list, or the document itself.
pub(super) fn split(value: Value, source: ObjectSource, errors: &mut Vec<ManifestError>) -> Vec<ManifestObject> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    if api_version.is_empty() || kind.is_empty() {
        errors.push(source.error("", "", "is not a Kubernetes object: apiVersion and kind are required"));
        return Vec::new();
    }
    let element_kind = kind.strip_suffix("List");
    match (element_kind, value) {
        (Some(element_kind), Value::Object(mut list)) if list.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = list.remove("items") else { return Vec::new() };
            let objects = items.into_iter().enumerate().flat_map(|(index, mut value)| {
                // The elements of a typed list, such as PodList, may omit kind and apiVersion.
                if let (false, Value::Object(object)) = (element_kind.is_empty(), &mut value) {
                    object.entry("kind").or_insert_with(|| element_kind.into());
                    object.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
                }
                split(value, source.nested(&format!("items[{index}]")), errors)
            });
            objects.collect()
        }
        (_, value) => {
            let metadata = value.get("metadata").unwrap_or(&Value::Null);
            let name = text(metadata, "name");
            let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
            let namespace = namespace.map(str::to_owned);
            vec![ManifestObject { api_version, kind, name, namespace, value, source }]
        }
    }
}
