//! An object from the API server that may be unreadable. Kubernetes accepts values that Rust types cannot hold, such as a
//! time in the year 10000. A list is deserialized as a whole, so without this type one such object would hide all others.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object, or the metadata of an object that cannot be deserialized. `metadata.managedFields` is removed.
#[derive(Clone, Debug)]
pub enum MaybeObject<K> {
    /// The object.
    Readable(K),
    /// The object cannot be deserialized.
    Unreadable {
        /// The name, namespace, UID and resource version.
        metadata: Box<ObjectMeta>,
        /// The error. It can contain values of the object, so it must not be logged for a Secret.
        error: String,
    },
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for MaybeObject<K> {
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
            Ok(object) => Self::Readable(object),
            Err(error) => Self::Unreadable { metadata: Box::new(metadata), error: error.to_string() },
        })
    }
}

impl<K: Resource> Resource for MaybeObject<K> {
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
            Self::Readable(object) => object.meta(),
            Self::Unreadable { metadata, .. } => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(object) => object.meta_mut(),
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

    /// A time that Go accepts and `Timestamp` cannot hold.
    const YEAR_9999: &str = "9999-12-31T23:59:59Z";

    fn node(name: &str, heartbeat: &str) -> Value {
        let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat});
        let metadata = json!({"name": name, "uid": "u", "resourceVersion": "7"});
        json!({"metadata": metadata, "status": {"conditions": [condition]}})
    }

    #[test]
    fn list_with_an_unreadable_object_keeps_the_others() {
        let list = json!({
            "kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
            "items": [node("bad", YEAR_9999), node("good", "2026-01-05T08:30:00Z")],
        });
        assert!(serde_json::from_value::<ObjectList<Node>>(list.clone()).is_err(), "the plain type fails");
        let list: ObjectList<MaybeObject<Node>> = serde_json::from_str(&list.to_string()).unwrap();
        let [MaybeObject::Unreadable { metadata, .. }, MaybeObject::Readable(good)] = &list.items[..] else {
            panic!("{list:?}")
        };
        assert_eq!((metadata.name.as_deref(), metadata.uid.as_deref()), (Some("bad"), Some("u")));
        assert_eq!(metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(good.metadata.name.as_deref(), Some("good"));
    }

    #[test]
    fn watch_event_of_an_unreadable_object_is_read() {
        let event = json!({"type": "DELETED", "object": node("bad", YEAR_9999)});
        let event: WatchEvent<MaybeObject<Node>> = serde_json::from_str(&event.to_string()).unwrap();
        assert!(matches!(event, WatchEvent::Deleted(MaybeObject::Unreadable { .. })));
    }

    #[test]
    fn managed_fields_are_ignored() {
        let metadata = json!({"name": "keys", "managedFields": [{"manager": "kubectl", "time": YEAR_9999}]});
        let secret = json!({"metadata": metadata, "data": {"key": "dmFsdWU="}});
        assert!(serde_json::from_value::<Secret>(secret.clone()).is_err(), "the plain type fails");
        let MaybeObject::Readable(secret) = serde_json::from_value::<MaybeObject<Secret>>(secret).unwrap() else {
            panic!()
        };
        assert_eq!(secret.data.unwrap()["key"].0, b"value");
        assert!(secret.metadata.managed_fields.is_none());
    }
}
