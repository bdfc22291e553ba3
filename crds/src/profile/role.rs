//! Roles and their providers.

use std::collections::{BTreeMap, BTreeSet};

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::{Line, RoleArn, RoleName};
use podmeta_metadata::role::{Provider, Role, SessionDuration};

use super::text;
use crate::field::Errors;
use crate::metadataprofile::{AliyunOidc, AwsAssumeRole, AwsWebIdentity, RoleSpec, SecretRef, messages};
use crate::names;

/// The core's form of `spec.roles`.
pub(super) fn roles(list: &[RoleSpec], dialects: &BTreeSet<Dialect>, errors: &mut Errors) -> BTreeMap<Dialect, Role> {
    errors.limit("spec.roles", list.len(), 2);
    errors.distinct("spec.roles", list.iter().map(|role| role.dialect), messages::ONE_ROLE);
    let mut roles = BTreeMap::new();
    for (at, spec) in list.iter().enumerate() {
        let field = format!("spec.roles[{at}]");
        if !dialects.contains(&spec.dialect) {
            errors.add(format_args!("{field}.dialect"), messages::ROLE_DIALECT);
        }
        let name = errors.keep(format_args!("{field}.name"), RoleName::try_from(spec.name.as_str()));
        let provider = provider(&field, spec, errors);
        if let (Some(name), Some(provider)) = (name, provider) {
            roles.insert(spec.dialect, Role { name, provider });
        }
    }
    roles
}

fn provider(field: &str, spec: &RoleSpec, errors: &mut Errors) -> Option<Provider> {
    match (&spec.secret, &spec.aws_web_identity, &spec.aws_assume_role, &spec.aliyun_oidc) {
        (Some(secret), None, None, None) => static_keys(&format!("{field}.secret"), secret, errors),
        (None, Some(identity), None, None) => {
            only_for(Dialect::Ec2, field, spec, errors);
            aws_web_identity(&format!("{field}.awsWebIdentity"), identity, errors)
        }
        (None, None, Some(role), None) => {
            only_for(Dialect::Ec2, field, spec, errors);
            aws_assume_role(&format!("{field}.awsAssumeRole"), role, errors)
        }
        (None, None, None, Some(oidc)) => {
            only_for(Dialect::Ecs, field, spec, errors);
            aliyun_oidc(&format!("{field}.aliyunOidc"), oidc, errors)
        }
        (None | Some(_), None | Some(_), None | Some(_), None | Some(_)) => {
            errors.add(field, messages::ONE_PROVIDER);
            None
        }
    }
}

fn only_for(dialect: Dialect, field: &str, spec: &RoleSpec, errors: &mut Errors) {
    if spec.dialect != dialect {
        let message = match dialect {
            Dialect::Ec2 => messages::AWS_PROVIDER,
            Dialect::Ecs => messages::ALIYUN_PROVIDER,
        };
        errors.add(format_args!("{field}.dialect"), message);
    }
}

fn static_keys(field: &str, spec: &SecretRef, errors: &mut Errors) -> Option<Provider> {
    errors.keep(format_args!("{field}.name"), names::object_name(&spec.name))?;
    Some(Provider::Secret { name: spec.name.clone() })
}

fn aws_web_identity(field: &str, spec: &AwsWebIdentity, errors: &mut Errors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "arn:", errors);
    let audience = text(format_args!("{field}.audience"), Some(&spec.audience), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    Some(Provider::AwsWebIdentity { role_arn: role_arn?, audience: audience?, duration: duration? })
}

fn aws_assume_role(field: &str, spec: &AwsAssumeRole, errors: &mut Errors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "arn:", errors);
    let external_id: Option<Line> = text(format_args!("{field}.externalId"), spec.external_id.as_deref(), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    Some(Provider::AwsAssumeRole { role_arn: role_arn?, external_id, duration: duration? })
}

fn aliyun_oidc(field: &str, spec: &AliyunOidc, errors: &mut Errors) -> Option<Provider> {
    let role_arn = role_arn(field, &spec.role_arn, "acs:", errors);
    let oidc_provider_arn = text(format_args!("{field}.oidcProviderArn"), Some(&spec.oidc_provider_arn), errors);
    let duration = duration(field, spec.duration_seconds, errors);
    Some(Provider::AliyunOidc { role_arn: role_arn?, oidc_provider_arn: oidc_provider_arn?, duration: duration? })
}

/// An ARN of the cloud whose ARNs start with `cloud`.
fn role_arn(field: &str, arn: &str, cloud: &str, errors: &mut Errors) -> Option<RoleArn> {
    let arn = RoleArn::try_from(arn).map_err(|error| error.to_string()).and_then(|arn| {
        if arn.as_str().starts_with(cloud) { Ok(arn) } else { Err(format!("must start with {cloud:?} here")) }
    });
    errors.keep(format_args!("{field}.roleArn"), arn)
}

fn duration(field: &str, seconds: i64, errors: &mut Errors) -> Option<SessionDuration> {
    errors.keep(format_args!("{field}.durationSeconds"), SessionDuration::try_from(seconds))
}
