//! An object as the API server gives it. Kubernetes holds values that Rust's types do not, such as a time in the year 10000,
//! and a list is read as a whole: without this one such object would hide all others.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object that was read, or what it is called by. Who manages which field (`metadata.managedFields`) is left out.
#[derive(Clone, Debug)]
pub enum Object<K> {
    /// All of it.
    Whole(K),
    /// It could not be read.
    Unreadable {
        /// Its name, namespace, UID and version.
        metadata: Box<ObjectMeta>,
        /// Why. It may quote the object.
        why: String,
    },
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Object<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let text = |field: &str| value.get("metadata")?.get(field)?.as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(match serde_json::from_value(value) {
            Ok(object) => Self::Whole(object),
            Err(error) => Self::Unreadable { metadata: Box::new(metadata), why: error.to_string() },
        })
    }
}

impl<K: Resource> Resource for Object<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Whole(object) => object.meta(),
            Self::Unreadable { metadata, .. } => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Whole(object) => object.meta_mut(),
            Self::Unreadable { metadata, .. } => metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Secret};
    use kube::api::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    /// What Go's JSON takes and gives back, and no `Timestamp` holds.
    const FAR: &str = "9999-12-31T23:59:59Z";

    fn node(name: &str, heartbeat: &str) -> Value {
        let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat});
        let metadata = json!({"name": name, "uid": "u", "resourceVersion": "7"});
        json!({"metadata": metadata, "status": {"conditions": [condition]}})
    }

    #[test]
    fn one_object_that_cannot_be_read_hides_no_other_of_its_list() {
        let list = json!({
            "kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
            "items": [node("bad", FAR), node("good", "2026-01-05T08:30:00Z")],
        });
        assert!(serde_json::from_value::<ObjectList<Node>>(list.clone()).is_err(), "this is why");
        let list: ObjectList<Object<Node>> = serde_json::from_str(&list.to_string()).unwrap();
        let [Object::Unreadable { metadata, .. }, Object::Whole(good)] = &list.items[..] else { panic!("{list:?}") };
        assert_eq!((metadata.name.as_deref(), metadata.uid.as_deref()), (Some("bad"), Some("u")));
        assert_eq!(metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(good.metadata.name.as_deref(), Some("good"));
    }

    #[test]
    fn a_watch_tells_of_an_object_that_cannot_be_read_as_of_any_other() {
        let event = json!({"type": "DELETED", "object": node("bad", FAR)});
        let event: WatchEvent<Object<Node>> = serde_json::from_str(&event.to_string()).unwrap();
        assert!(matches!(event, WatchEvent::Deleted(Object::Unreadable { .. })));
    }

    #[test]
    fn who_manages_which_field_is_not_read() {
        let metadata = json!({"name": "keys", "managedFields": [{"manager": "kubectl", "time": FAR}]});
        let secret = json!({"metadata": metadata, "data": {"key": "dmFsdWU="}});
        assert!(serde_json::from_value::<Secret>(secret.clone()).is_err(), "this is why");
        let Object::Whole(secret) = serde_json::from_value::<Object<Secret>>(secret).unwrap() else { panic!() };
        assert_eq!(secret.data.unwrap()["key"].0, b"value");
        assert!(secret.metadata.managed_fields.is_none());
    }
}
