//! Converts a `MetadataProfile` to a validated profile.
//!
//! It repeats all checks of the schema and its CEL rules: the dev server loads profiles that no API server has checked.

mod instance;
mod item;
mod role;

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use jiff::Timestamp;
use kube::core::ObjectMeta;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::InvalidValue;
use podmeta_metadata::options::{HopLimit, HttpProtocolIpv6, Limits, MetadataOptions, ProcessUsers, TokenTtl};
use podmeta_metadata::profile::{KeyName, KeyRef, OpenSshKey, Profile, ProfileRef, PublicKey, UserDataSource};
use podmeta_metadata::tag::{LabelPattern, StaticTag, TagValue};

use super::field::{DUPLICATE, FieldError, FieldErrors, REQUIRED, check_range};
use super::label_selector;
use crate::api::{names, supports_ipv6};
use crate::metadataprofile::{
    KeyRefSpec, LimitsSpec, MAX_BURST, MAX_CONNECTIONS, MAX_LABEL_PATTERNS, MAX_PUBLIC_KEYS, MAX_REQUESTS_PER_SECOND,
    MAX_SERVICE_ACCOUNTS, MAX_STATIC_TAGS, MAX_USER_ID, MAX_USERS, MetadataOptionsSpec, MetadataProfile,
    MetadataProfileSpec, PublicKeySpec, TagsSpec, UserDataSpec, messages,
};

/// Validates and converts a profile.
///
/// # Errors
/// If a field is invalid. The error lists all invalid fields.
pub fn validate(object: &MetadataProfile) -> Result<Profile, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let identity = identity(&object.metadata, &mut errors);
    let profile = convert_spec(&object.spec, &mut errors);
    let profile = identity.zip(profile).map(|((object, created), profile)| Profile { object, created, ..profile });
    errors.finish(profile)
}

/// Returns a profile that matches the same pods and has no dialects, so their requests get 403. Returns `None` if the fields that
/// select the pods are invalid.
#[must_use]
pub fn deny_all(object: &MetadataProfile) -> Option<Profile> {
    let mut errors = FieldErrors::default();
    let (reference, created) = identity(&object.metadata, &mut errors)?;
    let spec = &object.spec;
    let pods = label_selector::convert("spec.podSelector", spec.pod_selector.as_ref(), &mut errors);
    let service_accounts = service_accounts(&spec.service_account_names, &mut errors);
    let priority = i32::try_from(spec.priority).ok()?;
    let profile = Profile { pods, service_accounts, priority, ..Profile::with_defaults(reference, created) };
    errors.finish(Some(profile)).ok()
}

/// Returns the reference to the object and its creation time.
fn identity(metadata: &ObjectMeta, errors: &mut FieldErrors) -> Option<(ProfileRef, Timestamp)> {
    let mut text = |field: &str, value: &Option<String>| {
        errors.record(format_args!("metadata.{field}"), value.clone().ok_or(REQUIRED))
    };
    let (namespace, name) = (text("namespace", &metadata.namespace), text("name", &metadata.name));
    let uid = text("uid", &metadata.uid);
    let created = metadata.creation_timestamp.as_ref().ok_or(REQUIRED);
    let created = errors.record("metadata.creationTimestamp", created)?.0;
    let generation = metadata.generation.unwrap_or(1);
    Some((ProfileRef { namespace: namespace?, name: name?, uid: uid?, generation }, created))
}

