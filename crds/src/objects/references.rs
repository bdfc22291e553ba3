//! What profiles refer to, and whether it is there.

use std::collections::BTreeMap;

use super::Objects;
use super::source::Problem;
use crate::metadataprofile::{KeyReference, MetadataProfileSpec};

/// The keys that static credentials need.
const CREDENTIALS: [&str; 2] = ["accessKeyId", "secretAccessKey"];

/// A Secret or ConfigMap that a profile names.
#[derive(Debug)]
pub(super) struct Reference {
    /// The field that names it.
    pub(super) field: String,
    pub(super) target: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    /// The name of a Secret with static credentials.
    Credentials(String),
    SecretKey(KeyReference),
    ConfigMapKey(KeyReference),
}

/// All references of a profile.
pub(super) fn references(spec: &MetadataProfileSpec) -> Vec<Reference> {
    let roles = spec.roles.iter().enumerate().filter_map(|(at, role)| {
        let secret = role.secret.as_ref()?;
        Some(Reference {
            field: format!("spec.roles[{at}].secret.name"),
            target: Target::Credentials(secret.name.clone()),
        })
    });
    let secret = spec
        .user_data
        .iter()
        .filter_map(|data| data.secret_key_ref.clone())
        .map(|key| Reference { field: "spec.userData.secretKeyRef".to_owned(), target: Target::SecretKey(key) });
    let config_map = spec
        .user_data
        .iter()
        .filter_map(|data| data.config_map_key_ref.clone())
        .map(|key| Reference { field: "spec.userData.configMapKeyRef".to_owned(), target: Target::ConfigMapKey(key) });
    roles.chain(secret).chain(config_map).collect()
}

/// Every Secret, ConfigMap and key that a profile refers to and that is not there.
#[must_use]
pub fn check_references(objects: &Objects) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (namespace, name, references) in &objects.references {
        for reference in references {
            let Some((field, message)) = missing(objects, namespace, reference) else { continue };
            let Some(source) = objects.source("MetadataProfile", namespace, name) else { continue };
            problems.push(source.problem(&format!("MetadataProfile {namespace}/{name}"), &field, message));
        }
    }
    problems
}

/// The field that refers to something missing, and what that is.
fn missing(objects: &Objects, namespace: &str, reference: &Reference) -> Option<(String, String)> {
    match &reference.target {
        Target::Credentials(name) => {
            let what = format!("Secret {namespace}/{name}");
            match objects.secret(namespace, name) {
                None => Some((reference.field.clone(), format!("there is no {what}"))),
                Some(data) => {
                    let key = CREDENTIALS.into_iter().find(|key| !data.contains_key(*key))?;
                    Some((reference.field.clone(), format!("{what} has no key {key}")))
                }
            }
        }
        Target::SecretKey(key) => {
            missing_key("Secret", namespace, key, &reference.field, objects.secret(namespace, &key.name))
        }
        Target::ConfigMapKey(key) => {
            missing_key("ConfigMap", namespace, key, &reference.field, objects.config_map(namespace, &key.name))
        }
    }
}

fn missing_key<T>(
    kind: &str,
    namespace: &str,
    key: &KeyReference,
    field: &str,
    data: Option<&BTreeMap<String, T>>,
) -> Option<(String, String)> {
    let what = format!("{kind} {namespace}/{}", key.name);
    match data {
        None => Some((format!("{field}.name"), format!("there is no {what}"))),
        Some(data) if !data.contains_key(&key.key) => Some((format!("{field}.key"), format!("{what} has no such key"))),
        Some(_) => None,
    }
}
