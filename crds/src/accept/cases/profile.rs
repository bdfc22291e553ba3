//! Profiles.

use super::{Case, accepted, differently, refused, without_server};

/// A spec of both dialects with something more.
fn both(more: &str) -> String {
    format!("dialects: [ec2, ecs]\n{more}")
}

const EC2_ARN: &str = "arn:aws:iam::123456789012:role/web";
const ECS_ARN: &str = "acs:ram::1234567890123456:role/web";
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHS+/I+AsRnyh/JOYeSWZn+VPbvb652fvu/t9OaqgCtw me";

pub(in crate::accept) fn profiles() -> Vec<Case> {
    [selection(), options(), instance(), items(), user_data(), keys_and_tags(), roles(), users_and_limits()]
        .into_iter()
        .flatten()
        .collect()
}

fn selection() -> Vec<Case> {
    let expression = |text: &str| both(&format!("podSelector: {{matchExpressions: [{text}]}}"));
    vec![
        accepted("one dialect is all that is needed", "dialects: [ec2]"),
        accepted("both dialects", "dialects: [ec2, ecs]"),
        differently("no dialects", "priority: 1", "dialects is required", "missing field `dialects`"),
        differently("an empty list of dialects", "dialects: []", "wrong number", "must name at least one"),
        differently("a dialect twice", "dialects: [ec2, ec2]", "duplicate", "spec.dialects[1]: is there twice"),
        differently("another cloud", "dialects: [gcp]", "unsupported", "unknown variant"),
        accepted("the lowest priority", both("priority: -2147483648")),
        differently("too high a priority", both("priority: 2147483648"), "out of range", "spec.priority: must be"),
        accepted("an empty selector", both("podSelector: {}")),
        accepted("labels", both("podSelector: {matchLabels: {app: web, a.b/c: ''}}")),
        differently(
            "a bad label value",
            both("podSelector: {matchLabels: {app: -x}}"),
            "does not match",
            "matchLabels.app",
        ),
        accepted("In", expression("{key: a, operator: In, values: [x]}")),
        accepted("Exists", expression("{key: a.b/c, operator: Exists}")),
        refused("In without values", expression("{key: a, operator: In}"), "need values"),
        refused("NotIn with no values", expression("{key: a, operator: NotIn, values: []}"), "need values"),
        refused("Exists with values", expression("{key: a, operator: Exists, values: [x]}"), "have no values"),
        differently("an operator", expression("{key: a, operator: Gt}"), "unsupported", "unknown variant"),
        differently(
            "a bad key",
            expression("{key: a/b/c, operator: Exists}"),
            "does not match",
            "must be a label's key",
        ),
        accepted("accounts", both("serviceAccountNames: [web, a.b]")),
        differently("an account twice", both("serviceAccountNames: [a, a]"), "duplicate", "is there twice"),
        differently("a bad account", both("serviceAccountNames: [A]"), "does not match", "serviceAccountNames[0]"),
        accepted("a mode of hostNetwork", both("hostNetwork: Node")),
        differently("no mode of hostNetwork", both("hostNetwork: deny"), "unsupported", "unknown variant"),
    ]
}

fn options() -> Vec<Case> {
    let options = |text: &str| both(&format!("metadataOptions: {{{text}}}"));
    vec![
        accepted("no options", options("")),
        accepted(
            "all options",
            options(
                "httpEndpoint: disabled, httpTokens: optional, httpPutResponseHopLimit: 64, httpProtocolIpv6: enabled, \
                 instanceMetadataTags: enabled, maxTokenTtlSeconds: 1",
            ),
        ),
        differently("hop limit 0", options("httpPutResponseHopLimit: 0"), "out of range", "must be 1 to 64, not 0"),
        differently("hop limit 65", options("httpPutResponseHopLimit: 65"), "out of range", "must be 1 to 64, not 65"),
        differently(
            "a huge hop limit",
            options("httpPutResponseHopLimit: 4294967297"),
            "out of range",
            "must be 1 to 64",
        ),
        differently("a broken hop limit", options("httpPutResponseHopLimit: 1.5"), "not an integer", "invalid type"),
        differently("ttl 0", options("maxTokenTtlSeconds: 0"), "out of range", "must be 1 to 21600"),
        differently("ttl 21601", options("maxTokenTtlSeconds: 21601"), "out of range", "must be 1 to 21600"),
        differently("a word for tokens", options("httpTokens: never"), "unsupported", "unknown variant"),
        differently("a truth value", options("httpEndpoint: true"), "unsupported", "invalid type"),
        refused(
            "IPv6 without ec2",
            "dialects: [ecs]\nmetadataOptions: {httpProtocolIpv6: enabled}",
            "needs the dialect ec2",
        ),
        accepted("ecs without IPv6", "dialects: [ecs]\nmetadataOptions: {httpProtocolIpv6: disabled}"),
    ]
}

