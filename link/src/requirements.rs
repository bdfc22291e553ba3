//! Requirements of podmeta on a node: compares what the kernel provides with what podmeta needs. Pure; [`read`] reads the
//! features of a node.

mod read;

use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};

pub use read::{kernel_release, read};

/// Oldest kernel that podmeta supports: major and minor number. It has the setting `tcp_migrate_req`.
const MIN_KERNEL: (u32, u32) = (5, 14);

/// Features of a node's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFeatures {
    /// Release of the kernel, such as `6.1.0-13-amd64`.
    pub kernel_release: String,
    /// The cgroups of a process, as in `/proc/self/cgroup`.
    pub cgroups: String,
    /// The error of a request to nftables.
    pub nftables_error: Option<String>,
    /// Settings of the agent namespace that do not exist, as paths under `/proc/sys/net`.
    pub missing_settings: Vec<String>,
}

/// Returns a finding for each requirement that is not met.
#[must_use]
pub fn check(features: &NodeFeatures) -> NodeFindings {
    let has_cgroup_v2 = features.cgroups.lines().any(|line| line.starts_with("0::"));
    let cgroup = (!has_cgroup_v2).then(|| {
        "cgroup v2 is not mounted, and podmeta does not support nodes without it; mount it, beside v1 is enough"
            .to_owned()
    });
    let nftables = features.nftables_error.as_ref().map(|error| {
        format!(
            "the kernel does not accept nftables requests ({error}), so pods get no links; load the module nf_tables"
        )
    });
    let missing = &features.missing_settings;
    let settings = (!missing.is_empty()).then(|| {
        let names = missing.iter().map(|name| format!("net/{name}")).collect::<Vec<_>>().join(", ");
        format!("the kernel has no setting {names}, so pods get no links; use a kernel with it")
    });
    let findings = [
        (NodeFindingKind::Kernel, check_kernel(&features.kernel_release)),
        (NodeFindingKind::Cgroup, cgroup),
        (NodeFindingKind::Nftables, nftables),
        (NodeFindingKind::Settings, settings),
    ];
    findings.into_iter().filter_map(|(kind, message)| Some((kind, message?))).collect()
}

/// Returns a message if the kernel is too old, or if its release cannot be parsed.
#[must_use]
pub fn check_kernel(release: &str) -> Option<String> {
    let (major, minor) = MIN_KERNEL;
    match parse_release(release) {
        Some(version) if version >= MIN_KERNEL => None,
        Some(_) => {
            Some(format!("Linux {release} is older than {major}.{minor}, so pods get no links; upgrade the kernel"))
        }
        None => Some(format!(
            "cannot parse the kernel release {release:?}, so pods get no links; use Linux {major}.{minor} or newer"
        )),
    }
}

/// Returns major and minor number of a kernel release.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest.get(..end)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> NodeFeatures {
        NodeFeatures {
            kernel_release: "5.14.0-70.el9.x86_64".to_owned(),
            cgroups: "4:memory:/a\n1:cpu:/a\n0::/a\n".to_owned(),
            nftables_error: None,
            missing_settings: Vec::new(),
        }
    }

    fn kinds(findings: &NodeFindings) -> Vec<NodeFindingKind> {
        findings.keys().copied().collect()
    }

    #[test]
    fn supported_node_has_no_finding() {
        assert_eq!(check(&features()), NodeFindings::new());
    }

    #[test]
    fn kernel_before_5_14_is_a_finding() {
        for release in ["5.14", "5.14-rc1", "5.15.0", "6.0.1+", "10.1"] {
            assert_eq!(check_kernel(release), None, "{release}");
        }
        for release in ["5.13.19", "4.18.0-553.el8", "5.4"] {
            let message = check_kernel(release).unwrap();
            assert_eq!(
                message,
                format!("Linux {release} is older than 5.14, so pods get no links; upgrade the kernel")
            );
        }
        for release in ["", "5", "6.x", "linux"] {
            assert!(check_kernel(release).unwrap().starts_with("cannot parse"), "{release}");
        }
        let findings = check(&NodeFeatures { kernel_release: "5.10.0".to_owned(), ..features() });
        assert_eq!(kinds(&findings), [NodeFindingKind::Kernel]);
    }

    #[test]
    fn node_without_cgroup_v2_is_a_finding() {
        let findings = check(&NodeFeatures { cgroups: "10:memory:/0::/\n1:cpu:/a\n".to_owned(), ..features() });
        assert_eq!(kinds(&findings), [NodeFindingKind::Cgroup]);
    }

    #[test]
    fn kernel_without_nftables_is_a_finding_with_its_error() {
        let error = Some("Invalid argument (os error 22)".to_owned());
        let findings = check(&NodeFeatures { nftables_error: error, ..features() });
        assert_eq!(kinds(&findings), [NodeFindingKind::Nftables]);
        assert!(findings[&NodeFindingKind::Nftables].contains("(Invalid argument (os error 22))"), "{findings:?}");
    }

    #[test]
    fn missing_settings_are_one_finding_with_their_names() {
        let missing = ["ipv4/tcp_migrate_req", "core/somaxconn"].map(str::to_owned).to_vec();
        let findings = check(&NodeFeatures { missing_settings: missing, ..features() });
        assert_eq!(kinds(&findings), [NodeFindingKind::Settings]);
        let message = &findings[&NodeFindingKind::Settings];
        assert!(message.contains("net/ipv4/tcp_migrate_req, net/core/somaxconn"), "{message}");
    }
}
