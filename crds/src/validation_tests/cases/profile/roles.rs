//! Cases of `spec.roles`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

const EC2_ARN: &str = "arn:aws:iam::123456789012:role/web";
const ECS_ARN: &str = "acs:ram::1234567890123456:role/web";

pub(super) fn roles() -> Vec<SpecCase> {
    let role = |text: &str| both(&format!("roles: [{{name: web, {text}}}]"));
    let named = |name: &str| both(&format!("roles: [{{name: '{name}', dialect: ec2, secret: {{name: keys}}}}]"));
    let web = |more: &str| role(&format!("dialect: ec2, awsWebIdentity: {{roleArn: '{EC2_ARN}'{more}}}"));
    let arn = |provider: &str, dialect: &str, arn: &str| {
        role(&format!("dialect: {dialect}, {provider}: {{roleArn: '{arn}', oidcProviderArn: x}}"))
    };
    vec![
        accepted(
            "one role for each dialect",
            both("roles: [{name: a, dialect: ec2, secret: {name: a}}, {name: b, dialect: ecs, secret: {name: a}}]"),
        ),
        rejected(
            "two roles of one dialect",
            both("roles: [{name: a, dialect: ec2, secret: {name: a}}, {name: b, dialect: ec2, secret: {name: a}}]"),
            "at most one role for each dialect",
        ),
        rejected(
            "role of a dialect not in dialects",
            "dialects: [ecs]\nroles: [{name: a, dialect: ec2, secret: {name: a}}]",
            "listed in spec.dialects",
        ),
        rejected("no provider", role("dialect: ec2"), "exactly one of secret, awsWebIdentity"),
        rejected(
            "two providers",
            role(&format!("dialect: ec2, secret: {{name: a}}, awsWebIdentity: {{roleArn: '{EC2_ARN}'}}")),
            "exactly one of secret",
        ),
        accepted("awsWebIdentity", web(", audience: me, durationSeconds: 43200")),
        rejected(
            "awsWebIdentity on ecs",
            arn("awsWebIdentity", "ecs", EC2_ARN),
            "a role of ecs cannot have awsWebIdentity or awsAssumeRole",
        ),
        accepted(
            "awsAssumeRole",
            role(&format!("dialect: ec2, awsAssumeRole: {{roleArn: '{EC2_ARN}', externalId: x}}")),
        ),
        rejected(
            "awsAssumeRole on ecs",
            arn("awsAssumeRole", "ecs", EC2_ARN),
            "a role of ecs cannot have awsWebIdentity or awsAssumeRole",
        ),
        accepted("aliyunOidc", arn("aliyunOidc", "ecs", ECS_ARN)),
        rejected("aliyunOidc on ec2", arn("aliyunOidc", "ec2", ECS_ARN), "a role of ec2 cannot have aliyunOidc"),
        rejected_with(
            "aliyunOidc without oidcProviderArn",
            role(&format!("dialect: ecs, aliyunOidc: {{roleArn: '{ECS_ARN}'}}")),
            "oidcProviderArn is required",
            "missing field",
        ),
        rejected_with(
            "Alibaba Cloud ARN in awsWebIdentity",
            arn("awsWebIdentity", "ec2", ECS_ARN),
            "does not match",
            "must start with \"arn:\"",
        ),
        rejected_with(
            "AWS ARN in aliyunOidc",
            arn("aliyunOidc", "ecs", EC2_ARN),
            "does not match",
            "must start with \"acs:\"",
        ),
        rejected_with(
            "ARN of a user",
            arn("awsWebIdentity", "ec2", "arn:aws:iam::123456789012:user/web"),
            "does not match",
            "must be an ARN of a role",
        ),
        accepted("AWS role name with a colon", arn("awsWebIdentity", "ec2", "arn:aws-cn:iam::123456789012:role/a:b")),
        rejected_with(
            "Alibaba Cloud role name with a colon",
            arn("aliyunOidc", "ecs", "acs:ram::1234567890123456:role/a:b"),
            "does not match",
            "must be an ARN of a role",
        ),
        rejected_with(
            "duration below the minimum",
            web(", durationSeconds: 3599"),
            "out of range",
            "must be 3600 to 43200",
        ),
        rejected_with(
            "duration above the maximum",
            web(", durationSeconds: 43201"),
            "out of range",
            "must be 3600 to 43200",
        ),
        rejected_with("empty audience", web(", audience: ''"), "invalid length", "awsWebIdentity.audience"),
        rejected_with(
            "externalId with a line feed",
            role(&format!("dialect: ec2, awsAssumeRole: {{roleArn: '{EC2_ARN}', externalId: \"a\\nb\"}}")),
            "does not match",
            "awsAssumeRole.externalId",
        ),
        rejected_with(
            "invalid Secret name",
            role("dialect: ec2, secret: {name: A}"),
            "does not match",
            "roles[0].secret.name",
        ),
        accepted("role name with punctuation", named("a+b=c,d.e@f_g-h")),
        rejected_with("role name with a slash", named("a/b"), "does not match", "roles[0].name"),
        rejected("role name of dots", named(".."), "dot segment"),
        rejected_with("role name of 65 characters", named(&"a".repeat(65)), "invalid length", "1 to 64 bytes"),
    ]
}
