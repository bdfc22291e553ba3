//! Cases of `MetadataPolicy`.

use super::{SpecCase, accepted, rejected, rejected_with};

pub(in crate::validation_tests) fn policies() -> Vec<SpecCase> {
    let selector = |text: &str| format!("namespaceSelector: {{matchExpressions: [{text}]}}");
    vec![
        accepted("empty spec", "{}"),
        accepted(
            "all fields",
            "namespaceSelector: {matchLabels: {env: prod}}\nhttpTokens: required\nmaxHopLimit: 64\n\
             maxRequestsPerSecond: 100000\nmaxConnections: 16384\nallowedDialects: [ec2]\n\
             allowedProviders: [secret, awsWebIdentity, awsAssumeRole, aliyunOidc]\nallowedRoleNames: ['team-*']\n\
             allowedRoleArns: ['arn:aws:iam::*:role/?']\nallowedAccountIds: ['123456789012']\nallowedRegions: [eu-west-1]\n\
             allowedExternalIds: ['partner-*']\nmaxDurationSeconds: 43200\nallowedSecrets: ['web-*', 'key?']\nallowedHostNetwork: [Node]\nwithoutProfile: Facts\nstaticPods: Facts\n",
        ),
        accepted(
            "empty lists",
            "allowedDialects: []\nallowedRoleNames: []\nallowedExternalIds: []\nallowedSecrets: []\nallowedAccountIds: []\nallowedRegions: []",
        ),
        accepted("account of 20 digits", "allowedAccountIds: ['12345678901234567890']"),
        rejected_with(
            "account of 11 digits",
            "allowedAccountIds: ['12345678901']",
            "invalid length",
            "spec.allowedAccountIds[0]",
        ),
        rejected_with(
            "account of 21 digits",
            "allowedAccountIds: ['123456789012345678901']",
            "invalid length",
            "spec.allowedAccountIds[0]",
        ),
        rejected_with(
            "account with a pattern",
            "allowedAccountIds: ['12345678901*']",
            "does not match",
            "spec.allowedAccountIds[0]",
        ),
        rejected_with(
            "duplicate account",
            "allowedAccountIds: ['123456789012', '123456789012']",
            "duplicate",
            "duplicate value",
        ),
        rejected_with("empty region", "allowedRegions: ['']", "invalid length", "spec.allowedRegions[0]"),
        rejected_with(
            "region of two lines",
            "allowedRegions: [\"eu\\nwest\"]",
            "does not match",
            "spec.allowedRegions[0]",
        ),
        rejected(
            "region of 127 characters and 254 bytes",
            format!("allowedRegions: ['{}']", "ä".repeat(127)),
            "253 bytes long",
        ),
        rejected_with("duplicate region", "allowedRegions: [a, a]", "duplicate", "duplicate value"),
        rejected_with(
            "httpTokens optional",
            "httpTokens: optional",
            "unsupported",
            "spec.httpTokens: must be required",
        ),
        rejected_with("hop limit 0", "maxHopLimit: 0", "out of range", "spec.maxHopLimit: must be 1 to 64, not 0"),
        accepted("lowest maxima", "maxRequestsPerSecond: 1\nmaxConnections: 1"),
        rejected_with(
            "maximum of 0 requests per second",
            "maxRequestsPerSecond: 0",
            "out of range",
            "spec.maxRequestsPerSecond: must be 1 to 100000, not 0",
        ),
        rejected_with(
            "maximum of 100,001 requests per second",
            "maxRequestsPerSecond: 100001",
            "out of range",
            "spec.maxRequestsPerSecond: must be 1 to 100000, not 100001",
        ),
        rejected_with(
            "maximum of 0 connections",
            "maxConnections: 0",
            "out of range",
            "spec.maxConnections: must be 1 to 16384, not 0",
        ),
        rejected_with(
            "maximum of 16,385 connections",
            "maxConnections: 16385",
            "out of range",
            "spec.maxConnections: must be 1 to 16384, not 16385",
        ),
        accepted("lowest maximum of durationSeconds", "maxDurationSeconds: 3600"),
        rejected_with(
            "maximum of 3,599 seconds",
            "maxDurationSeconds: 3599",
            "out of range",
            "spec.maxDurationSeconds: must be 3600 to 43200 seconds, not 3599",
        ),
        rejected_with(
            "maximum of 43,201 seconds",
            "maxDurationSeconds: 43201",
            "out of range",
            "spec.maxDurationSeconds: must be 3600 to 43200 seconds, not 43201",
        ),
        rejected_with(
            "external ID pattern with a space",
            "allowedExternalIds: ['a b']",
            "does not match",
            "spec.allowedExternalIds[0]",
        ),
        rejected_with("duplicate dialect", "allowedDialects: [ec2, ec2]", "duplicate", "duplicate value"),
        rejected_with("unknown provider", "allowedProviders: [vault]", "unsupported", "unknown variant"),
        rejected_with("unknown hostNetwork mode", "allowedHostNetwork: [node]", "unsupported", "unknown variant"),
        rejected_with("unknown staticPods", "staticPods: Allow", "unsupported", "unknown variant"),
        rejected_with("unknown withoutProfile", "withoutProfile: Allow", "unsupported", "unknown variant"),
        rejected_with(
            "pattern with a space",
            "allowedRoleNames: ['a b']",
            "does not match",
            "spec.allowedRoleNames[0]",
        ),
        rejected_with("empty pattern", "allowedRoleArns: ['']", "invalid length", "spec.allowedRoleArns[0]"),
        rejected_with(
            "Secret pattern with a space",
            "allowedSecrets: ['a b']",
            "does not match",
            "spec.allowedSecrets[0]",
        ),
        rejected_with("empty Secret pattern", "allowedSecrets: ['']", "invalid length", "spec.allowedSecrets[0]"),
        rejected_with("duplicate Secret pattern", "allowedSecrets: [a, a]", "duplicate", "duplicate value"),
        rejected_with("duplicate pattern", "allowedRoleArns: [a, a]", "duplicate", "duplicate value"),
        rejected("In without values", selector("{key: a, operator: In}"), "require values"),
        rejected("Exists with values", selector("{key: a, operator: Exists, values: [x]}"), "must not have values"),
    ]
}
