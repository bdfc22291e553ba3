//! Cases of `spec.allowedUsers`, `spec.deniedUsers` and `spec.limits`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

pub(super) fn users_and_limits() -> Vec<SpecCase> {
    let limits = |text: &str| both(&format!("limits: {{{text}}}"));
    vec![
        accepted("allowedUsers and deniedUsers", both("allowedUsers: [0, 4294967294]\ndeniedUsers: [33]")),
        rejected(
            "user in both lists",
            both("allowedUsers: [1, 33]\ndeniedUsers: [33]"),
            "must not contain a user of allowedUsers",
        ),
        rejected_with(
            "duplicate user",
            both("deniedUsers: [33, 33]"),
            "duplicate",
            "spec.deniedUsers[1]: duplicate value",
        ),
        rejected_with(
            "user ID above the maximum",
            both("allowedUsers: [4294967295]"),
            "out of range",
            "spec.allowedUsers[0]: must be 0 to 4294967294",
        ),
        rejected_with("negative user ID", both("deniedUsers: [-1]"), "out of range", "must be 0 to"),
        rejected_with("user name instead of an ID", both("deniedUsers: [root]"), "of type integer", "invalid type"),
        accepted("limits", limits("requestsPerSecond: 1, burst: 1, connections: 1")),
        accepted("default burst", limits("requestsPerSecond: 1000")),
        rejected(
            "burst below the rate",
            limits("requestsPerSecond: 10, burst: 9"),
            "must be at least requestsPerSecond",
        ),
        rejected(
            "default burst below the rate",
            limits("requestsPerSecond: 1001"),
            "must be at least requestsPerSecond",
        ),
        rejected_with(
            "0 requests per second",
            limits("requestsPerSecond: 0"),
            "out of range",
            "limits.requestsPerSecond: must be 1 to",
        ),
        rejected_with("0 connections", limits("connections: 0"), "out of range", "limits.connections: must be 1 to"),
        rejected_with("burst above the maximum", limits("burst: 200001"), "out of range", "limits.burst: must be 1 to"),
    ]
}
