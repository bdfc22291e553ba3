//! Listings captured from instances, and the version prefixes.

use super::{INTERFACE_DIR, render};
use crate::dialect::Dialect;
use crate::fixture::{Case, item, listing, look_up, text};
use crate::protocol::ecs::{Ecs, tree::ALWAYS};
use crate::tree::{LeafValue, Lookup};

/// Returns the full pod with the items of a captured instance that Kubernetes does not have.
fn captured() -> Case {
    let mut case = Case::full();
    case.profile_mut().instance.account_id = Some("1234567890123456".try_into().unwrap());
    case.profile_mut().items = [
        ("disks/bp1exampledisk000001/id", "d-bp1exampledisk000001"),
        ("disks/bp1exampledisk000001/name", ""),
        ("hibernation/configured", "false"),
        ("source-address", "http://mirrors.cloud.aliyuncs.com"),
    ]
    .map(|(path, value)| item(Dialect::Ecs, path, value))
    .into();
    case
}

#[test]
fn listings_are_the_captured_ones() {
    let tree = render(&captured());
    for (path, lines) in [
        ("", "dynamic\nmeta-data\nuser-data"),
        ("dynamic", "instance-identity"),
        ("dynamic/instance-identity", "document\npkcs7"),
        // Both published captures, and the additional items of podmeta: launch-index, public-ipv4 and tags/.
        (
            "meta-data",
            "disks/\ndns-conf/\neipv4\nhibernation/\nhostname\nimage-id\ninstance-id\ninstance/\nlaunch-index\nmac\n\
             network-type\nnetwork/\nntp-conf/\nowner-account-id\nprivate-ipv4\npublic-ipv4\npublic-keys/\nram/\n\
             region-id\nserial-number\nsource-address\nsub-private-ipv4-list\ntags/\nvpc-cidr-block\nvpc-id\n\
             vswitch-cidr-block\nvswitch-id\nzone-id",
        ),
        ("meta-data/disks", "bp1exampledisk000001/"),
        ("meta-data/disks/bp1exampledisk000001", "id\nname"),
        ("meta-data/dns-conf", "nameservers"),
        ("meta-data/hibernation", "configured"),
        (
            "meta-data/instance",
            "instance-name\ninstance-type\nspot/\nvirtualization-solution\nvirtualization-solution-version",
        ),
        ("meta-data/instance/spot", "termination-time"),
        ("meta-data/network", "interfaces/"),
        ("meta-data/network/interfaces", "macs/"),
        ("meta-data/network/interfaces/macs", "02:00:00:aa:bb:cc/"),
        (
            INTERFACE_DIR,
            "ipv6s\nnetmask\nnetwork-interface-id\nprimary-ip-address\nprivate-ipv4s\nvpc-cidr-block\nvpc-id\n\
             vpc-ipv6-cidr-blocks\nvswitch-cidr-block\nvswitch-id\nvswitch-ipv6-cidr-block",
        ),
        ("meta-data/ntp-conf", "ntp-servers"),
        ("meta-data/public-keys", "my-key/"),
        ("meta-data/public-keys/my-key", "openssh-key"),
        ("meta-data/ram", "security-credentials/"),
        ("meta-data/ram/security-credentials", "AppReaderRole"),
        ("meta-data/tags", "instance/"),
        ("meta-data/tags/instance", "team"),
    ] {
        assert_eq!(listing(&tree, path, ALWAYS).unwrap_or_else(|| panic!("{path} does not exist")), lines, "{path}");
    }
}

#[test]
fn minimal_pod_lists_the_items_that_every_pod_has() {
    let tree = render(&Case::new());
    assert_eq!(listing(&tree, "", ALWAYS).unwrap(), "dynamic\nmeta-data\nuser-data");
    assert_eq!(
        listing(&tree, "meta-data", ALWAYS).unwrap(),
        "hostname\nimage-id\ninstance-id\ninstance/\nlaunch-index\nmac\nnetwork-type\nnetwork/\nprivate-ipv4\n\
         serial-number\nsub-private-ipv4-list"
    );
    assert_eq!(
        listing(&tree, INTERFACE_DIR, ALWAYS).unwrap(),
        "ipv6s\nnetwork-interface-id\nprimary-ip-address\nprivate-ipv4s"
    );
    assert_eq!(look_up(&Ecs, &tree, "/latest/user-data"), None);
}

#[test]
fn spot_is_listed_only_during_an_interruption_notice() {
    let mut case = Case::full();
    case.facts.pod.metadata.deletion_timestamp = None;
    let tree = render(&case);
    assert!(!listing(&tree, "meta-data/instance", ALWAYS).unwrap().contains("spot"));
    assert_eq!(look_up(&Ecs, &tree, "/latest/meta-data/instance/spot/"), None);
}

#[test]
fn both_prefixes_have_the_same_tree() {
    let tree = render(&Case::full());
    let prefixes = look_up(&Ecs, &tree, "/");
    assert!(matches!(prefixes, Some(Lookup::Listing(lines)) if lines == "2016-01-01\nlatest"));
    for path in ["", "meta-data", "meta-data/instance-id", "dynamic/instance-identity/document", "user-data"] {
        let latest = look_up(&Ecs, &tree, &format!("/latest/{path}"));
        assert!(latest.is_some(), "{path}");
        assert_eq!(look_up(&Ecs, &tree, &format!("/2016-01-01/{path}/")), latest, "{path}");
        assert_eq!(look_up(&Ecs, &tree, &format!("/2016-01-02/{path}")), None, "{path}");
    }
}

#[test]
fn only_ram_is_found_in_any_letter_case() {
    let tree = render(&Case::full());
    let role = Some(Lookup::Leaf(&LeafValue::Credentials));
    for path in ["ram", "Ram", "RAM"] {
        assert_eq!(look_up(&Ecs, &tree, &format!("/latest/meta-data/{path}/security-credentials/AppReaderRole")), role);
        assert!(look_up(&Ecs, &tree, &format!("/latest/meta-data/{path}")).is_some());
    }
    for path in [
        "Meta-data/ram",
        "meta-data/Ram/Security-credentials",
        "meta-data/Ram/security-credentials/appreaderrole",
        "meta-data/ramp",
        "meta-data/Instance-id",
    ] {
        assert_eq!(look_up(&Ecs, &tree, &format!("/latest/{path}")), None, "{path}");
    }
}

#[test]
fn tag_is_found_by_its_plain_and_encoded_key() {
    let mut case = Case::full();
    let tag = crate::tag::StaticTag { key: "名:a@b".to_owned(), value: "x".try_into().unwrap() };
    case.profile_mut().static_tags = vec![tag];
    case.profile_mut().dialects.remove(&Dialect::Ec2);
    let tree = render(&case);
    assert_eq!(text(&tree, "meta-data/tags/instance/名:a@b").unwrap(), "x");
    assert!(look_up(&Ecs, &tree, "/latest/meta-data/tags/instance/%E5%90%8D%3Aa%40b").is_some());
}
