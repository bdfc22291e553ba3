//! Cases of `spec.userData`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

pub(super) fn user_data() -> Vec<SpecCase> {
    let data = |text: &str| both(&format!("userData: {{{text}}}"));
    vec![
        accepted("inline", data("inline: \"#!/bin/sh\\n\\0\"")),
        accepted("inline of maximum size", data(&format!("inline: '{}'", "x".repeat(16_384)))),
        rejected_with(
            "inline above the maximum size",
            data(&format!("inline: '{}'", "x".repeat(16_385))),
            "invalid length",
            "at most 16384 bytes",
        ),
        rejected(
            "inline of 8193 characters and 16386 bytes",
            data(&format!("inline: '{}'", "ä".repeat(8193))),
            "at most 16384 bytes",
        ),
        accepted("configMapKeyRef", data("configMapKeyRef: {name: boot, key: user-data}")),
        accepted("secretKeyRef", data("secretKeyRef: {name: boot, key: user_data.sh}")),
        rejected("no source", data(""), "exactly one of inline, configMapKeyRef and secretKeyRef"),
        rejected("two sources", data("inline: x, secretKeyRef: {name: boot, key: x}"), "exactly one of inline"),
        rejected_with(
            "invalid Secret name",
            data("secretKeyRef: {name: Boot, key: x}"),
            "does not match",
            "must be an object name",
        ),
        rejected_with(
            "invalid key",
            data("secretKeyRef: {name: boot, key: a/b}"),
            "does not match",
            "letters, digits and -._",
        ),
        rejected("key of dots", data("secretKeyRef: {name: boot, key: ..}"), "dot segment"),
        rejected_with("key absent", data("secretKeyRef: {name: boot}"), "key is required", "missing field `key`"),
    ]
}