fn instance() -> Vec<Case> {
    let instance = |text: &str| both(&format!("instance: {{{text}}}"));
    let network = |text: &str| both(&format!("instance: {{network: {{{text}}}}}"));
    let long = |text: &str| both(&format!("instance: {{region: '{}'}}", text.repeat(127)));
    vec![
        accepted(
            "an instance",
            instance(
                "accountId: '123456789012', region: eu-west-1, availabilityZone: a, availabilityZoneId: b, \
                 instanceType: m7i.large, imageId: ami-1, lifeCycle: capacity-block",
            ),
        ),
        accepted(
            "a network",
            network(
                "vpcId: vpc-1, vpcIpv4CidrBlocks: [10.0.0.0/8], vpcIpv6CidrBlocks: ['2001:db8::/56'], subnetId: s, \
                 subnetIpv4CidrBlock: 10.1.0.0/16, subnetIpv6CidrBlocks: ['2001:db8::/64'], securityGroups: [a], \
                 securityGroupIds: [sg-1], publicIpv4: 192.0.2.1, publicHostname: a.example, nameservers: [10.0.0.2], \
                 ntpServers: [ntp.example]",
            ),
        ),
        differently("an account as a number", instance("accountId: 123456789012"), "of type string", "invalid type"),
        differently("a short account", instance("accountId: '12345678901'"), "wrong length", "instance.accountId"),
        differently("an account of letters", instance("accountId: 'abcdefghijkl'"), "does not match", "digits only"),
        differently("two lines", instance("region: \"a\\nb\""), "does not match", "instance.region"),
        differently("an empty region", instance("region: ''"), "wrong length", "instance.region"),
        accepted("letters of any script", long("x")),
        refused("too many bytes of few letters", long("ä"), "253 bytes long"),
        differently("a life cycle", instance("lifeCycle: never"), "unsupported", "unknown variant"),
        refused("an IPv6 block as IPv4", network("vpcIpv4CidrBlocks: ['2001:db8::/56']"), "must be an IPv4 block"),
        refused("an IPv4 block as IPv6", network("vpcIpv6CidrBlocks: [10.0.0.0/8]"), "must be an IPv6 block"),
        refused("an address as a block", network("subnetIpv4CidrBlock: 10.0.0.0"), "must be an IPv4 block"),
        refused("too long a prefix", network("subnetIpv4CidrBlock: 10.0.0.0/33"), "must be an IPv4 block"),
        refused("an IPv6 address", network("publicIpv4: '::1'"), "must be an IPv4 address"),
        refused("a name server's name", network("nameservers: [dns.example]"), "must be an IPv4 address"),
        differently(
            "many groups",
            network(&format!("securityGroups: [{}]", "a, ".repeat(17))),
            "wrong number",
            "16 entries",
        ),
    ]
}

