//! Reads what the kernel of a node provides.

use std::path::Path;

use super::NodeFeatures;
use crate::netns::Netns;
use crate::{agent_ns, nft};

/// Returns the features of the node. A file that cannot be read counts as empty, so that it becomes a finding.
#[must_use]
pub fn read(host: &Netns) -> NodeFeatures {
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let is_missing = |name: &&str| !Path::new("/proc/sys/net").join(name).exists();
    // An agent namespace without IPv6 has no settings of IPv6.
    let needed = agent_ns::SETTINGS.iter().map(|(name, _)| *name).filter(|name| has_ipv6 || !name.starts_with("ipv6/"));
    NodeFeatures {
        kernel_release: kernel_release(),
        // The kernel lists version 2 in `/proc/PID/cgroup` only if it is mounted. Source: `proc_cgroup_show` in
        // kernel/cgroup/cgroup.c.
        cgroups: std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        nftables_error: nft::probe(host).err().map(|error| error.to_string()),
        missing_settings: needed.filter(is_missing).map(str::to_owned).collect(),
    }
}

/// Returns the release of the kernel, or an empty text if `/proc` is not mounted.
#[must_use]
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
