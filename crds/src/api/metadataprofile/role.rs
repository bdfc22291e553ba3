//! `spec.roles`: roles and their credential providers.

use kube::core::Rule;
use podmeta_metadata::dialect::Dialect;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::api::{dialect_rules, names, schema};

/// The default audience of an IAM OIDC provider for AWS STS.
const DEFAULT_AUDIENCE: &str = "sts.amazonaws.com";
/// The default session duration of both clouds, in seconds.
const DEFAULT_DURATION_SECONDS: i64 = 3600;

/// A role. Exactly one of `secret`, `awsWebIdentity`, `awsAssumeRole` and `aliyunOidc` must be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct RoleSpec {
    /// Role name that the pods see, 1 to 64 characters.
    #[schemars(schema_with = "role_name")]
    pub name: String,
    /// Dialect that serves the role.
    #[schemars(schema_with = "dialect_rules::dialect")]
    pub dialect: Dialect,
    /// Static credentials from a Secret, for development.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRefSpec>,
    /// Credentials from AWS STS AssumeRoleWithWebIdentity with a token of the pod's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_web_identity: Option<AwsWebIdentitySpec>,
    /// Credentials from AWS STS AssumeRole with the operator's credentials. A MetadataPolicy must list the
    /// provider and the ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_assume_role: Option<AwsAssumeRoleSpec>,
    /// Credentials from Alibaba Cloud STS AssumeRoleWithOIDC with a token of the pod's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliyun_oidc: Option<AliyunOidcSpec>,
}

/// Reference to a Secret with the keys `accessKeyId` and `secretAccessKey`, and optionally `sessionToken` and
/// `expiration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRefSpec {
    /// Name of the Secret, in the namespace of the profile.
    #[schemars(schema_with = "names::object_name_schema")]
    pub name: String,
}

/// Parameters of AssumeRoleWithWebIdentity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsWebIdentitySpec {
    /// ARN of the role.
    #[schemars(schema_with = "aws_role_arn")]
    pub role_arn: String,
    /// Audience of the ServiceAccount token. Default: `sts.amazonaws.com`.
    #[serde(default = "default_audience")]
    #[schemars(schema_with = "schema::line")]
    pub audience: String,
    /// Lifetime of the credentials, 3600 to 43200 seconds. Default: 3600.
    #[serde(default = "default_duration")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

/// Parameters of AssumeRole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsAssumeRoleSpec {
    /// ARN of the role.
    #[schemars(schema_with = "aws_role_arn")]
    pub role_arn: String,
    /// External ID. It must be `CLUSTER/NAMESPACE`, which is also the default, or allowed by a MetadataPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub external_id: Option<String>,
    /// Lifetime of the credentials, 3600 to 43200 seconds. Default: 3600.
    #[serde(default = "default_duration")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

/// Parameters of AssumeRoleWithOIDC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AliyunOidcSpec {
    /// ARN of the role.
    #[schemars(schema_with = "aliyun_role_arn")]
    pub role_arn: String,
    /// ARN of the OIDC provider that is registered for the cluster.
    #[schemars(schema_with = "schema::line")]
    pub oidc_provider_arn: String,
    /// Lifetime of the credentials, 3600 to 43200 seconds. Default: 3600.
    #[serde(default = "default_duration")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

fn rules() -> Vec<Rule> {
    let one_provider = schema::rule(
        "[has(self.secret), has(self.awsWebIdentity), has(self.awsAssumeRole), has(self.aliyunOidc)]\
         .exists_one(is_set, is_set)",
        messages::ONE_PROVIDER,
        "",
    );
    std::iter::once(one_provider).chain(dialect_rules::provider_rules()).collect()
}

fn default_audience() -> String {
    DEFAULT_AUDIENCE.to_owned()
}

fn default_duration() -> i64 {
    DEFAULT_DURATION_SECONDS
}

fn role_name(_: &mut SchemaGenerator) -> Schema {
    schema::segment(1..=64, "^[-A-Za-z0-9+=,.@_]*$")
}

fn aws_role_arn(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(16..=2048, "^arn:[!-9;-~]*:iam::[!-9;-~]*:role/[!-~]*$")
}

fn aliyun_role_arn(_: &mut SchemaGenerator) -> Schema {
    schema::ascii(16..=2048, "^acs:ram::[!-9;-~]*:role/[!-9;-~]*$")
}

fn duration(_: &mut SchemaGenerator) -> Schema {
    schema::integer(3600..=43_200)
}