/// Converts the spec. The reference and creation time of the result are placeholders.
fn convert_spec(spec: &MetadataProfileSpec, errors: &mut FieldErrors) -> Option<Profile> {
    let dialects = dialects(&spec.dialects, errors);
    let pods = label_selector::convert("spec.podSelector", spec.pod_selector.as_ref(), errors);
    let service_accounts = service_accounts(&spec.service_account_names, errors);
    let priority = check_range(spec.priority, i64::from(i32::MIN)..=i64::from(i32::MAX));
    let priority = errors.record("spec.priority", priority).and_then(|number| i32::try_from(number).ok());
    let options = options(&spec.metadata_options, &dialects, errors);
    let instance = instance::convert(spec.instance.as_ref(), errors);
    let items = item::convert(&spec.metadata, &dialects, errors);
    let user_data = spec.user_data.as_ref().and_then(|data| user_data(data, errors));
    let public_keys = public_keys(&spec.public_keys, errors);
    let (tag_labels, static_tags) = spec.tags.as_ref().map(|spec| tags(spec, &dialects, errors)).unwrap_or_default();
    let roles = role::convert(&spec.roles, &dialects, errors);
    let users = users(spec, errors);
    let limits = limits(&spec.limits, errors);
    Some(Profile {
        object: ProfileRef { namespace: String::new(), name: String::new(), uid: String::new(), generation: 0 },
        created: Timestamp::UNIX_EPOCH,
        pods,
        service_accounts,
        priority: priority?,
        dialects,
        options: options?,
        instance,
        items,
        user_data,
        public_keys,
        tag_labels,
        static_tags,
        roles,
        host_network: spec.host_network,
        users,
        limits: limits?,
    })
}

fn dialects(list: &[Dialect], errors: &mut FieldErrors) -> BTreeSet<Dialect> {
    if list.is_empty() {
        errors.add("spec.dialects", "must have at least one dialect");
    }
    errors.check_unique("spec.dialects", list, DUPLICATE);
    list.iter().copied().collect()
}

fn service_accounts(list: &[String], errors: &mut FieldErrors) -> BTreeSet<String> {
    let field = "spec.serviceAccountNames";
    errors.convert_list(field, MAX_SERVICE_ACCOUNTS, list, |name| names::check_object_name(name));
    errors.check_unique(field, list, DUPLICATE);
    list.iter().cloned().collect()
}

fn options(
    spec: &MetadataOptionsSpec,
    dialects: &BTreeSet<Dialect>,
    errors: &mut FieldErrors,
) -> Option<MetadataOptions> {
    let field = |name: &str| format!("spec.metadataOptions.{name}");
    if spec.http_protocol_ipv6 == HttpProtocolIpv6::Enabled && !dialects.iter().copied().any(supports_ipv6) {
        errors.add(field("httpProtocolIpv6"), messages::IPV6_NEEDS_EC2);
    }
    let hop_limit = HopLimit::try_from(spec.http_put_response_hop_limit);
    let hop_limit = errors.record(field("httpPutResponseHopLimit"), hop_limit);
    let ttl = errors.record(field("maxTokenTtlSeconds"), TokenTtl::try_from(spec.max_token_ttl_seconds));
    Some(MetadataOptions {
        http_endpoint: spec.http_endpoint,
        http_tokens: spec.http_tokens,
        http_put_response_hop_limit: hop_limit?,
        http_protocol_ipv6: spec.http_protocol_ipv6,
        instance_metadata_tags: spec.instance_metadata_tags,
        max_token_ttl_seconds: ttl?,
    })
}

fn user_data(spec: &UserDataSpec, errors: &mut FieldErrors) -> Option<UserDataSource> {
    let field = "spec.userData";
    match (&spec.inline, &spec.config_map_key_ref, &spec.secret_key_ref) {
        (Some(text), None, None) => errors.record(format_args!("{field}.inline"), UserDataSource::inline(text.clone())),
        (None, Some(key), None) => {
            key_ref(&format!("{field}.configMapKeyRef"), key, errors).map(UserDataSource::ConfigMap)
        }
        (None, None, Some(key)) => key_ref(&format!("{field}.secretKeyRef"), key, errors).map(UserDataSource::Secret),
        (None | Some(_), None | Some(_), None | Some(_)) => {
            errors.add(field, messages::ONE_USER_DATA_SOURCE);
            None
        }
    }
}

fn key_ref(field: &str, spec: &KeyRefSpec, errors: &mut FieldErrors) -> Option<KeyRef> {
    let name = errors.record(format_args!("{field}.name"), names::check_object_name(&spec.name));
    let key = errors.record(format_args!("{field}.key"), names::check_data_key(&spec.key));
    name.zip(key).map(|_| KeyRef { name: spec.name.clone(), key: spec.key.clone() })
}

