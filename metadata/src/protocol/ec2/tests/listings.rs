//! Listings captured from instances, and the items of each version.

use super::{INTERFACE_DIR, render};
use crate::dialect::Dialect;
use crate::fixture::{Case, LATEST, item, listing, look_up, text};
use crate::protocol::ec2::Ec2;
use crate::protocol::ec2::version::{PREFIXES, parse};
use crate::tree::{Lookup, Tree};

/// Returns the listing of a directory of the full pod in `latest`.
fn full(path: &str) -> String {
    listing(&render(&Case::full()), path, LATEST).unwrap_or_else(|| panic!("{path} does not exist"))
}

#[test]
fn root_lists_all_versions_oldest_first() {
    let tree = render(&Case::new());
    let Some(Lookup::Listing(versions)) = look_up(&Ec2, &tree, "/") else { panic!("no listing") };
    let versions = std::str::from_utf8(&versions).unwrap();
    assert!(versions.starts_with("1.0\n2007-01-19\n2007-03-01\n"), "{versions}");
    assert!(versions.ends_with("\n2022-09-24\n2024-04-11\n2025-10-04\n2026-04-15\nlatest"), "{versions}");
    let dated = versions.lines().collect::<Vec<_>>();
    assert_eq!(dated.len(), 31);
    assert!(dated[1..30].is_sorted());
}

#[test]
fn listings_are_the_captured_ones() {
    for (path, lines) in [
        ("", "dynamic\nmeta-data\nuser-data"),
        ("dynamic", "instance-identity/"),
        ("dynamic/instance-identity", "document\npkcs7\nrsa2048\nsignature"),
        ("meta-data/autoscaling", "target-lifecycle-state"),
        ("meta-data/block-device-mapping", "ami\nroot"),
        ("meta-data/events", "maintenance/\nrecommendations/"),
        ("meta-data/events/maintenance", "history\nscheduled"),
        ("meta-data/events/recommendations", "rebalance"),
        ("meta-data/iam", "info\nsecurity-credentials/"),
        ("meta-data/iam/security-credentials", "web-role"),
        ("meta-data/identity-credentials", "ec2/"),
        ("meta-data/identity-credentials/ec2", "info"),
        ("meta-data/metrics", "vhostmd"),
        ("meta-data/network", "interfaces/"),
        ("meta-data/network/interfaces", "macs/"),
        ("meta-data/network/interfaces/macs", "02:00:00:aa:bb:cc/"),
        (
            INTERFACE_DIR,
            "device-number\ninterface-id\nipv4-associations/\nipv6s\nlocal-hostname\nlocal-ipv4s\nmac\nowner-id\npublic-hostname\npublic-ipv4s\nsecurity-group-ids\nsecurity-groups\n\
             subnet-id\nsubnet-ipv4-cidr-block\nsubnet-ipv6-cidr-blocks\nvpc-id\nvpc-ipv4-cidr-block\n\
             vpc-ipv4-cidr-blocks\nvpc-ipv6-cidr-blocks",
        ),
        ("meta-data/placement", "availability-zone\navailability-zone-id\nregion"),
        ("meta-data/public-keys", "0=my-key"),
        ("meta-data/public-keys/0", "openssh-key"),
        ("meta-data/services", "domain\npartition"),
        ("meta-data/spot", "instance-action\ntermination-time"),
        ("meta-data/tag-sets", "instance"),
        ("meta-data/tags", "instance/"),
        ("meta-data/tags/instance", "team"),
    ] {
        assert_eq!(full(path), lines, "{path}");
    }
}

#[test]
fn minimal_pod_lists_the_items_that_every_pod_has() {
    let tree = render(&Case::new());
    assert_eq!(listing(&tree, "", LATEST).unwrap(), "dynamic\nmeta-data\nuser-data");
    assert_eq!(look_up(&Ec2, &tree, "/latest/user-data"), None);
    assert_eq!(
        listing(&tree, "meta-data", LATEST).unwrap(),
        "ami-id\nami-launch-index\nami-manifest-path\nblock-device-mapping/\nevents/\nhostname\ninstance-action\ninstance-id\nipv6\n\
         local-hostname\nlocal-ipv4\nmac\nmetrics/\nnetwork/\nprofile\nreservation-id\nservices/\nsystem"
    );
    assert_eq!(
        listing(&tree, INTERFACE_DIR, LATEST).unwrap(),
        "device-number\ninterface-id\nipv6s\nlocal-hostname\nlocal-ipv4s\nmac"
    );
}

