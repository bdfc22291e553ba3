//! From a `MetadataProfile` as it was written to the core's `Profile`, with every error at its field.
//!
//! It checks all that the schema and its rules check: `node-agent dev` has no API server that did so before.

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

use crate::field::{Errors, FieldError, in_range};
use crate::metadataprofile::{
    KeyReference, LimitsSpec, MAX_BURST, MAX_CONNECTIONS, MAX_LABELS, MAX_PUBLIC_KEYS, MAX_RATE, MAX_SERVICE_ACCOUNTS,
    MAX_STATIC, MAX_USER, MAX_USERS, MetadataOptionsSpec, MetadataProfile, MetadataProfileSpec, PublicKeySpec,
    TagsSpec, UserData, messages,
};
use crate::{labels, names};

/// The profile that an object holds.
///
/// # Errors
/// Every field that is wrong.
pub fn validate(object: &MetadataProfile) -> Result<Profile, Vec<FieldError>> {
    let mut errors = Errors::default();
    let identity = identity(&object.metadata, &mut errors);
    let body = body(&object.spec, &mut errors);
    let profile = identity.zip(body).map(|((object, created), body)| Profile { object, created, ..body });
    errors.finish(profile)
}

/// A profile for the same pods that serves them nothing: no dialect. None if it cannot be told which pods those are.
#[must_use]
pub fn shut(object: &MetadataProfile) -> Option<Profile> {
    let mut errors = Errors::default();
    let (reference, created) = identity(&object.metadata, &mut errors)?;
    let spec = &object.spec;
    let pods = labels::selector("spec.podSelector", spec.pod_selector.as_ref(), &mut errors);
    let service_accounts = service_accounts(&spec.service_account_names, &mut errors);
    let priority = i32::try_from(spec.priority).ok()?;
    let shut = Profile { pods, service_accounts, priority, ..Profile::empty(reference, created) };
    errors.finish(Some(shut)).ok()
}

fn identity(metadata: &ObjectMeta, errors: &mut Errors) -> Option<(ProfileRef, Timestamp)> {
    let mut text = |field: &str, value: &Option<String>| {
        errors.keep(format_args!("metadata.{field}"), value.clone().ok_or("is missing"))
    };
    let (namespace, name) = (text("namespace", &metadata.namespace), text("name", &metadata.name));
    let uid = text("uid", &metadata.uid);
    let created = metadata.creation_timestamp.as_ref().ok_or("is missing");
    let created = errors.keep("metadata.creationTimestamp", created)?.0;
    let generation = metadata.generation.unwrap_or(1);
    Some((ProfileRef { namespace: namespace?, name: name?, uid: uid?, generation }, created))
}

