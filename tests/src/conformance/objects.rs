//! The Kubernetes objects of a case: a fixture, and the patches that make it another.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The objects that are there.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    all: Vec<Value>,
    /// Secrets that were deleted, by namespace and name. Files may not refer to what is not there, a cluster may: they
    /// stay in the files, and nobody gives them out.
    lost: BTreeSet<(String, String)>,
}

impl Objects {
    /// Reads `objects/NAME.yaml`.
    pub(super) fn read(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let path = folder.join("objects").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let all = serde_saphyr::from_multiple(&text).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { all, lost: BTreeSet::new() })
    }

    /// Applies patches: each changes the object of its kind, namespace and name, or is a new one; one that says
    /// `$patch: delete` takes the object away.
    pub(super) fn patch(&mut self, patches: &[Value]) -> anyhow::Result<()> {
        for patch in patches {
            let (kind, namespace, name) = key(patch);
            let secret = (kind == "Secret").then(|| (namespace.to_owned(), name.to_owned()));
            let at = self.all.iter().position(|object| key(object) == key(patch));
            match (at, patch.get("$patch").and_then(Value::as_str)) {
                (Some(_), Some("delete")) if secret.is_some() => self.lost.extend(secret),
                (Some(at), Some("delete")) => drop(self.all.remove(at)),
                (_, Some(_)) => bail!("there is no object to delete like {patch}"),
                (Some(at), None) => {
                    merge(self.all.get_mut(at).context("it was found")?, patch);
                    self.lost.retain(|lost| Some(lost) != secret.as_ref());
                }
                (None, None) => {
                    let mut object = Value::Null;
                    merge(&mut object, patch);
                    if object.get("apiVersion").is_none() {
                        bail!("there is no object to patch like {patch}");
                    }
                    self.all.push(object);
                }
            }
        }
        Ok(())
    }

    /// Whether a Secret, given by namespace and name, was deleted.
    pub(super) fn is_lost(&self, secret: &(String, String)) -> bool {
        self.lost.contains(secret)
    }

    /// The objects as a file has them.
    pub(super) fn yaml(&self) -> String {
        self.all.iter().map(|object| format!("---\n{object}\n")).collect() // JSON is YAML
    }
}

/// Kind, namespace and name. Objects without a namespace are in `default`, as kubectl has it.
fn key(object: &Value) -> (&str, &str, &str) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    (
        text("/kind").unwrap_or_default(),
        text("/metadata/namespace").unwrap_or("default"),
        text("/metadata/name").unwrap_or_default(),
    )
}

/// A JSON merge patch (RFC 7396).
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
    fn a_patch_changes_adds_and_deletes() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}});
        let mut objects = Objects { all: vec![pod, secret], lost: BTreeSet::new() };
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
        assert!(objects.is_lost(&of_secret));
        objects.patch(&[json!({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})]).unwrap();
        assert!(!objects.is_lost(&of_secret));
    }
}
