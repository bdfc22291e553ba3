//! The Kubernetes objects of a case: a fixture and patches.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The Kubernetes objects that the agent of a case sees.
#[derive(Clone, Debug)]
pub(super) struct CaseObjects {
    all: Vec<Value>,
    /// Deleted Secrets, by namespace and name. The manifest loader rejects references to missing Secrets, a cluster
    /// does not. Deleted Secrets therefore stay in the manifests, but the broker does not return them.
    deleted: BTreeSet<(String, String)>,
}

impl CaseObjects {
    /// Reads `objects/NAME.yaml`.
    pub(super) fn read(cases_dir: &Path, name: &str) -> anyhow::Result<Self> {
        let path = cases_dir.join("objects").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let all = serde_saphyr::from_multiple(&text).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { all, deleted: BTreeSet::new() })
    }

    /// Applies merge patches. A patch changes the object with the same kind, namespace and name, or adds a new object.
    /// `$patch: delete` deletes the object.
    pub(super) fn patch(&mut self, patches: &[Value]) -> anyhow::Result<()> {
        for patch in patches {
            let (kind, namespace, name) = key(patch);
            let secret = (kind == "Secret").then(|| (namespace.to_owned(), name.to_owned()));
            let at = self.all.iter().position(|object| key(object) == key(patch));
            match (at, patch.get("$patch").and_then(Value::as_str)) {
                (Some(_), Some("delete")) if secret.is_some() => self.deleted.extend(secret),
                (Some(at), Some("delete")) => drop(self.all.remove(at)),
                (_, Some(_)) => bail!("no object to delete matches {patch}"),
                (Some(at), None) => {
                    merge(self.all.get_mut(at).context("object index is out of range")?, patch);
                    self.deleted.retain(|deleted| Some(deleted) != secret.as_ref());
                }
                (None, None) => {
                    let mut object = Value::Null;
                    merge(&mut object, patch);
                    if object.get("apiVersion").is_none() {
                        bail!("no object to patch matches {patch}");
                    }
                    self.all.push(object);
                }
            }
        }
        Ok(())
    }

    /// Returns true if the Secret, given by namespace and name, was deleted.
    pub(super) fn is_deleted(&self, secret: &(String, String)) -> bool {
        self.deleted.contains(secret)
    }

    /// Returns the objects as a multi-document YAML file.
    pub(super) fn yaml(&self) -> String {
        self.all.iter().map(|object| format!("---\n{object}\n")).collect() // JSON is YAML
    }
}

/// Returns kind, namespace and name. The namespace defaults to `default`, as in kubectl.
fn key(object: &Value) -> (&str, &str, &str) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    (
        text("/kind").unwrap_or_default(),
        text("/metadata/namespace").unwrap_or("default"),
        text("/metadata/name").unwrap_or_default(),
    )
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patch_changes_adds_and_deletes_objects() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}});
        let mut objects = CaseObjects { all: vec![pod, secret], deleted: BTreeSet::new() };
        let same = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "default", "labels": {"x": null}}});
        objects.patch(&[same]).unwrap();
        assert_eq!(objects.all[0].pointer("/metadata/labels"), Some(&json!({"y": "2"})));
        assert!(objects.patch(&[json!({"kind": "Pod", "metadata": {"name": "b"}})]).is_err());
        objects.patch(&[json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}})]).unwrap();
        assert_eq!(objects.all.len(), 3);
        let delete = json!({"$patch": "delete", "kind": "Pod", "metadata": {"name": "a"}});
        objects.patch(std::slice::from_ref(&delete)).unwrap();
        assert_eq!(objects.all.len(), 2);
        assert!(objects.patch(&[delete]).is_err());
        let of_secret = ("default".to_owned(), "s".to_owned());
        objects.patch(&[json!({"$patch": "delete", "kind": "Secret", "metadata": {"name": "s"}})]).unwrap();
        assert!(objects.is_deleted(&of_secret));
        objects.patch(&[json!({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})]).unwrap();
        assert!(!objects.is_deleted(&of_secret));
    }
}
