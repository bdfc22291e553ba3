//! A profile as the API server holds it: its newest generation, and the newest that is valid.
//!
//! The API server refuses most of what is wrong. What it cannot judge, such as a CEL expression, comes through: then pods
//! are served by the last valid generation, which the leader keeps in the status, so that every replica, whenever it
//! started, serves them the same.

use kube::api::ObjectMeta;
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MetadataProfile, MetadataProfileStatus};
use podmeta_crds::{objects, profile};
use podmeta_metadata::profile::{Profile, ProfileRef};
use serde_json::{Value, json};

/// A profile as the API server holds it.
#[derive(Debug)]
pub struct ProfileObject {
    /// Which generation of which profile.
    pub reference: ProfileRef,
    /// That generation, or what is wrong with it.
    pub spec: Result<Valid, Invalid>,
    /// What was said of it last.
    pub status: Option<MetadataProfileStatus>,
}

/// A generation that can be used.
#[derive(Clone, Debug)]
pub struct Valid {
    /// What it says.
    pub profile: Profile,
    /// The same as it was written.
    pub written: LastValid,
}

/// A generation that cannot be used.
#[derive(Debug)]
pub struct Invalid {
    /// What is wrong.
    pub errors: Vec<FieldError>,
    /// The newest generation that is valid, as far as the status has it.
    pub last_valid: Option<Valid>,
    /// A profile for the same pods that serves them nothing, if it can be told which pods those are.
    pub shut: Option<Profile>,
}

/// Reads a profile, valid or not: the whole object, and its metadata once more.
#[must_use]
pub fn read(metadata: &ObjectMeta, object: &Value) -> ProfileObject {
    let reference = ProfileRef {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    };
    let status = object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
    let (errors, shut) = match objects::read::<MetadataProfile>(object) {
        Ok(read) => match profile::validate(&read) {
            Ok(profile) => {
                let spec = object.get("spec").map(ascii).unwrap_or_default();
                let written = LastValid { generation: reference.generation, spec };
                return ProfileObject { reference, spec: Ok(Valid { profile, written }), status };
            }
            Err(errors) => (errors, profile::shut(&read)),
        },
        Err(error) => (vec![error], None),
    };
    let last_valid = last_valid(object).filter(|last| last.written.generation < reference.generation);
    ProfileObject { reference, spec: Err(Invalid { errors, last_valid, shut }), status }
}

fn last_valid(object: &Value) -> Option<Valid> {
    let written = object.get("status")?.get("lastValid")?;
    let written: LastValid = serde_json::from_value(written.clone()).ok()?;
    let mut metadata = object.get("metadata")?.clone();
    metadata.as_object_mut()?.insert("generation".to_owned(), written.generation.into());
    let spec: Value = serde_json::from_str(&written.spec).ok()?;
    let read = objects::read(&json!({"metadata": metadata, "spec": spec})).ok()?;
    let profile = profile::validate(&read).ok()?;
    Some(Valid { profile, written })
}

/// JSON of visible ASCII characters and spaces alone.
fn ascii(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            ' '..='~' => text.push(character),
            // JSON has nothing else outside of strings, and in them each may stand as its UTF-16 code units.
            _ => {
                let mut units = [0; 2];
                let units = character.encode_utf16(&mut units);
                text.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "1 +";

    /// A profile of this generation with an item of this expression.
    fn profile(generation: i64, expression: &str, status: Value) -> ProfileObject {
        let item = json!({"dialect": "ec2", "path": "meta-data/sum", "expression": expression});
        let object = json!({
            "apiVersion": podmeta_crds::crd::API_VERSION,
            "kind": "MetadataProfile",
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "u1", "generation": generation,
                "creationTimestamp": "2026-01-05T08:00:00Z",
            },
            "spec": {"dialects": ["ec2"], "metadata": [item]},
            "status": status,
        });
        read(&serde_json::from_value(object["metadata"].clone()).unwrap(), &object)
    }

    #[test]
    fn a_valid_generation_is_the_last_valid_one() {
        let valid = profile(2, "'zwölf'", json!({})).spec.unwrap();
        assert_eq!((valid.profile.object.generation, valid.written.generation), (2, 2));
        assert!(valid.written.spec.is_ascii());
        let spec: Value = serde_json::from_str(&valid.written.spec).unwrap();
        assert_eq!(spec["metadata"][0]["expression"], "'zwölf'");
    }

    #[test]
    fn what_is_wrong_is_told_and_the_status_has_what_was_valid_before() {
        let written = profile(2, "'two'", json!({})).spec.unwrap().written;
        let invalid = profile(3, BAD, json!({"lastValid": written})).spec.unwrap_err();
        assert_eq!(invalid.errors[0].field, "spec.metadata[0].expression");
        let last = invalid.last_valid.unwrap();
        assert_eq!((last.profile.object.generation, last.written), (2, written));
        assert_eq!(last.profile.items.len(), 1);
    }

    #[test]
    fn what_is_kept_is_ascii_and_says_the_same() {
        let text = json!({"text": "a\u{80}\u{85}\u{2028}ä\u{fffe}\u{1f600}\n\"\\ b\u{7f}"});
        let kept = ascii(&text);
        assert!(kept.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{kept}");
        assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), text);
    }

    #[test]
    fn a_status_that_has_none_or_a_wrong_one_leaves_the_pods_shut() {
        let wrong = json!({"lastValid": {"generation": 2, "spec": r#"{"dialects": ["gce"]}"#}});
        let spec = profile(2, "'two'", json!({})).spec.unwrap().written.spec;
        let later = json!({"lastValid": {"generation": 3, "spec": spec}});
        for status in [json!({}), wrong, later] {
            let invalid = profile(3, BAD, status).spec.unwrap_err();
            assert!(invalid.last_valid.is_none());
            assert!(invalid.shut.unwrap().dialects.is_empty());
        }
    }
}
