//! Each rule once accepted and once refused, both by the published schema with its CEL rules, as the API server runs
//! them, and by the conversion, so that the two cannot disagree.

mod bounds;
mod cases;

use kube::core::cel::Validator;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::cases::{Case, Verdict};
use crate::field::FieldError;
use crate::metadatapolicy::MetadataPolicy;
use crate::metadataprofile::MetadataProfile;
use crate::{crd, policy, profile, yaml};

fn schema(kind: &str) -> Value {
    let published = crd::published().unwrap();
    let definition = published.iter().find(|published| published.definition.spec.names.kind == kind).unwrap();
    let definition = serde_json::to_value(&definition.definition).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn object(kind: &str, spec: &str) -> Value {
    let (documents, faults) = yaml::documents(spec);
    assert_eq!(faults, [], "{spec}");
    json!({
        "apiVersion": crd::API_VERSION,
        "kind": kind,
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
        },
        "spec": documents.first().map_or(json!({}), |document| document.value.clone()),
    })
}

/// What the API server says: defaults first, then bounds and lists, then rules.
fn server(schema: &Value, object: &Value) -> Vec<String> {
    let object = bounds::with_defaults(schema, object);
    let mut errors = bounds::check(schema, &object);
    if let Err(failed) = Validator::new().validate(schema, &object, None) {
        errors.extend(failed.as_slice().iter().map(|error| format!("{}: {}", error.field_path, error.message)));
    }
    errors
}

fn conversion<K: DeserializeOwned, T>(object: &Value, validate: fn(&K) -> Result<T, Vec<FieldError>>) -> Vec<String> {
    match serde_path_to_error::deserialize::<_, K>(object) {
        Err(error) => vec![format!("{}: {}", error.path(), error.inner())],
        Ok(object) => validate(&object).err().unwrap_or_default().iter().map(ToString::to_string).collect(),
    }
}

fn agree<K: DeserializeOwned, T>(kind: &str, cases: &[Case], validate: fn(&K) -> Result<T, Vec<FieldError>>) {
    let schema = schema(kind);
    for case in cases {
        let object = object(kind, &case.spec);
        let (server, conversion) = (server(&schema, &object), conversion(&object, validate));
        let name = case.name;
        let said = |errors: &[String], part: &str| errors.iter().any(|error| error.contains(part));
        match &case.verdict {
            Verdict::Accepted => {
                assert_eq!(server, [""; 0], "the API server refuses: {name}");
                assert_eq!(conversion, [""; 0], "the conversion refuses: {name}");
            }
            Verdict::Refused { server: by_server, conversion: by_conversion } => {
                assert!(said(&server, by_server), "the API server says {server:?}, not {by_server:?}: {name}");
                assert!(
                    said(&conversion, by_conversion),
                    "the conversion says {conversion:?}, not {by_conversion:?}: {name}"
                );
            }
            Verdict::RefusedWithoutServer(part) => {
                assert_eq!(server, [""; 0], "the API server can say so after all: {name}");
                assert!(said(&conversion, part), "the conversion says {conversion:?}, not {part:?}: {name}");
            }
        }
    }
}

#[test]
fn profiles_are_accepted_and_refused_alike_by_schema_and_conversion() {
    agree::<MetadataProfile, _>("MetadataProfile", &cases::profiles(), profile::validate);
}

#[test]
fn policies_are_accepted_and_refused_alike_by_schema_and_conversion() {
    agree::<MetadataPolicy, _>("MetadataPolicy", &cases::policies(), policy::validate);
}

#[test]
fn every_rule_compiles_and_refuses_some_case() {
    fn rules(schema: &Value, found: &mut Vec<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.push(rule["message"].as_str().unwrap().to_owned());
        }
        schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.values())
            .for_each(|schema| rules(schema, found));
        if let Some(items) = schema.get("items") {
            rules(items, found);
        }
    }
    for (kind, cases) in [("MetadataProfile", cases::profiles()), ("MetadataPolicy", cases::policies())] {
        let schema = schema(kind);
        let mut messages = Vec::new();
        rules(&schema["properties"]["spec"], &mut messages);
        let said = cases.iter().flat_map(|case| server(&schema, &object(kind, &case.spec))).collect::<Vec<_>>();
        for message in messages {
            assert!(said.iter().any(|error| error.contains(&message)), "no case of {kind} is refused with {message:?}");
        }
    }
}