fn items() -> Vec<Case> {
    let item = |text: &str| both(&format!("metadata: [{{{text}}}]"));
    let path =
        |dialect: &str, path: &str| both(&format!("metadata: [{{dialect: {dialect}, path: '{path}', value: x}}]"));
    let value = |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, value: \"{text}\"}}]"));
    let field =
        |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, fieldRef: {{fieldPath: \"{text}\"}}}}]"));
    let expression = |text: &str| both(&format!("metadata: [{{dialect: ec2, path: a, expression: \"{text}\"}}]"));
    let reserved = "identifies the pod, or has a field of its own";
    let mut cases = vec![
        accepted("a value", item("dialect: ec2, path: a/b, value: x")),
        accepted("an empty value", item("dialect: ec2, path: a, value: ''")),
        accepted("a field", item("dialect: ecs, path: a, fieldRef: {fieldPath: \"metadata.labels['app']\"}")),
        accepted("an expression", item("dialect: ecs, path: a, expression: pod.metadata.name")),
        refused("no source", item("dialect: ec2, path: a"), "exactly one of value, fieldRef and expression"),
        refused("two sources", item("dialect: ec2, path: a, value: x, expression: '1'"), "exactly one of value"),
        refused(
            "three sources",
            item("dialect: ec2, path: a, value: x, expression: '1', fieldRef: {fieldPath: metadata.name}"),
            "exactly one of value",
        ),
        accepted("null is absent", item("dialect: ec2, path: a, value: x, expression: null")),
        refused(
            "an item of a dialect that is off",
            "dialects: [ec2]\nmetadata: [{dialect: ecs, path: a, value: x}]",
            "that spec.dialects lists",
        ),
        accepted(
            "a path in each dialect",
            both("metadata: [{dialect: ec2, path: a, value: x}, {dialect: ecs, path: a, value: x}]"),
        ),
        refused(
            "a path twice",
            both("metadata: [{dialect: ec2, path: a, value: x}, {dialect: ec2, path: a, value: z}]"),
            "have this path",
        ),
        accepted("the deepest path", path("ec2", "1/2/3/4/5/6/7/8")),
        differently("too deep a path", path("ec2", "1/2/3/4/5/6/7/8/9"), "does not match", "at most 8 segments"),
        refused("a dot segment", path("ec2", "a/../b"), "dot segment"),
        refused("only dots", path("ec2", "."), "dot segment"),
        accepted("dots in a name", path("ec2", "..a/b..")),
        differently("an empty name", path("ec2", "a//b"), "does not match", "empty segment"),
        differently("a leading slash", path("ec2", "/a"), "does not match", "empty segment"),
        differently("an escape", path("ec2", "a%2fb"), "does not match", "letters, digits"),
        accepted("iam on ecs", path("ecs", "iam/info")),
        accepted("ram on ec2", path("ec2", "ram/x")),
        accepted("the start of a reserved name", path("ec2", "iamb")),
        accepted("below another name", path("ec2", "placement/mac")),
        accepted("network beside interfaces", path("ec2", "network/other/x")),
        refused("an interface", path("ec2", "network/interfaces/macs/x/y"), "identifies the pod"),
        refused("an interface of ecs", path("ecs", "network/interfaces/macs/x/y"), "identifies the pod"),
        accepted("lines and tabs", value("a\\n\\tb")),
        differently("a control character", value("a\\rb"), "does not match", "tabs and line feeds"),
        refused("many bytes of few letters", value(&"ä".repeat(2049)), "4096 bytes long"),
        accepted("any annotation", field("metadata.annotations['a b']")),
        accepted("host addresses", field("status.hostIPs")),
        differently("no such field", field("spec.containers"), "does not match", "of the downward API"),
        differently("no key", field("metadata.labels['']"), "does not match", "of the downward API"),
        refused(
            "many bytes in a field",
            field(&format!("metadata.labels['{}']", "ä".repeat(250))),
            "at most 512 bytes long",
        ),
        without_server("what does not compile", expression("pod."), "does not compile"),
        without_server("a name that is not there", expression("env.X"), "unknown name \"env\""),
        differently("an empty expression", expression(""), "wrong length", "must not be empty"),
        differently("a long expression", expression(&format!("1{}", "+1".repeat(512))), "wrong length", "1024 bytes"),
        refused(
            "many bytes in an expression",
            expression(&format!("'{}'", "ä".repeat(512))),
            "at most 1024 bytes long",
        ),
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
        cases.push(differently("a reserved name of ec2", path("ec2", name), reserved, "must not set"));
        cases.push(differently(
            "below a reserved name of ec2",
            path("ec2", &format!("{name}/x")),
            reserved,
            "must not set",
        ));
        cases.push(differently("a shouted name of ec2", path("ec2", &name.to_uppercase()), reserved, "must not set"));
    }
    for name in ["ram", "tags", "all", "instance-id", "serial-number", "hostname", "private-ipv4", "mac"] {
        cases.push(differently("a reserved name of ecs", path("ecs", name), reserved, "must not set"));
        cases.push(differently(
            "below a reserved name of ecs",
            path("ecs", &format!("{name}/x")),
            reserved,
            "must not set",
        ));
        cases.push(differently("a shouted name of ecs", path("ecs", &name.to_uppercase()), reserved, "must not set"));
    }
    cases
}

