//! Cases of `spec.publicKeys` and `spec.tags`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHS+/I+AsRnyh/JOYeSWZn+VPbvb652fvu/t9OaqgCtw me";

pub(super) fn keys_and_tags() -> Vec<SpecCase> {
    let key = |name: &str, key: &str| both(&format!("publicKeys: [{{name: '{name}', openSshKey: '{key}'}}]"));
    let tags =
        |dialects: &str, key: &str| format!("dialects: [{dialects}]\ntags: {{static: [{{key: \"{key}\", value: v}}]}}");
    let labels = |text: &str| both(&format!("tags: {{labels: [{text}]}}"));
    let ec2 = ("must contain only letters, digits and +-=.,_:@ on ec2", "on ec2");
    let ecs = ("must be one path segment on ecs", "on ecs");
    vec![
        accepted("public key", key("me@home", SSH_KEY)),
        rejected("key name of dots", key("..", SSH_KEY), "dot segment"),
        rejected_with("key name with a slash", key("a/b", SSH_KEY), "does not match", "letters, digits"),
        rejected_with(
            "invalid base64 prefix of a public key",
            key("me", "ssh-ed25519 BBBBBBBBBBBBBBBBB"),
            "does not match",
            "OpenSSH public key",
        ),
        rejected_with(
            "private key",
            key("me", "-----BEGIN OPENSSH PRIVATE KEY-----"),
            "does not match",
            "OpenSSH public key",
        ),
        rejected("long key comment in bytes", key("me", &format!("{SSH_KEY} {}", "ä".repeat(2040))), "4096 bytes long"),
        rejected_with(
            "duplicate key name",
            both(&format!("publicKeys: [{{name: a, openSshKey: '{SSH_KEY}'}}, {{name: a, openSshKey: '{SSH_KEY}'}}]")),
            "duplicate",
            "duplicate name",
        ),
        accepted("static tag", tags("ec2, ecs", "Name")),
        accepted("static tag without a value", both("tags: {static: [{key: a}]}")),
        accepted("non-ASCII tag key on ecs", tags("ecs", "ä")),
        rejected_with("non-ASCII tag key on ec2", tags("ec2, ecs", "ä"), ec2.0, ec2.1),
        rejected_with("tag key with a slash on ec2", tags("ec2", "a/b"), ec2.0, ec2.1),
        rejected_with("tag key _index on ec2", tags("ec2", "_index"), ec2.0, ec2.1),
        accepted("tag key _index on ecs", tags("ecs", "_index")),
        rejected_with("tag key of dots on ec2", tags("ec2", ".."), ec2.0, ec2.1),
        rejected_with("tag key of dots on ecs", tags("ecs", ".."), ecs.0, ecs.1),
        rejected_with("tag key with a slash on ecs", tags("ecs", "a/b"), ecs.0, ecs.1),
        rejected_with("tag key with a percent sign on ecs", tags("ecs", "a%2f"), ecs.0, ecs.1),
        rejected_with("tag key with a backslash on ecs", tags("ecs", "a\\\\b"), ecs.0, ecs.1),
        rejected_with("tag key with a Unicode space on ecs", tags("ecs", "a\\u3000b"), ecs.0, ecs.1),
        rejected_with("tag key with a space on ecs", tags("ecs", "a b"), ecs.0, ecs.1),
        rejected_with("tag key with prefix aliyun on ecs", tags("ecs", "aliyun-x"), ecs.0, ecs.1),
        accepted("tag key with prefix aliyun on ec2", tags("ec2", "aliyun-x")),
        rejected_with("tag key with prefix acs: on ecs", tags("ecs", "acs:x"), ecs.0, ecs.1),
        rejected_with("empty tag key", tags("ec2", ""), "invalid length", "1 to 128 bytes"),
        rejected_with("long tag key in bytes", tags("ecs", &"ä".repeat(65)), "128 bytes long", "1 to 128 bytes"),
        rejected(
            "long tag value in bytes",
            both(&format!("tags: {{static: [{{key: a, value: '{}'}}]}}", "ä".repeat(129))),
            "256 bytes long",
        ),
        rejected_with("duplicate tag key", both("tags: {static: [{key: a}, {key: a}]}"), "duplicate", "duplicate key"),
        accepted("label patterns", labels("team, 'shop.example/*', '*'")),
        rejected_with("* inside a label pattern", labels("'a*b'"), "does not match", "at the end only"),
        rejected_with("duplicate label pattern", labels("a, a"), "duplicate", "duplicate value"),
    ]
}
