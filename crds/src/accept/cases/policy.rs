//! Policies.

use super::{Case, accepted, differently, refused};

pub(in crate::accept) fn policies() -> Vec<Case> {
    let selector = |text: &str| format!("namespaceSelector: {{matchExpressions: [{text}]}}");
    vec![
        accepted("no opinion", "{}"),
        accepted(
            "every opinion",
            "namespaceSelector: {matchLabels: {env: prod}}\nhttpTokens: required\nmaxHopLimit: 64\nallowedDialects: [ec2]\n\
             allowedProviders: [secret, awsWebIdentity, awsAssumeRole, aliyunOidc]\nallowedRoleNames: ['team-*']\n\
             allowedRoleArns: ['arn:aws:iam::*:role/?']\nallowedHostNetwork: [Node]\nwithoutProfile: Facts\n",
        ),
        accepted("nothing allowed", "allowedDialects: []\nallowedRoleNames: []"),
        differently("tokens optional", "httpTokens: optional", "unsupported", "spec.httpTokens: must be required"),
        differently("hop limit 0", "maxHopLimit: 0", "out of range", "spec.maxHopLimit: must be 1 to 64, not 0"),
        differently("a dialect twice", "allowedDialects: [ec2, ec2]", "duplicate", "is there twice"),
        differently("a provider", "allowedProviders: [vault]", "unsupported", "unknown variant"),
        differently("a mode", "allowedHostNetwork: [node]", "unsupported", "unknown variant"),
        differently("an answer", "withoutProfile: Allow", "unsupported", "unknown variant"),
        differently(
            "a pattern with a space",
            "allowedRoleNames: ['a b']",
            "does not match",
            "spec.allowedRoleNames[0]",
        ),
        differently("an empty pattern", "allowedRoleArns: ['']", "wrong length", "spec.allowedRoleArns[0]"),
        differently("a pattern twice", "allowedRoleArns: [a, a]", "duplicate", "is there twice"),
        refused("In without values", selector("{key: a, operator: In}"), "need values"),
        refused("Exists with values", selector("{key: a, operator: Exists, values: [x]}"), "have no values"),
    ]
}
