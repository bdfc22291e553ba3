//! The limits of a pod: those of its profile, up to the maxima of the policies.

use std::num::NonZeroU32;

use crate::options::Limits;
use crate::policy::{EffectivePolicy, Maximum};

/// A limit that was reduced to its maximum.
pub(super) struct ReducedLimit {
    /// The field of the profile.
    pub(super) field: &'static str,
    /// The maximum and its source, as one clause.
    pub(super) message: String,
}

/// Returns the limits, and those that were reduced. A burst may have up to two seconds of the maximum rate.
pub(super) fn reduce(limits: Limits, rules: &EffectivePolicy<'_>) -> (Limits, Vec<ReducedLimit>) {
    const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
    let (rate, connections) = (rules.max_requests_per_second(), rules.max_connections());
    let burst = Maximum { limit: rate.limit.saturating_mul(TWO), ..rate };
    let mut reduced = Vec::new();
    let mut minimum = |field, wanted: NonZeroU32, maximum: Maximum<'_>, setting| {
        if wanted > maximum.limit {
            reduced.push(ReducedLimit { field, message: message(maximum, setting) });
        }
        wanted.min(maximum.limit)
    };
    let limits = Limits {
        requests_per_second: minimum(
            "spec.limits.requestsPerSecond",
            limits.requests_per_second,
            rate,
            "maxRequestsPerSecond",
        ),
        burst: minimum("spec.limits.burst", limits.burst, burst, "maxRequestsPerSecond"),
        connections: minimum("spec.limits.connections", limits.connections, connections, "maxConnections"),
    };
    (limits, reduced)
}

fn message(maximum: Maximum<'_>, setting: &str) -> String {
    let limit = maximum.limit;
    match maximum.policy {
        Some(policy) => format!("MetadataPolicy {} allows {limit} at most", policy.name),
        None => format!("{limit} is the maximum unless a MetadataPolicy sets {setting}"),
    }
}