fn public_keys(list: &[PublicKeySpec], errors: &mut FieldErrors) -> Vec<PublicKey> {
    let field = "spec.publicKeys";
    errors.check_length(field, list.len(), MAX_PUBLIC_KEYS);
    errors.check_unique(field, list.iter().map(|key| &key.name), "duplicate name");
    let mut keys = Vec::new();
    for (index, spec) in list.iter().enumerate() {
        let name = errors.record(format_args!("{field}[{index}].name"), KeyName::try_from(spec.name.as_str()));
        let key = OpenSshKey::try_from(spec.open_ssh_key.as_str());
        let key = errors.record(format_args!("{field}[{index}].openSshKey"), key);
        keys.extend(name.zip(key).map(|(name, open_ssh_key)| PublicKey { name, open_ssh_key }));
    }
    keys
}

/// Returns the label patterns and the static tags.
fn tags(
    spec: &TagsSpec,
    dialects: &BTreeSet<Dialect>,
    errors: &mut FieldErrors,
) -> (Vec<LabelPattern>, Vec<StaticTag>) {
    let field = "spec.tags.labels";
    errors.check_unique(field, &spec.labels, DUPLICATE);
    let labels = errors
        .convert_list(field, MAX_LABEL_PATTERNS, &spec.labels, |pattern| LabelPattern::try_from(pattern.as_str()));

    let field = "spec.tags.static";
    errors.check_length(field, spec.fixed.len(), MAX_STATIC_TAGS);
    errors.check_unique(field, spec.fixed.iter().map(|tag| &tag.key), "duplicate key");
    let mut fixed = Vec::new();
    for (index, tag) in spec.fixed.iter().enumerate() {
        for dialect in dialects {
            errors.record(format_args!("{field}[{index}].key"), dialect.protocol().check_tag_key(&tag.key));
        }
        let value = errors.record(format_args!("{field}[{index}].value"), TagValue::try_from(tag.value.as_str()));
        fixed.extend(value.map(|value| StaticTag { key: tag.key.clone(), value }));
    }
    (labels, fixed)
}

fn users(spec: &MetadataProfileSpec, errors: &mut FieldErrors) -> ProcessUsers {
    let mut list = |field: &str, ids: &[i64]| {
        errors.check_unique(field, ids, DUPLICATE);
        errors.convert_list(field, MAX_USERS, ids, |id| {
            check_range(*id, 0..=MAX_USER_ID).and_then(|id| u32::try_from(id).map_err(|error| error.to_string()))
        })
    };
    let allowed = list("spec.allowedUsers", &spec.allowed_users);
    let denied = list("spec.deniedUsers", &spec.denied_users);
    for (index, user) in spec.denied_users.iter().enumerate() {
        if spec.allowed_users.contains(user) {
            errors.add(format_args!("spec.deniedUsers[{index}]"), messages::USER_IN_BOTH_LISTS);
        }
    }
    ProcessUsers { allowed, denied }
}

fn limits(spec: &LimitsSpec, errors: &mut FieldErrors) -> Option<Limits> {
    let mut convert = |name: &str, number: i64, max: i64| {
        let number = check_range(number, 1..=max);
        let number = errors.record(format_args!("spec.limits.{name}"), number)?;
        u32::try_from(number).ok().and_then(NonZeroU32::new)
    };
    let rate = convert("requestsPerSecond", spec.requests_per_second, MAX_REQUESTS_PER_SECOND);
    let burst = convert("burst", spec.burst, MAX_BURST);
    let connections = convert("connections", spec.connections, MAX_CONNECTIONS);
    if spec.burst < spec.requests_per_second {
        errors.add("spec.limits.burst", messages::BURST_BELOW_RATE);
    }
    Some(Limits { requests_per_second: rate?, burst: burst?, connections: connections? })
}

/// Converts an optional field to a validated text type.
fn convert_text<'t, T: TryFrom<&'t str, Error = InvalidValue>>(
    field: impl std::fmt::Display,
    value: Option<&'t str>,
    errors: &mut FieldErrors,
) -> Option<T> {
    errors.convert_optional(field, value, T::try_from)
}
