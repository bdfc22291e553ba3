//! Cases of the selection of pods: dialects, selector, ServiceAccounts, priority, `hostNetwork`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

pub(super) fn selection() -> Vec<SpecCase> {
    let expression = |text: &str| both(&format!("podSelector: {{matchExpressions: [{text}]}}"));
    vec![
        accepted("only dialects", "dialects: [ec2]"),
        accepted("both dialects", "dialects: [ec2, ecs]"),
        rejected_with("dialects absent", "priority: 1", "dialects is required", "missing field `dialects`"),
        rejected_with("empty dialects", "dialects: []", "invalid number", "must have at least one"),
        rejected_with("duplicate dialect", "dialects: [ec2, ec2]", "duplicate", "spec.dialects[1]: duplicate value"),
        rejected_with("unknown dialect", "dialects: [gcp]", "unsupported", "unknown variant"),
        accepted("minimum priority", both("priority: -2147483648")),
        rejected_with(
            "priority above the maximum",
            both("priority: 2147483648"),
            "out of range",
            "spec.priority: must be",
        ),
        accepted("empty selector", both("podSelector: {}")),
        accepted("matchLabels", both("podSelector: {matchLabels: {app: web, a.b/c: ''}}")),
        rejected_with(
            "invalid label value",
            both("podSelector: {matchLabels: {app: -x}}"),
            "does not match",
            "matchLabels.app",
        ),
        accepted("In", expression("{key: a, operator: In, values: [x]}")),
        accepted("Exists", expression("{key: a.b/c, operator: Exists}")),
        rejected("In without values", expression("{key: a, operator: In}"), "require values"),
        rejected("NotIn with no values", expression("{key: a, operator: NotIn, values: []}"), "require values"),
        rejected("Exists with values", expression("{key: a, operator: Exists, values: [x]}"), "must not have values"),
        rejected_with("unknown operator", expression("{key: a, operator: Gt}"), "unsupported", "unknown variant"),
        rejected_with(
            "invalid label key",
            expression("{key: a/b/c, operator: Exists}"),
            "does not match",
            "must be a label key",
        ),
        accepted("ServiceAccount names", both("serviceAccountNames: [web, a.b]")),
        rejected_with(
            "duplicate ServiceAccount name",
            both("serviceAccountNames: [a, a]"),
            "duplicate",
            "duplicate value",
        ),
        rejected_with(
            "invalid ServiceAccount name",
            both("serviceAccountNames: [A]"),
            "does not match",
            "serviceAccountNames[0]",
        ),
        accepted("hostNetwork", both("hostNetwork: Node")),
        rejected_with("unknown hostNetwork mode", both("hostNetwork: deny"), "unsupported", "unknown variant"),
    ]
}