fn user_data() -> Vec<Case> {
    let data = |text: &str| both(&format!("userData: {{{text}}}"));
    vec![
        accepted("inline data", data("inline: \"#!/bin/sh\\n\\0\"")),
        accepted("as much as there may be", data(&format!("inline: '{}'", "x".repeat(16_384)))),
        differently(
            "too much",
            data(&format!("inline: '{}'", "x".repeat(16_385))),
            "wrong length",
            "at most 16384 bytes",
        ),
        refused(
            "too many bytes of few letters",
            data(&format!("inline: '{}'", "ä".repeat(8193))),
            "at most 16384 bytes",
        ),
        accepted("a ConfigMap", data("configMapKeyRef: {name: boot, key: user-data}")),
        accepted("a Secret", data("secretKeyRef: {name: boot, key: user_data.sh}")),
        refused("no source", data(""), "exactly one of inline, configMapKeyRef and secretKeyRef"),
        refused("two sources", data("inline: x, secretKeyRef: {name: boot, key: x}"), "exactly one of inline"),
        differently("a bad name", data("secretKeyRef: {name: Boot, key: x}"), "does not match", "as object names are"),
        differently(
            "a bad key",
            data("secretKeyRef: {name: boot, key: a/b}"),
            "does not match",
            "letters, digits and -._",
        ),
        refused("dots for a key", data("secretKeyRef: {name: boot, key: ..}"), "dot segment"),
        differently("no key", data("secretKeyRef: {name: boot}"), "key is required", "missing field `key`"),
    ]
}

