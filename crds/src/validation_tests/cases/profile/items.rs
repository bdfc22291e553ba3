//! Cases of `spec.metadata`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_by_conversion, rejected_with};

pub(super) fn items() -> Vec<SpecCase> {
    let item = |text: &str| both(&format!("metadata: [{{{text}}}]"));
    let path =
        |dialect: &str, path: &str| both(&format!("metadata: [{{dialect: {dialect}, path: '{path}', value: x}}]"));
    let value = |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, value: \"{text}\"}}]"));
    let field =
        |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, fieldRef: {{fieldPath: \"{text}\"}}}}]"));
    let expression = |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, expression: \"{text}\"}}]"));
    let reserved = "is a reserved path";
    let mut cases = vec![
        accepted("value", item("dialect: ec2, path: a/b, value: x")),
        accepted("empty value", item("dialect: ec2, path: a, value: ''")),
        accepted("fieldRef", item("dialect: ecs, path: a, fieldRef: {fieldPath: \"metadata.labels['app']\"}")),
        accepted("expression", item("dialect: ecs, path: a, expression: pod.metadata.name")),
        rejected("no source", item("dialect: ec2, path: a"), "must set exactly one of value, fieldRef and expression"),
        rejected("two sources", item("dialect: ec2, path: a, value: x, expression: '1'"), "exactly one of value"),
        rejected(
            "three sources",
            item("dialect: ec2, path: a, value: x, expression: '1', fieldRef: {fieldPath: metadata.name}"),
            "exactly one of value",
        ),
        accepted("null source is ignored", item("dialect: ec2, path: a, value: x, expression: null")),
        rejected(
            "item of a dialect not in dialects",
            "dialects: [ec2]\nmetadata: [{dialect: ecs, path: a, value: x}]",
            "listed in spec.dialects",
        ),
        accepted(
            "same path in both dialects",
            both("metadata: [{dialect: ec2, path: a, value: x}, {dialect: ecs, path: a, value: x}]"),
        ),
        rejected(
            "duplicate path",
            both("metadata: [{dialect: ec2, path: a, value: x}, {dialect: ec2, path: a, value: z}]"),
            "same dialect and path",
        ),
        accepted("path of 8 segments", path("ec2", "1/2/3/4/5/6/7/8")),
        rejected_with("path of 9 segments", path("ec2", "1/2/3/4/5/6/7/8/9"), "does not match", "at most 8 segments"),
        rejected("dot segment in a path", path("ec2", "a/../b"), "dot segment"),
        rejected("path of a dot", path("ec2", "."), "dot segment"),
        accepted("segments that contain dots", path("ec2", "..a/b..")),
        rejected_with("empty segment", path("ec2", "a//b"), "does not match", "empty segment"),
        rejected_with("leading slash", path("ec2", "/a"), "does not match", "empty segment"),
        rejected_with("percent-encoded path", path("ec2", "a%2fb"), "does not match", "letters, digits"),
        accepted("reserved ec2 name on ecs", path("ecs", "iam/info")),
        accepted("reserved ecs name on ec2", path("ec2", "ram/x")),
        accepted("name that starts with a reserved name", path("ec2", "iamb")),
        accepted("reserved name in second segment", path("ec2", "placement/mac")),
        accepted("network without interfaces", path("ec2", "network/other/x")),
        rejected("network interface on ec2", path("ec2", "network/interfaces/macs/x/y"), "identifies the pod"),
        rejected("network interface on ecs", path("ecs", "network/interfaces/macs/x/y"), "identifies the pod"),
        accepted("value with line feed and tab", value("a\\n\\tb")),
        rejected_with("value with a control character", value("a\\rb"), "does not match", "tabs and line feeds"),
        rejected("value of 2049 characters and 4098 bytes", value(&"ä".repeat(2049)), "4096 bytes long"),
        accepted("annotation key with a space", field("metadata.annotations['a b']")),
        accepted("fieldRef of host addresses", field("status.hostIPs")),
        rejected_with(
            "fieldRef of an unsupported field",
            field("spec.containers"),
            "does not match",
            "of the downward API",
        ),
        rejected_with(
            "fieldRef of an empty label key",
            field("metadata.labels['']"),
            "does not match",
            "of the downward API",
        ),
        rejected(
            "long fieldRef in bytes",
            field(&format!("metadata.labels['{}']", "ä".repeat(250))),
            "at most 512 bytes long",
        ),
        rejected_by_conversion("expression with a syntax error", expression("pod."), "does not compile"),
        rejected_by_conversion("expression with an unknown variable", expression("env.X"), "unknown name \"env\""),
        rejected_with("empty expression", expression(""), "invalid length", "must not be empty"),
        rejected_with("long expression", expression(&format!("1{}", "+1".repeat(512))), "invalid length", "1024 bytes"),
        rejected("long expression in bytes", expression(&format!("'{}'", "ä".repeat(512))), "at most 1024 bytes long"),
    ];
    for name in [
        "iam",
        "identity-credentials",
        "tags",
        "instance-id",
        "hostname",
        "local-hostname",
        "local-ipv4",
        "ipv6",
        "mac",
    ] {
        cases.push(rejected_with("reserved name of ec2", path("ec2", name), reserved, "must not set"));
        cases.push(rejected_with(
            "below a reserved name of ec2",
            path("ec2", &format!("{name}/x")),
            reserved,
            "must not set",
        ));
        cases.push(rejected_with(
            "reserved name of ec2 in upper case",
            path("ec2", &name.to_uppercase()),
            reserved,
            "must not set",
        ));
    }
    for name in ["ram", "tags", "all", "instance-id", "serial-number", "hostname", "private-ipv4", "mac"] {
        cases.push(rejected_with("reserved name of ecs", path("ecs", name), reserved, "must not set"));
        cases.push(rejected_with(
            "below a reserved name of ecs",
            path("ecs", &format!("{name}/x")),
            reserved,
            "must not set",
        ));
        cases.push(rejected_with(
            "reserved name of ecs in upper case",
            path("ecs", &name.to_uppercase()),
            reserved,
            "must not set",
        ));
    }
    cases
}
