//! Converts `spec.roles`.

use std::collections::{BTreeMap, BTreeSet};

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::{Line, RoleArn, RoleName};
use podmeta_metadata::role::{Provider, ProviderKind, Role, SessionDuration};

use super::convert_text;
use crate::api::{names, unsupported_provider_message};
use crate::convert::field::FieldErrors;
use crate::metadataprofile::{
    AliyunOidcSpec, AwsAssumeRoleSpec, AwsWebIdentitySpec, RoleSpec, SecretRefSpec, messages,
};

/// Converts `spec.roles`.
pub(super) fn convert(
    list: &[RoleSpec],
    dialects: &BTreeSet<Dialect>,
    errors: &mut FieldErrors,
) -> BTreeMap<Dialect, Role> {
    errors.check_length("spec.roles", list.len(), Dialect::ALL.len());
    errors.check_unique("spec.roles", list.iter().map(|role| role.dialect), messages::ONE_ROLE);
    let mut roles = BTreeMap::new();
    for (index, spec) in list.iter().enumerate() {
        let field = format!("spec.roles[{index}]");
        if !dialects.contains(&spec.dialect) {
            errors.add(format_args!("{field}.dialect"), messages::ROLE_DIALECT);
        }
        let name = errors.record(format_args!("{field}.name"), RoleName::try_from(spec.name.as_str()));
        let provider = provider(&field, spec, errors);
        if let (Some(name), Some(provider)) = (name, provider) {
            roles.insert(spec.dialect, Role { name, provider });
        }
    }
    roles
}

fn provider(field: &str, spec: &RoleSpec, errors: &mut FieldErrors) -> Option<Provider> {
    match (&spec.secret, &spec.aws_web_identity, &spec.aws_assume_role, &spec.aliyun_oidc) {
        (Some(secret), None, None, None) => static_keys(&format!("{field}.secret"), secret, errors),
        (None, Some(identity), None, None) => {
            check_dialect(ProviderKind::AwsWebIdentity, field, spec.dialect, errors);
            aws_web_identity(&format!("{field}.awsWebIdentity"), identity, errors)
        }
        (None, None, Some(role), None) => {
            check_dialect(ProviderKind::AwsAssumeRole, field, spec.dialect, errors);
            aws_assume_role(&format!("{field}.awsAssumeRole"), role, errors)
        }
        (None, None, None, Some(oidc)) => {
            check_dialect(ProviderKind::AliyunOidc, field, spec.dialect, errors);
            aliyun_oidc(&format!("{field}.aliyunOidc"), oidc, errors)
        }
        (None | Some(_), None | Some(_), None | Some(_), None | Some(_)) => {
            errors.add(field, messages::ONE_PROVIDER);
            None
        }
    }
}

fn check_dialect(provider: ProviderKind, field: &str, dialect: Dialect, errors: &mut FieldErrors) {
    if !dialect.protocol().supports_provider(provider) {
        errors.add(format_args!("{field}.dialect"), unsupported_provider_message(dialect));
    }
}

fn static_keys(field: &str, spec: &SecretRefSpec, errors: &mut FieldErrors) -> Option<Provider> {
    errors.record(format_args!("{field}.name"), names::check_object_name(&spec.name))?;
    Some(Provider::Secret { name: spec.name.clone() })
}

fn aws_web_identity(field: &str, spec: &AwsWebIdentitySpec, errors: &mut FieldErrors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "arn:", errors);
    let audience = convert_text(format_args!("{field}.audience"), Some(&spec.audience), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    Some(Provider::AwsWebIdentity { role_arn: role_arn?, audience: audience?, duration: duration? })
}

fn aws_assume_role(field: &str, spec: &AwsAssumeRoleSpec, errors: &mut FieldErrors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "arn:", errors);
    let external_id: Option<Line> =
        convert_text(format_args!("{field}.externalId"), spec.external_id.as_deref(), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    let (role_arn, duration) = (role_arn?, duration?);
    Some(Provider::AwsAssumeRole { role_arn, external_id, is_external_id_allowed: false, duration })
}

fn aliyun_oidc(field: &str, spec: &AliyunOidcSpec, errors: &mut FieldErrors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "acs:", errors);
    let oidc_provider_arn =
        convert_text(format_args!("{field}.oidcProviderArn"), Some(&spec.oidc_provider_arn), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    Some(Provider::AliyunOidc { role_arn: role_arn?, oidc_provider_arn: oidc_provider_arn?, duration: duration? })
}

/// Converts the ARN of a role. It must start with the prefix of the provider's cloud.
fn role_arn(field: &str, arn: &str, prefix: &str, errors: &mut FieldErrors) -> Option<RoleArn> {
    let arn = RoleArn::try_from(arn).map_err(|error| error.to_string()).and_then(|arn| {
        if arn.as_str().starts_with(prefix) { Ok(arn) } else { Err(format!("must start with {prefix:?}")) }
    });
    errors.record(format_args!("{field}.roleArn"), arn)
}

fn duration(field: &str, seconds: i64, errors: &mut FieldErrors) -> Option<SessionDuration> {
    errors.record(format_args!("{field}.durationSeconds"), SessionDuration::try_from(seconds))
}
