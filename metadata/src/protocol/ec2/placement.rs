//! Allowed paths of profile items in the EC2 tree.

use crate::workload::Instance;

/// First path segments that no item may have: credentials, tags, and the identity of the pod.
pub(super) const RESERVED_NAMES: [&str; 10] = [
    "iam",
    "identity-credentials",
    "tags",
    "tag-sets",
    "instance-id",
    "hostname",
    "local-hostname",
    "local-ipv4",
    "ipv6",
    "mac",
];

/// Paths of the leaves that every tree has.
const UNCONDITIONAL_PATHS: [&str; 15] = [
    "ami-id",
    "ami-launch-index",
    "ami-manifest-path",
    "block-device-mapping/ami",
    "block-device-mapping/root",
    "events/maintenance/history",
    "events/maintenance/scheduled",
    "instance-action",
    "metrics/vhostmd",
    "network/interfaces/macs",
    "profile",
    "reservation-id",
    "services/domain",
    "services/partition",
    "system",
];

/// Returns the paths of podmeta's own leaves below `meta-data/`, without the reserved ones.
pub(super) fn own_paths(instance: &Instance) -> Vec<String> {
    let (network, notices) = (&instance.network, &instance.notices);
    let interrupted = notices.interruption.is_some();
    let optional = [
        ("autoscaling/target-lifecycle-state", interrupted || instance.owned),
        ("events/recommendations/rebalance", notices.rebalance.is_some()),
        ("instance-life-cycle", instance.life_cycle.is_some()),
        ("instance-type", instance.instance_type.is_some()),
        ("placement/availability-zone", instance.zone.is_some()),
        ("placement/availability-zone-id", instance.zone_id.is_some()),
        ("placement/region", instance.region.is_some()),
        ("public-hostname", network.public_hostname.is_some()),
        ("public-ipv4", network.public_ipv4.is_some()),
        ("security-groups", !network.security_groups.is_empty()),
        ("spot/instance-action", interrupted),
        ("spot/termination-time", interrupted),
    ];
    let present = optional.into_iter().filter(|(_, is_present)| *is_present).map(|(path, _)| path);
    let keys = (0..instance.public_keys.len()).map(|index| format!("public-keys/{index}/openssh-key"));
    UNCONDITIONAL_PATHS.into_iter().chain(present).map(str::to_owned).chain(keys).collect()
}