fn keys_and_tags() -> Vec<Case> {
    let key = |name: &str, key: &str| both(&format!("publicKeys: [{{name: '{name}', openSshKey: '{key}'}}]"));
    let tags =
        |dialects: &str, key: &str| format!("dialects: [{dialects}]\ntags: {{static: [{{key: \"{key}\", value: v}}]}}");
    let labels = |text: &str| both(&format!("tags: {{labels: [{text}]}}"));
    let ec2 = ("must contain letters, digits and +-=.,_:@ on ec2", "ec2");
    let ecs = ("must be one path segment on ecs", "ecs");
    vec![
        accepted("a public key", key("me@home", SSH)),
        refused("dots for a name", key("..", SSH), "dot segment"),
        differently("a slash in a name", key("a/b", SSH), "does not match", "letters, digits"),
        differently(
            "no public key",
            key("me", "ssh-ed25519 BBBBBBBBBBBBBBBBB"),
            "does not match",
            "OpenSSH public key",
        ),
        differently(
            "a private key",
            key("me", "-----BEGIN OPENSSH PRIVATE KEY-----"),
            "does not match",
            "OpenSSH public key",
        ),
        refused("a long comment", key("me", &format!("{SSH} {}", "ä".repeat(2040))), "4096 bytes long"),
        differently(
            "a name twice",
            both(&format!("publicKeys: [{{name: a, openSshKey: '{SSH}'}}, {{name: a, openSshKey: '{SSH}'}}]")),
            "duplicate",
            "another key has this name",
        ),
        accepted("a tag", tags("ec2, ecs", "Name")),
        accepted("a tag without a value", both("tags: {static: [{key: a}]}")),
        accepted("a letter that ecs takes", tags("ecs", "ä")),
        differently("a letter that ec2 does not take", tags("ec2, ecs", "ä"), ec2.0, ec2.1),
        differently("a slash on ec2", tags("ec2", "a/b"), ec2.0, ec2.1),
        differently("_index on ec2", tags("ec2", "_index"), ec2.0, ec2.1),
        accepted("_index on ecs", tags("ecs", "_index")),
        differently("dots on ec2", tags("ec2", ".."), ec2.0, ec2.1),
        differently("dots on ecs", tags("ecs", ".."), ecs.0, ecs.1),
        differently("a slash on ecs", tags("ecs", "a/b"), ecs.0, ecs.1),
        differently("an escape on ecs", tags("ecs", "a%2f"), ecs.0, ecs.1),
        differently("a backslash on ecs", tags("ecs", "a\\\\b"), ecs.0, ecs.1),
        differently("a wide space on ecs", tags("ecs", "a\\u3000b"), ecs.0, ecs.1),
        differently("a space on ecs", tags("ecs", "a b"), ecs.0, ecs.1),
        differently("aliyun on ecs", tags("ecs", "aliyun-x"), ecs.0, ecs.1),
        accepted("aliyun on ec2", tags("ec2", "aliyun-x")),
        differently("acs: on ecs", tags("ecs", "acs:x"), ecs.0, ecs.1),
        differently("an empty key", tags("ec2", ""), "wrong length", "1 to 128 bytes"),
        differently("many bytes in a key", tags("ecs", &"ä".repeat(65)), "128 bytes long", "1 to 128 bytes"),
        refused(
            "many bytes in a value",
            both(&format!("tags: {{static: [{{key: a, value: '{}'}}]}}", "ä".repeat(129))),
            "256 bytes long",
        ),
        differently(
            "a key twice",
            both("tags: {static: [{key: a}, {key: a}]}"),
            "duplicate",
            "another tag has this key",
        ),
        accepted("labels", labels("team, 'shop.example/*', '*'")),
        differently("a star within", labels("'a*b'"), "does not match", "at the end only"),
        differently("a label twice", labels("a, a"), "duplicate", "is there twice"),
    ]
}

