//! From a `MetadataPolicy` as it was written to the core's `Policy`, with every error at its field.

use std::collections::BTreeSet;

use podmeta_metadata::options::{HopLimit, HttpTokens};
use podmeta_metadata::policy::{Glob, Policy};

use crate::field::{Errors, FieldError};
use crate::labels;
use crate::metadatapolicy::{MAX_GLOBS, MetadataPolicy, MetadataPolicySpec};

/// The policy that an object holds.
///
/// # Errors
/// Every field that is wrong.
pub fn validate(object: &MetadataPolicy) -> Result<Policy, Vec<FieldError>> {
    let mut errors = Errors::default();
    let name = errors.keep("metadata.name", object.metadata.name.clone().ok_or("is missing"));
    let body = body(&object.spec, &mut errors);
    errors.finish(name.map(|name| Policy { name, ..body }))
}

/// Everything but the name.
fn body(spec: &MetadataPolicySpec, errors: &mut Errors) -> Policy {
    if spec.http_tokens == Some(HttpTokens::Optional) {
        errors.add("spec.httpTokens", "must be required, or absent: a policy cannot make tokens optional");
    }
    Policy {
        name: String::new(),
        namespaces: labels::selector("spec.namespaceSelector", spec.namespace_selector.as_ref(), errors),
        http_tokens: spec.http_tokens,
        max_hop_limit: errors.keep_some("spec.maxHopLimit", spec.max_hop_limit, HopLimit::try_from),
        allowed_dialects: set("spec.allowedDialects", spec.allowed_dialects.as_deref(), errors),
        allowed_providers: set("spec.allowedProviders", spec.allowed_providers.as_deref(), errors),
        allowed_role_names: globs("spec.allowedRoleNames", spec.allowed_role_names.as_deref(), errors),
        allowed_role_arns: globs("spec.allowedRoleArns", spec.allowed_role_arns.as_deref(), errors),
        allowed_host_network: set("spec.allowedHostNetwork", spec.allowed_host_network.as_deref(), errors),
        without_profile: spec.without_profile.map(Into::into),
    }
}

fn set<T: Ord + Copy>(field: &str, list: Option<&[T]>, errors: &mut Errors) -> Option<BTreeSet<T>> {
    let list = list?;
    errors.distinct(field, list, "is there twice");
    Some(list.iter().copied().collect())
}

fn globs(field: &str, list: Option<&[String]>, errors: &mut Errors) -> Option<Vec<Glob>> {
    let list = list?;
    errors.distinct(field, list, "is there twice");
    Some(errors.keep_all(field, MAX_GLOBS, list, |pattern| Glob::try_from(pattern.as_str())))
}
