//! Converts a `MetadataPolicy` to a validated policy.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use podmeta_metadata::names::{AccountId, InvalidValue, Line};
use podmeta_metadata::options::{HopLimit, HttpTokens};
use podmeta_metadata::policy::{Glob, Policy};
use podmeta_metadata::role::SessionDuration;

use super::field::{DUPLICATE, FieldError, FieldErrors, REQUIRED, check_range};
use super::label_selector;
use crate::metadatapolicy::{MAX_LIST_ENTRIES, MetadataPolicy, MetadataPolicySpec};
use crate::metadataprofile::{MAX_CONNECTIONS, MAX_REQUESTS_PER_SECOND};

/// Validates and converts a policy.
///
/// # Errors
/// All invalid fields.
pub fn validate(object: &MetadataPolicy) -> Result<Policy, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let name = errors.record("metadata.name", object.metadata.name.clone().ok_or(REQUIRED));
    let policy = convert_spec(&object.spec, &mut errors);
    errors.finish(name.map(|name| Policy { name, ..policy }))
}

/// Converts the spec. The name of the result is empty.
fn convert_spec(spec: &MetadataPolicySpec, errors: &mut FieldErrors) -> Policy {
    if spec.http_tokens == Some(HttpTokens::Optional) {
        errors.add("spec.httpTokens", "must be required or absent: a policy cannot make tokens optional");
    }
    Policy {
        name: String::new(),
        namespaces: label_selector::convert("spec.namespaceSelector", spec.namespace_selector.as_ref(), errors),
        http_tokens: spec.http_tokens,
        max_hop_limit: errors.convert_optional("spec.maxHopLimit", spec.max_hop_limit, HopLimit::try_from),
        max_requests_per_second: maximum(
            "spec.maxRequestsPerSecond",
            spec.max_requests_per_second,
            MAX_REQUESTS_PER_SECOND,
            errors,
        ),
        max_connections: maximum("spec.maxConnections", spec.max_connections, MAX_CONNECTIONS, errors),
        allowed_dialects: set("spec.allowedDialects", spec.allowed_dialects.as_deref(), errors),
        allowed_providers: set("spec.allowedProviders", spec.allowed_providers.as_deref(), errors),
        allowed_role_names: patterns("spec.allowedRoleNames", spec.allowed_role_names.as_deref(), errors),
        allowed_role_arns: patterns("spec.allowedRoleArns", spec.allowed_role_arns.as_deref(), errors),
        allowed_external_ids: patterns("spec.allowedExternalIds", spec.allowed_external_ids.as_deref(), errors),
        max_session_duration: errors.convert_optional(
            "spec.maxDurationSeconds",
            spec.max_duration_seconds,
            SessionDuration::try_from,
        ),
        allowed_secrets: patterns("spec.allowedSecrets", spec.allowed_secrets.as_deref(), errors),
        allowed_account_ids: texts("spec.allowedAccountIds", spec.allowed_account_ids.as_deref(), errors, |account| {
            AccountId::try_from(account)
        }),
        allowed_regions: texts("spec.allowedRegions", spec.allowed_regions.as_deref(), errors, |region| {
            Line::try_from(region)
        }),
        allowed_host_network: set("spec.allowedHostNetwork", spec.allowed_host_network.as_deref(), errors),
        without_profile: spec.without_profile.map(Into::into),
        static_pods: spec.static_pods,
    }
}

fn maximum(field: &str, number: Option<i64>, max: i64, errors: &mut FieldErrors) -> Option<NonZeroU32> {
    let number = errors.convert_optional(field, number, |number| check_range(number, 1..=max))?;
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn set<T: Ord + Copy>(field: &str, list: Option<&[T]>, errors: &mut FieldErrors) -> Option<BTreeSet<T>> {
    let list = list?;
    errors.check_unique(field, list, DUPLICATE);
    Some(list.iter().copied().collect())
}

fn patterns(field: &str, list: Option<&[String]>, errors: &mut FieldErrors) -> Option<Vec<Glob>> {
    let list = list?;
    errors.check_unique(field, list, DUPLICATE);
    Some(errors.convert_list(field, MAX_LIST_ENTRIES, list, |pattern| Glob::try_from(pattern.as_str())))
}

fn texts<T: Ord>(
    field: &str,
    list: Option<&[String]>,
    errors: &mut FieldErrors,
    convert: fn(&str) -> Result<T, InvalidValue>,
) -> Option<BTreeSet<T>> {
    let list = list?;
    errors.check_unique(field, list, DUPLICATE);
    Some(errors.convert_list(field, MAX_LIST_ENTRIES, list, |text| convert(text)).into_iter().collect())
}
