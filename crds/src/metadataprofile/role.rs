//! Roles and their providers.

use podmeta_metadata::dialect::Dialect;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::messages;
use crate::{names, schema};

/// The audience that AWS STS expects unless its OIDC provider says otherwise.
const STS_AUDIENCE: &str = "sts.amazonaws.com";
/// An hour, which both clouds give when nothing is asked for.
const HOUR: i64 = 3600;

/// A role, with exactly one provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule(
        "[has(self.secret), has(self.awsWebIdentity), has(self.awsAssumeRole), has(self.aliyunOidc)]\
         .exists_one(there, there)",
        messages::ONE_PROVIDER,
        "",
    ),
    schema::rule(
        "self.dialect == 'ec2' || !has(self.awsWebIdentity) && !has(self.awsAssumeRole)",
        messages::AWS_PROVIDER,
        ".dialect",
    ),
    schema::rule("self.dialect == 'ecs' || !has(self.aliyunOidc)", messages::ALIYUN_PROVIDER, ".dialect"),
]))]
pub struct RoleSpec {
    /// The name that the pods see.
    #[schemars(schema_with = "role_name")]
    pub name: String,
    /// The tree that the role is in.
    #[schemars(schema_with = "schema::dialect")]
    pub dialect: Dialect,
    /// Static keys, for development.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// AWS STS AssumeRoleWithWebIdentity with a token of the pod's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_web_identity: Option<AwsWebIdentity>,
    /// AWS STS AssumeRole with the operator's own credentials, where a MetadataPolicy allows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_assume_role: Option<AwsAssumeRole>,
    /// Alibaba Cloud STS AssumeRoleWithOIDC with a token of the pod's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliyun_oidc: Option<AliyunOidc>,
}

/// A Secret with the keys `accessKeyId` and `secretAccessKey`, and optionally `sessionToken` and `expiration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its name, in the profile's namespace.
    #[schemars(schema_with = "names::object_name_schema")]
    pub name: String,
}

/// How to call AssumeRoleWithWebIdentity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsWebIdentity {
    /// The role to assume.
    #[schemars(schema_with = "aws_role_arn")]
    pub role_arn: String,
    /// The audience of the ServiceAccount token.
    #[serde(default = "sts_audience")]
    #[schemars(schema_with = "schema::line")]
    pub audience: String,
    /// How long a session lives, in seconds.
    #[serde(default = "hour")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

/// How to call AssumeRole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsAssumeRole {
    /// The role to assume.
    #[schemars(schema_with = "aws_role_arn")]
    pub role_arn: String,
    /// The external id that the role's trust policy demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::line")]
    pub external_id: Option<String>,
    /// How long a session lives, in seconds.
    #[serde(default = "hour")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

/// How to call AssumeRoleWithOIDC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AliyunOidc {
    /// The role to assume.
    #[schemars(schema_with = "aliyun_role_arn")]
    pub role_arn: String,
    /// The OIDC provider that is registered for the cluster.
    #[schemars(schema_with = "schema::line")]
    pub oidc_provider_arn: String,
    /// How long a session lives, in seconds.
    #[serde(default = "hour")]
    #[schemars(schema_with = "duration")]
    pub duration_seconds: i64,
}

fn sts_audience() -> String {
    STS_AUDIENCE.to_owned()
}

fn hour() -> i64 {
    HOUR
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
