//! Allowed paths of profile items in the ECS tree.

use crate::workload::{DialectPart, Instance};

/// First path segments that no item may have: credentials, tags, and the identity of the pod.
pub(super) const RESERVED_NAMES: [&str; 8] =
    ["ram", "tags", "all", "instance-id", "serial-number", "hostname", "private-ipv4", "mac"];

/// Paths of the leaves that every tree has.
const UNCONDITIONAL_PATHS: [&str; 8] = [
    "image-id",
    "instance/instance-name",
    "instance/virtualization-solution",
    "instance/virtualization-solution-version",
    "launch-index",
    "network-type",
    "network/interfaces/macs",
    "sub-private-ipv4-list",
];

/// Returns the paths of podmeta's own leaves below `meta-data/`, without the reserved ones.
pub(super) fn own_paths(instance: &Instance, part: &DialectPart) -> Vec<String> {
    let network = &instance.network;
    let optional = [
        ("dns-conf/nameservers", !network.nameservers.is_empty()),
        ("eipv4", network.public_ipv4.is_some()),
        ("instance/instance-type", instance.instance_type.is_some()),
        ("instance/spot/termination-time", instance.notices.interruption.is_some()),
        ("ntp-conf/ntp-servers", !network.ntp_servers.is_empty()),
        ("owner-account-id", part.account.is_some()),
        ("public-ipv4", network.public_ipv4.is_some()),
        ("region-id", instance.region.is_some()),
        ("vpc-cidr-block", !network.vpc_ipv4_cidr_blocks.is_empty()),
        ("vpc-id", network.vpc_id.is_some()),
        ("vswitch-cidr-block", network.subnet_ipv4_cidr_block.is_some()),
        ("vswitch-id", network.subnet_id.is_some()),
        ("zone-id", instance.zone.is_some()),
    ];
    let present = optional.into_iter().filter(|(_, is_present)| *is_present).map(|(path, _)| path);
    let keys = instance.public_keys.iter().map(|key| format!("public-keys/{}/openssh-key", key.name));
    UNCONDITIONAL_PATHS.into_iter().chain(present).map(str::to_owned).chain(keys).collect()
}