/// Returns the lines that a directory has in a version and not in the version before.
fn newly(tree: &Tree, path: &str) -> Vec<(&'static str, Vec<String>)> {
    let mut shown = Vec::<String>::new();
    let mut newly = Vec::new();
    for version in PREFIXES {
        let lines = listing(tree, path, parse(version).unwrap()).unwrap_or_default();
        let lines = lines.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(shown.iter().all(|line| lines.contains(line)), "{version} hides what was there before");
        let new = lines.iter().filter(|line| !shown.contains(line)).cloned().collect::<Vec<_>>();
        if !new.is_empty() {
            newly.push((version, new));
        }
        shown = lines;
    }
    newly
}

#[test]
fn older_version_has_only_older_items() {
    let tree = render(&Case::full());
    let shows = |path: &str, expected: &[(&str, &[&str])]| {
        let newly = newly(&tree, path);
        let newly = newly.iter().map(|(version, lines)| (*version, lines.iter().map(String::as_str).collect()));
        assert_eq!(
            newly.collect::<Vec<(_, Vec<_>)>>(),
            expected.iter().map(|(v, l)| (*v, l.to_vec())).collect::<Vec<_>>()
        );
    };
    shows("", &[("1.0", &["meta-data", "user-data"]), ("2009-04-04", &["dynamic"])]);
    shows(
        "meta-data",
        &[
            (
                "1.0",
                &[
                    "ami-id",
                    "ami-launch-index",
                    "ami-manifest-path",
                    "hostname",
                    "instance-id",
                    "local-ipv4",
                    "public-keys/",
                    "reservation-id",
                    "security-groups",
                ],
            ),
            ("2007-01-19", &["local-hostname", "public-hostname", "public-ipv4"]),
            ("2007-08-29", &["instance-type"]),
            ("2007-12-15", &["block-device-mapping/", "profile"]),
            ("2008-02-01", &["placement/"]),
            ("2008-09-01", &["instance-action"]),
            ("2011-01-01", &["mac", "network/"]),
            ("2011-05-01", &["metrics/"]),
            ("2012-01-12", &["iam/"]),
            ("2014-02-25", &["services/"]),
            ("2014-11-05", &["spot/"]),
            ("2018-03-28", &["identity-credentials/"]),
            ("2018-08-17", &["events/"]),
            ("2019-10-01", &["instance-life-cycle"]),
            ("2021-01-03", &["ipv6"]),
            ("2021-03-23", &["tags/"]),
            ("2021-07-15", &["autoscaling/"]),
            ("2022-09-24", &["system"]),
            ("2025-10-04", &["tag-sets/"]),
        ],
    );
    shows(
        "meta-data/placement",
        &[("2008-02-01", &["availability-zone"]), ("2019-10-01", &["availability-zone-id", "region"])],
    );
    shows("meta-data/services", &[("2014-02-25", &["domain"]), ("2015-10-20", &["partition"])]);
    shows("meta-data/spot", &[("2014-11-05", &["termination-time"]), ("2018-03-28", &["instance-action"])]);
    shows("meta-data/events", &[("2018-08-17", &["maintenance/"]), ("2020-10-27", &["recommendations/"])]);
}

#[test]
fn unknown_version_is_not_found() {
    let tree = render(&Case::full());
    for path in
        ["/2016-11-15/meta-data/", "/2021-03-24/", "/Latest/meta-data/", "/2.0/", "/meta-data/", "/latest/Meta-data"]
    {
        assert_eq!(look_up(&Ec2, &tree, path), None, "{path}");
    }
}

#[test]
fn items_of_a_profile_are_in_every_version_and_override_own_items() {
    let mut case = Case::full();
    case.profile_mut().items = vec![
        item(Dialect::Ec2, "placement/group-name", "hpc"),
        item(Dialect::Ec2, "ami-manifest-path", "s3://manifest"),
        item(Dialect::Ec2, "system", "xen"),
    ];
    let tree = render(&case);
    let first = parse("1.0").unwrap();
    assert_eq!(listing(&tree, "meta-data/placement", first).unwrap(), "group-name");
    assert!(listing(&tree, "meta-data", first).unwrap().ends_with("\nsecurity-groups\nsystem"));
    assert_eq!(text(&tree, "meta-data/ami-manifest-path").unwrap(), "s3://manifest");
    assert_eq!(
        listing(&tree, "meta-data/placement", LATEST).unwrap(),
        "availability-zone\navailability-zone-id\ngroup-name\nregion"
    );
}