/// Everything but which object it is.
fn body(spec: &MetadataProfileSpec, errors: &mut Errors) -> Option<Profile> {
    let dialects = dialects(&spec.dialects, errors);
    let pods = labels::selector("spec.podSelector", spec.pod_selector.as_ref(), errors);
    let service_accounts = service_accounts(&spec.service_account_names, errors);
    let priority = in_range(spec.priority, i64::from(i32::MIN)..=i64::from(i32::MAX));
    let priority = errors.keep("spec.priority", priority).and_then(|number| i32::try_from(number).ok());
    let options = options(&spec.metadata_options, &dialects, errors);
    let instance = instance::instance(spec.instance.as_ref(), errors);
    let items = item::items(&spec.metadata, &dialects, errors);
    let user_data = spec.user_data.as_ref().and_then(|data| user_data(data, errors));
    let public_keys = public_keys(&spec.public_keys, errors);
    let (tag_labels, static_tags) = spec.tags.as_ref().map(|spec| tags(spec, &dialects, errors)).unwrap_or_default();
    let roles = role::roles(&spec.roles, &dialects, errors);
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

fn dialects(list: &[Dialect], errors: &mut Errors) -> BTreeSet<Dialect> {
    if list.is_empty() {
        errors.add("spec.dialects", "must name at least one dialect: ec2, ecs or both");
    }
    errors.distinct("spec.dialects", list, "is there twice");
    list.iter().copied().collect()
}

fn service_accounts(list: &[String], errors: &mut Errors) -> BTreeSet<String> {
    let field = "spec.serviceAccountNames";
    errors.keep_all(field, MAX_SERVICE_ACCOUNTS, list, |name| names::object_name(name));
    errors.distinct(field, list, "is there twice");
    list.iter().cloned().collect()
}

fn options(spec: &MetadataOptionsSpec, dialects: &BTreeSet<Dialect>, errors: &mut Errors) -> Option<MetadataOptions> {
    let field = |name: &str| format!("spec.metadataOptions.{name}");
    if spec.http_protocol_ipv6 == HttpProtocolIpv6::Enabled && !dialects.contains(&Dialect::Ec2) {
        errors.add(field("httpProtocolIpv6"), messages::IPV6);
    }
    let hops = HopLimit::try_from(spec.http_put_response_hop_limit);
    let hops = errors.keep(field("httpPutResponseHopLimit"), hops);
    let ttl = errors.keep(field("maxTokenTtlSeconds"), TokenTtl::try_from(spec.max_token_ttl_seconds));
    Some(MetadataOptions {
        http_endpoint: spec.http_endpoint,
        http_tokens: spec.http_tokens,
        http_put_response_hop_limit: hops?,
        http_protocol_ipv6: spec.http_protocol_ipv6,
        instance_metadata_tags: spec.instance_metadata_tags,
        max_token_ttl_seconds: ttl?,
    })
}

fn user_data(spec: &UserData, errors: &mut Errors) -> Option<UserDataSource> {
    let field = "spec.userData";
    match (&spec.inline, &spec.config_map_key_ref, &spec.secret_key_ref) {
        (Some(text), None, None) => errors.keep(format_args!("{field}.inline"), UserDataSource::inline(text.clone())),
        (None, Some(key), None) => {
            key_ref(&format!("{field}.configMapKeyRef"), key, errors).map(UserDataSource::ConfigMap)
        }
        (None, None, Some(key)) => key_ref(&format!("{field}.secretKeyRef"), key, errors).map(UserDataSource::Secret),
        (None | Some(_), None | Some(_), None | Some(_)) => {
            errors.add(field, messages::ONE_USER_DATA);
            None
        }
    }
}

fn key_ref(field: &str, spec: &KeyReference, errors: &mut Errors) -> Option<KeyRef> {
    let name = errors.keep(format_args!("{field}.name"), names::object_name(&spec.name));
    let key = errors.keep(format_args!("{field}.key"), names::data_key(&spec.key));
    name.zip(key).map(|_| KeyRef { name: spec.name.clone(), key: spec.key.clone() })
}

fn public_keys(list: &[PublicKeySpec], errors: &mut Errors) -> Vec<PublicKey> {
    let field = "spec.publicKeys";
    errors.limit(field, list.len(), MAX_PUBLIC_KEYS);
    errors.distinct(field, list.iter().map(|key| &key.name), "another key has this name");
    let mut keys = Vec::new();
    for (at, spec) in list.iter().enumerate() {
        let name = errors.keep(format_args!("{field}[{at}].name"), KeyName::try_from(spec.name.as_str()));
        let key = OpenSshKey::try_from(spec.open_ssh_key.as_str());
        let key = errors.keep(format_args!("{field}[{at}].openSshKey"), key);
        keys.extend(name.zip(key).map(|(name, open_ssh_key)| PublicKey { name, open_ssh_key }));
    }
    keys
}

fn tags(spec: &TagsSpec, dialects: &BTreeSet<Dialect>, errors: &mut Errors) -> (Vec<LabelPattern>, Vec<StaticTag>) {
    let field = "spec.tags.labels";
    errors.distinct(field, &spec.labels, "is there twice");
    let labels = errors.keep_all(field, MAX_LABELS, &spec.labels, |pattern| LabelPattern::try_from(pattern.as_str()));

    let field = "spec.tags.static";
    errors.limit(field, spec.fixed.len(), MAX_STATIC);
    errors.distinct(field, spec.fixed.iter().map(|tag| &tag.key), "another tag has this key");
    let mut fixed = Vec::new();
    for (at, tag) in spec.fixed.iter().enumerate() {
        for dialect in dialects {
            errors.keep(format_args!("{field}[{at}].key"), dialect.protocol().check_tag_key(&tag.key));
        }
        let value = errors.keep(format_args!("{field}[{at}].value"), TagValue::try_from(tag.value.as_str()));
        fixed.extend(value.map(|value| StaticTag { key: tag.key.clone(), value }));
    }
    (labels, fixed)
}

fn users(spec: &MetadataProfileSpec, errors: &mut Errors) -> ProcessUsers {
    let mut list = |field: &str, ids: &[i64]| {
        errors.distinct(field, ids, "is there twice");
        errors.keep_all(field, MAX_USERS, ids, |id| {
            in_range(*id, 0..=MAX_USER).and_then(|id| u32::try_from(id).map_err(|error| error.to_string()))
        })
    };
    let allowed = list("spec.allowedUsers", &spec.allowed_users);
    let denied = list("spec.deniedUsers", &spec.denied_users);
    for (at, user) in spec.denied_users.iter().enumerate() {
        if spec.allowed_users.contains(user) {
            errors.add(format_args!("spec.deniedUsers[{at}]"), messages::USER_TWICE);
        }
    }
    ProcessUsers { allowed, denied }
}

fn limits(spec: &LimitsSpec, errors: &mut Errors) -> Option<Limits> {
    let mut number = |name: &str, number: i64, most: i64| {
        let number = in_range(number, 1..=most);
        let number = errors.keep(format_args!("spec.limits.{name}"), number)?;
        u32::try_from(number).ok().and_then(NonZeroU32::new)
    };
    let rate = number("requestsPerSecond", spec.requests_per_second, MAX_RATE);
    let burst = number("burst", spec.burst, MAX_BURST);
    let connections = number("connections", spec.connections, MAX_CONNECTIONS);
    if spec.burst < spec.requests_per_second {
        errors.add("spec.limits.burst", messages::BURST);
    }
    Some(Limits { requests_per_second: rate?, burst: burst?, connections: connections? })
}

/// Makes one of the core's text types of an optional field.
fn text<'t, T: TryFrom<&'t str, Error = InvalidValue>>(
    field: impl std::fmt::Display,
    value: Option<&'t str>,
    errors: &mut Errors,
) -> Option<T> {
    errors.keep_some(field, value, T::try_from)
}
