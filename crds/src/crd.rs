//! The definitions of both resources as they are published: what kube derives, without `nullable`.
//!
//! No field means anything by null. Where null is not allowed the API server drops it, so that `has()` in a rule is true
//! only of what was really set.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::metadatapolicy::MetadataPolicy;
use crate::metadataprofile::MetadataProfile;

/// The group of both resources.
pub const GROUP: &str = "podmeta.dev";
/// Group and version of both resources.
pub const API_VERSION: &str = "podmeta.dev/v1alpha1";

/// A definition and the name of the file it is published in.
pub struct Published {
    /// Such as `metadataprofiles.yaml`.
    pub file: &'static str,
    /// The definition.
    pub definition: CustomResourceDefinition,
}

/// Both definitions.
///
/// # Errors
/// If a derived definition has no form in JSON; none is like that.
pub fn published() -> Result<[Published; 2], serde_json::Error> {
    Ok([
        Published { file: "metadataprofiles.yaml", definition: without_null(&MetadataProfile::crd())? },
        Published { file: "metadatapolicies.yaml", definition: without_null(&MetadataPolicy::crd())? },
    ])
}

fn without_null(definition: &CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(definition)?;
    drop_nullable(&mut value);
    let mut definition: CustomResourceDefinition = serde_json::from_value(value)?;
    let annotations = definition.metadata.annotations.get_or_insert_default();
    // With a definition all its objects would go.
    annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    Ok(definition)
}

fn drop_nullable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| key != "nullable" || !value.is_boolean());
            map.values_mut().for_each(drop_nullable);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nullable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Published {
    /// The definition as YAML, as it is checked in.
    ///
    /// # Errors
    /// If the definition has no form in YAML; none is like that.
    pub fn yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        Ok(format!("# Made by crdgen; do not edit.\n{}", serde_saphyr::to_string(&self.definition)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_definitions_are_what_the_types_say() {
        for published in published().unwrap() {
            let file = format!("{}/../charts/podmeta/files/crds/{}", env!("CARGO_MANIFEST_DIR"), published.file);
            assert!(
                std::fs::read_to_string(&file).unwrap_or_default() == published.yaml().unwrap(),
                "{file} is out of date; make it again: make crds"
            );
        }
    }

    #[test]
    fn every_string_and_list_of_a_spec_is_bounded_and_nothing_is_null() {
        fn walk(path: &str, schema: &Value) {
            let bound = match schema["type"].as_str() {
                Some("string") if schema.get("enum").is_none() => "maxLength",
                Some("array") => "maxItems",
                Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
                Some("integer") => "maximum",
                _ => "type",
            };
            assert!(schema.get(bound).is_some(), "{path} has no {bound}");
            assert!(schema.get("nullable").is_none(), "{path} may be null");
            assert!(schema.get("description").is_some() || path.ends_with("[]"), "{path} has no description");
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                walk(&format!("{path}.{name}"), property);
            }
            if let Some(items) = schema.get("items") {
                walk(&format!("{path}[]"), items);
            }
        }
        for published in published().unwrap() {
            let definition = serde_json::to_value(&published.definition).unwrap();
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk("spec", &schema["properties"]["spec"]);
        }
    }
}
