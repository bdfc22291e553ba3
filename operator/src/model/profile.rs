//! Reads a profile object from the API server: its newest generation and the last valid one.
//!
//! The API server rejects most invalid specs. It cannot check some, such as CEL expressions. While such a spec is stored,
//! pods keep the last valid generation. The leader keeps it in the status, so that all replicas serve the same one, also
//! after a restart.

use std::sync::Arc;

use kube::api::ObjectMeta;
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MetadataProfile, MetadataProfileStatus};
use podmeta_crds::{json, profile};
use podmeta_metadata::profile::{Profile, ProfileRef};
use serde_json::{Value, json};

/// A profile object of the API server.
#[derive(Debug)]
pub struct ProfileObject {
    /// The profile and its generation.
    pub reference: ProfileRef,
    /// The parsed spec, or its invalid fields.
    pub spec: Result<ValidSpec, InvalidSpec>,
    /// The status.
    pub status: Option<MetadataProfileStatus>,
}

/// A valid spec, in the core's types and as text.
#[derive(Clone, Debug)]
pub struct ValidSpec {
    /// The parsed spec. Shared with the pods that are compiled.
    pub profile: Arc<Profile>,
    /// The generation, and the spec as ASCII JSON, in the form that the status holds.
    pub written: LastValid,
}

/// An invalid spec.
#[derive(Debug)]
pub struct InvalidSpec {
    /// The invalid fields.
    pub errors: Vec<FieldError>,
    /// The last valid generation, if the status holds it.
    pub last_valid: Option<ValidSpec>,
    /// A profile that selects the same pods and denies them, or `None` if the selector is invalid.
    pub deny_all: Option<Arc<Profile>>,
}

/// Parses a profile. `object` is the whole object, `metadata` its parsed metadata.
#[must_use]
pub fn read(metadata: &ObjectMeta, object: &Value) -> ProfileObject {
    let reference = ProfileRef {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    };
    let status = object.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
    let (errors, deny_all) = match json::deserialize::<MetadataProfile>(object) {
        Ok(read) => match profile::validate(&read) {
            Ok(profile) => {
                let spec = object.get("spec").map(to_ascii_json).unwrap_or_default();
                let written = LastValid { generation: reference.generation, spec };
                return ProfileObject { reference, spec: Ok(ValidSpec { profile: profile.into(), written }), status };
            }
            Err(errors) => (errors, profile::deny_all(&read).map(Arc::new)),
        },
        Err(error) => (vec![error], None),
    };
    let last_valid = last_valid(object).filter(|last| last.written.generation < reference.generation);
    ProfileObject { reference, spec: Err(InvalidSpec { errors, last_valid, deny_all }), status }
}

fn last_valid(object: &Value) -> Option<ValidSpec> {
    let written = object.get("status")?.get("lastValid")?;
    let written: LastValid = serde_json::from_value(written.clone()).ok()?;
    let mut metadata = object.get("metadata")?.clone();
    metadata.as_object_mut()?.insert("generation".to_owned(), written.generation.into());
    let spec: Value = serde_json::from_str(&written.spec).ok()?;
    let read = json::deserialize(&json!({"metadata": metadata, "spec": spec})).ok()?;
    let profile = profile::validate(&read).ok()?;
    Some(ValidSpec { profile: profile.into(), written })
}

/// Returns the value as JSON that consists of printable ASCII characters only.
fn to_ascii_json(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            ' '..='~' => text.push(character),
            // Other characters occur only in strings, where JSON allows UTF-16 escapes.
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

    const INVALID_CEL: &str = "1 +";

    /// Returns a profile with one item.
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
    fn valid_spec_is_also_the_last_valid_one() {
        let valid = profile(2, "'zwölf'", json!({})).spec.unwrap();
        assert_eq!((valid.profile.object.generation, valid.written.generation), (2, 2));
        assert!(valid.written.spec.is_ascii());
        let spec: Value = serde_json::from_str(&valid.written.spec).unwrap();
        assert_eq!(spec["metadata"][0]["expression"], "'zwölf'");
    }

    #[test]
    fn invalid_spec_has_errors_and_the_last_valid_spec_of_the_status() {
        let written = profile(2, "'two'", json!({})).spec.unwrap().written;
        let invalid = profile(3, INVALID_CEL, json!({"lastValid": written})).spec.unwrap_err();
        assert_eq!(invalid.errors[0].field, "spec.metadata[0].expression");
        let last = invalid.last_valid.unwrap();
        assert_eq!((last.profile.object.generation, last.written), (2, written));
        assert_eq!(last.profile.items.len(), 1);
    }

    #[test]
    fn ascii_json_parses_to_the_same_value() {
        let text = json!({"text": "a\u{80}\u{85}\u{2028}ä\u{fffe}\u{1f600}\n\"\\ b\u{7f}"});
        let kept = to_ascii_json(&text);
        assert!(kept.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{kept}");
        assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), text);
    }

    #[test]
    fn invalid_spec_without_usable_last_valid_denies_all() {
        let wrong = json!({"lastValid": {"generation": 2, "spec": r#"{"dialects": ["gce"]}"#}});
        let spec = profile(2, "'two'", json!({})).spec.unwrap().written.spec;
        let later = json!({"lastValid": {"generation": 3, "spec": spec}});
        for status in [json!({}), wrong, later] {
            let invalid = profile(3, INVALID_CEL, status).spec.unwrap_err();
            assert!(invalid.last_valid.is_none());
            assert!(invalid.deny_all.unwrap().dialects.is_empty());
        }
    }
}