fn roles() -> Vec<Case> {
    let role = |text: &str| both(&format!("roles: [{{name: web, {text}}}]"));
    let named = |name: &str| both(&format!("roles: [{{name: '{name}', dialect: ec2, secret: {{name: keys}}}}]"));
    let web = |more: &str| role(&format!("dialect: ec2, awsWebIdentity: {{roleArn: '{EC2_ARN}'{more}}}"));
    let arn = |provider: &str, dialect: &str, arn: &str| {
        role(&format!("dialect: {dialect}, {provider}: {{roleArn: '{arn}', oidcProviderArn: x}}"))
    };
    vec![
        accepted(
            "a role of each dialect",
            both("roles: [{name: a, dialect: ec2, secret: {name: a}}, {name: b, dialect: ecs, secret: {name: a}}]"),
        ),
        refused(
            "two roles of a dialect",
            both("roles: [{name: a, dialect: ec2, secret: {name: a}}, {name: b, dialect: ec2, secret: {name: a}}]"),
            "one role at most",
        ),
        refused(
            "a role of a dialect that is off",
            "dialects: [ecs]\nroles: [{name: a, dialect: ec2, secret: {name: a}}]",
            "that spec.dialects lists",
        ),
        refused("no provider", role("dialect: ec2"), "exactly one of secret, awsWebIdentity"),
        refused(
            "two providers",
            role(&format!("dialect: ec2, secret: {{name: a}}, awsWebIdentity: {{roleArn: '{EC2_ARN}'}}")),
            "exactly one of secret",
        ),
        accepted("web identity", web(", audience: me, durationSeconds: 43200")),
        refused("web identity on ecs", arn("awsWebIdentity", "ecs", EC2_ARN), "are for roles of ec2"),
        accepted(
            "an assumed role",
            role(&format!("dialect: ec2, awsAssumeRole: {{roleArn: '{EC2_ARN}', externalId: x}}")),
        ),
        refused("an assumed role on ecs", arn("awsAssumeRole", "ecs", EC2_ARN), "are for roles of ec2"),
        accepted("OIDC", arn("aliyunOidc", "ecs", ECS_ARN)),
        refused("OIDC on ec2", arn("aliyunOidc", "ec2", ECS_ARN), "is for roles of ecs"),
        differently(
            "OIDC without its provider",
            role(&format!("dialect: ecs, aliyunOidc: {{roleArn: '{ECS_ARN}'}}")),
            "oidcProviderArn is required",
            "missing field",
        ),
        differently(
            "an ARN of the other cloud",
            arn("awsWebIdentity", "ec2", ECS_ARN),
            "does not match",
            "must start with \"arn:\"",
        ),
        differently(
            "an ARN of this cloud for the other",
            arn("aliyunOidc", "ecs", EC2_ARN),
            "does not match",
            "must start with \"acs:\"",
        ),
        differently(
            "an ARN of a user",
            arn("awsWebIdentity", "ec2", "arn:aws:iam::123456789012:user/web"),
            "does not match",
            "must be an ARN of a role",
        ),
        accepted("an ARN with a colon", arn("awsWebIdentity", "ec2", "arn:aws-cn:iam::123456789012:role/a:b")),
        differently(
            "an ARN of ecs with a colon",
            arn("aliyunOidc", "ecs", "acs:ram::1234567890123456:role/a:b"),
            "does not match",
            "must be an ARN of a role",
        ),
        differently("a short session", web(", durationSeconds: 3599"), "out of range", "must be 3600 to 43200"),
        differently("a long session", web(", durationSeconds: 43201"), "out of range", "must be 3600 to 43200"),
        differently("an empty audience", web(", audience: ''"), "wrong length", "awsWebIdentity.audience"),
        differently(
            "an external id of two lines",
            role(&format!("dialect: ec2, awsAssumeRole: {{roleArn: '{EC2_ARN}', externalId: \"a\\nb\"}}")),
            "does not match",
            "awsAssumeRole.externalId",
        ),
        differently("a bad Secret", role("dialect: ec2, secret: {name: A}"), "does not match", "roles[0].secret.name"),
        accepted("a name with signs", named("a+b=c,d.e@f_g-h")),
        differently("a slash in a name", named("a/b"), "does not match", "roles[0].name"),
        refused("dots for a name", named(".."), "dot segment"),
        differently("a long name", named(&"a".repeat(65)), "wrong length", "1 to 64 bytes"),
    ]
}

fn users_and_limits() -> Vec<Case> {
    let limits = |text: &str| both(&format!("limits: {{{text}}}"));
    vec![
        accepted("users", both("allowedUsers: [0, 4294967294]\ndeniedUsers: [33]")),
        refused(
            "a user in both lists",
            both("allowedUsers: [1, 33]\ndeniedUsers: [33]"),
            "must not be in allowedUsers too",
        ),
        differently("a user twice", both("deniedUsers: [33, 33]"), "duplicate", "spec.deniedUsers[1]: is there twice"),
        differently(
            "nobody",
            both("allowedUsers: [4294967295]"),
            "out of range",
            "spec.allowedUsers[0]: must be 0 to 4294967294",
        ),
        differently("a negative user", both("deniedUsers: [-1]"), "out of range", "must be 0 to"),
        differently("a user's name", both("deniedUsers: [root]"), "of type integer", "invalid type"),
        accepted("limits", limits("requestsPerSecond: 1, burst: 1, connections: 1")),
        accepted("the default burst", limits("requestsPerSecond: 1000")),
        refused(
            "a burst below the rate",
            limits("requestsPerSecond: 10, burst: 9"),
            "must be at least requestsPerSecond",
        ),
        refused(
            "the default burst below the rate",
            limits("requestsPerSecond: 1001"),
            "must be at least requestsPerSecond",
        ),
        differently(
            "no requests",
            limits("requestsPerSecond: 0"),
            "out of range",
            "limits.requestsPerSecond: must be 1 to",
        ),
        differently("no connections", limits("connections: 0"), "out of range", "limits.connections: must be 1 to"),
        differently("a huge burst", limits("burst: 200001"), "out of range", "limits.burst: must be 1 to"),
    ]
}
