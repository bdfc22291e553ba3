//! Checks that the schema with its CEL rules and the conversion agree: both accept or both reject each case.

mod api_server;
mod cases;

use kube::core::cel::Validator;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::cases::{ExpectedResult, SpecCase};
use crate::convert::field::FieldError;
use crate::manifests::yaml;
use crate::metadatapolicy::MetadataPolicy;
use crate::metadataprofile::MetadataProfile;
use crate::{crd, policy, profile};

fn schema(kind: &str) -> Value {
    let generated = crd::generate().unwrap();
    let generated = generated.iter().find(|generated| generated.definition.spec.names.kind == kind).unwrap();
    let definition = serde_json::to_value(&generated.definition).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn object(kind: &str, spec: &str) -> Value {
    let (documents, errors) = yaml::parse(spec);
    assert_eq!(errors, [], "{spec}");
    json!({
        "apiVersion": crd::API_VERSION,
        "kind": kind,
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
        },
        "spec": documents.first().map_or(json!({}), |document| document.value.clone()),
    })
}

/// Returns the errors of the API server: it sets defaults, then checks bounds and lists, then CEL rules.
fn schema_errors(schema: &Value, object: &Value) -> Vec<String> {
    let object = api_server::set_defaults(schema, object);
    let mut errors = api_server::check(schema, &object);
    if let Err(failed) = Validator::new().validate(schema, &object, None) {
        errors.extend(failed.as_slice().iter().map(|error| format!("{}: {}", error.field_path, error.message)));
    }
    errors
}

fn conversion_errors<K: DeserializeOwned, T>(
    object: &Value,
    validate: fn(&K) -> Result<T, Vec<FieldError>>,
) -> Vec<String> {
    match serde_path_to_error::deserialize::<_, K>(object) {
        Err(error) => vec![format!("{}: {}", error.path(), error.inner())],
        Ok(object) => validate(&object).err().unwrap_or_default().iter().map(ToString::to_string).collect(),
    }
}

fn check_cases<K: DeserializeOwned, T>(kind: &str, cases: &[SpecCase], validate: fn(&K) -> Result<T, Vec<FieldError>>) {
    let schema = schema(kind);
    for case in cases {
        let object = object(kind, &case.spec);
        let (by_schema, by_conversion) = (schema_errors(&schema, &object), conversion_errors(&object, validate));
        let name = case.name;
        let has = |errors: &[String], message: &str| errors.iter().any(|error| error.contains(message));
        match &case.expected {
            ExpectedResult::Accepted => {
                assert_eq!(by_schema, [""; 0], "{name}: rejected by the schema");
                assert_eq!(by_conversion, [""; 0], "{name}: rejected by the conversion");
            }
            ExpectedResult::Rejected { schema, conversion } => {
                assert!(has(&by_schema, schema), "{name}: errors of the schema: {by_schema:?}, expected {schema:?}");
                assert!(
                    has(&by_conversion, conversion),
                    "{name}: errors of the conversion: {by_conversion:?}, expected {conversion:?}"
                );
            }
            ExpectedResult::RejectedByConversion(message) => {
                assert_eq!(by_schema, [""; 0], "{name}: rejected by the schema");
                assert!(
                    has(&by_conversion, message),
                    "{name}: errors of the conversion: {by_conversion:?}, expected {message:?}"
                );
            }
        }
    }
}

#[test]
fn schema_and_conversion_agree_on_profiles() {
    check_cases::<MetadataProfile, _>("MetadataProfile", &cases::profiles(), profile::validate);
}

#[test]
fn schema_and_conversion_agree_on_policies() {
    check_cases::<MetadataPolicy, _>("MetadataPolicy", &cases::policies(), policy::validate);
}

#[test]
fn every_cel_rule_rejects_some_case() {
    fn collect_messages(schema: &Value, messages: &mut Vec<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            messages.push(rule["message"].as_str().unwrap().to_owned());
        }
        for property in schema["properties"].as_object().into_iter().flat_map(|map| map.values()) {
            collect_messages(property, messages);
        }
        if let Some(items) = schema.get("items") {
            collect_messages(items, messages);
        }
    }
    for (kind, cases) in [("MetadataProfile", cases::profiles()), ("MetadataPolicy", cases::policies())] {
        let schema = schema(kind);
        let mut messages = Vec::new();
        collect_messages(&schema["properties"]["spec"], &mut messages);
        let errors = cases.iter().flat_map(|case| schema_errors(&schema, &object(kind, &case.spec)));
        let errors = errors.collect::<Vec<_>>();
        for message in messages {
            assert!(
                errors.iter().any(|error| error.contains(&message)),
                "{kind}: no case is rejected with {message:?}"
            );
        }
    }
}
