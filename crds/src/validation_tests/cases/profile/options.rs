//! Cases of `spec.metadataOptions`.

use super::both;
use crate::validation_tests::cases::{SpecCase, accepted, rejected, rejected_with};

pub(super) fn options() -> Vec<SpecCase> {
    let options = |text: &str| both(&format!("metadataOptions: {{{text}}}"));
    vec![
        accepted("empty options", options("")),
        accepted(
            "all options",
            options(
                "httpEndpoint: disabled, httpTokens: optional, httpPutResponseHopLimit: 64, httpProtocolIpv6: enabled, \
                 instanceMetadataTags: enabled, maxTokenTtlSeconds: 1",
            ),
        ),
        rejected_with("hop limit 0", options("httpPutResponseHopLimit: 0"), "out of range", "must be 1 to 64, not 0"),
        rejected_with(
            "hop limit 65",
            options("httpPutResponseHopLimit: 65"),
            "out of range",
            "must be 1 to 64, not 65",
        ),
        rejected_with(
            "hop limit above 32 bits",
            options("httpPutResponseHopLimit: 4294967297"),
            "out of range",
            "must be 1 to 64",
        ),
        rejected_with(
            "fractional hop limit",
            options("httpPutResponseHopLimit: 1.5"),
            "not an integer",
            "invalid type",
        ),
        rejected_with("TTL 0", options("maxTokenTtlSeconds: 0"), "out of range", "must be 1 to 21600"),
        rejected_with("TTL 21601", options("maxTokenTtlSeconds: 21601"), "out of range", "must be 1 to 21600"),
        rejected_with("unknown httpTokens", options("httpTokens: never"), "unsupported", "unknown variant"),
        rejected_with("boolean httpEndpoint", options("httpEndpoint: true"), "unsupported", "invalid type"),
        rejected(
            "IPv6 without ec2",
            "dialects: [ecs]\nmetadataOptions: {httpProtocolIpv6: enabled}",
            "requires ec2 in spec.dialects",
        ),
        accepted("ecs without IPv6", "dialects: [ecs]\nmetadataOptions: {httpProtocolIpv6: disabled}"),
    ]
}
