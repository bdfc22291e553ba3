//! References of profiles to Secrets and ConfigMaps, and a check that their objects and keys exist.

use podmeta_metadata::credentials::not_usable;

use super::LoadedObjects;
use super::error::ManifestError;
use crate::metadataprofile::{KeyRefSpec, MetadataProfileSpec};

/// The required keys of a Secret with static credentials.
const CREDENTIALS_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];

/// A reference of a profile to a Secret or ConfigMap.
#[derive(Debug)]
pub(super) struct ProfileReference {
    /// The namespace of the profile.
    namespace: String,
    /// The name of the profile.
    name: String,
    /// The field of the profile that contains the reference.
    field: String,
    target: ReferenceTarget,
}

#[derive(Debug)]
enum ReferenceTarget {
    /// The name of a Secret with static credentials.
    Credentials(String),
    SecretKey(KeyRefSpec),
    ConfigMapKey(KeyRefSpec),
}

/// Returns all references of a profile.
pub(super) fn of_profile(namespace: &str, name: &str, spec: &MetadataProfileSpec) -> Vec<ProfileReference> {
    let roles = spec.roles.iter().enumerate().filter_map(|(index, role)| {
        let secret = role.secret.as_ref()?;
        Some((format!("spec.roles[{index}].secret.name"), ReferenceTarget::Credentials(secret.name.clone())))
    });
    let secret_key = spec.user_data.iter().filter_map(|data| data.secret_key_ref.clone());
    let secret_key = secret_key.map(|key| ("spec.userData.secretKeyRef".to_owned(), ReferenceTarget::SecretKey(key)));
    let config_map_key = spec.user_data.iter().filter_map(|data| data.config_map_key_ref.clone());
    let config_map_key =
        config_map_key.map(|key| ("spec.userData.configMapKeyRef".to_owned(), ReferenceTarget::ConfigMapKey(key)));
    let references = roles.chain(secret_key).chain(config_map_key);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    references
        .map(|(field, target)| ProfileReference { namespace: namespace.clone(), name: name.clone(), field, target })
        .collect()
}

/// Returns an error for each invalid reference of a profile. A reference is invalid if the object or the key does not
/// exist, or if profiles cannot use the Secret.
#[must_use]
pub fn check_references(objects: &LoadedObjects) -> Vec<ManifestError> {
    let errors = objects.references.iter().filter_map(|reference| {
        let ProfileReference { namespace, name, .. } = reference;
        let (field, message) = find_missing(objects, reference)?;
        let source = objects.source("MetadataProfile", namespace, name)?;
        Some(source.error(&format!("MetadataProfile {namespace}/{name}"), &field, message))
    });
    errors.collect()
}

/// Returns the field and the message if the target does not exist or cannot be used.
fn find_missing(objects: &LoadedObjects, reference: &ProfileReference) -> Option<(String, String)> {
    let ProfileReference { namespace, field, target, .. } = reference;
    match target {
        ReferenceTarget::Credentials(name) => {
            let Some(data) = objects.secret(namespace, name) else {
                return Some((field.clone(), not_usable(namespace, name)));
            };
            let key = CREDENTIALS_KEYS.into_iter().find(|key| data.get(key).is_none())?;
            Some((field.clone(), format!("Secret {namespace}/{name} has no key {key}")))
        }
        ReferenceTarget::SecretKey(KeyRefSpec { name, key }) => match objects.secret(namespace, name) {
            None => Some((format!("{field}.name"), not_usable(namespace, name))),
            Some(data) if data.get(key).is_none() => {
                Some((format!("{field}.key"), format!("Secret {namespace}/{name} has no key {key}")))
            }
            Some(_) => None,
        },
        ReferenceTarget::ConfigMapKey(KeyRefSpec { name, key }) => match objects.config_map(namespace, name) {
            None => Some((format!("{field}.name"), format!("ConfigMap {namespace}/{name} does not exist"))),
            Some(data) if !data.contains_key(key) => {
                Some((format!("{field}.key"), format!("ConfigMap {namespace}/{name} has no key {key}")))
            }
            Some(_) => None,
        },
    }
}
