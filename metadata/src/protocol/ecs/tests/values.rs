//! The values of leaves.

use super::{INTERFACE_DIR, render};
use crate::dialect::Dialect;
use crate::fixture::{Case, link, text};
use crate::protocol::ecs::tree;

#[test]
fn list_values_use_the_separator_of_their_item() {
    let (case, mut link) = (Case::full(), link());
    link.ipv4.push("10.0.1.24".parse().unwrap());
    link.ipv6.push("2001:db8:10::6".parse().unwrap());
    let tree = tree::render(&case.workload(), &link).unwrap();
    for (path, value) in [
        ("meta-data/dns-conf/nameservers", "100.100.2.136\r\n100.100.2.138"),
        ("meta-data/ntp-conf/ntp-servers", "ntp1.aliyun.com\r\nntp1.cloud.aliyuncs.com"),
        ("meta-data/sub-private-ipv4-list", "10.0.1.24"),
        (&format!("{INTERFACE_DIR}/private-ipv4s"), r#"["10.0.1.23","10.0.1.24"]"#),
        (&format!("{INTERFACE_DIR}/ipv6s"), "[2001:db8:10::5,2001:db8:10::6]"),
        (&format!("{INTERFACE_DIR}/vpc-ipv6-cidr-blocks"), "[2001:db8:10::/56]"),
        (&format!("{INTERFACE_DIR}/vswitch-ipv6-cidr-block"), "2001:db8:10::/64"),
    ] {
        assert_eq!(text(&tree, path).unwrap(), value, "{path}");
    }
}

#[test]
fn pod_with_one_address_has_an_empty_secondary_list() {
    assert_eq!(text(&render(&Case::new()), "meta-data/sub-private-ipv4-list").unwrap(), "");
}

#[test]
fn pod_without_ipv4_has_no_ipv4_items() {
    let (case, mut link) = (Case::full(), link());
    link.ipv4.clear();
    let tree = tree::render(&case.workload(), &link).unwrap();
    for path in ["meta-data/private-ipv4", "meta-data/vswitch-cidr-block"] {
        assert_eq!(text(&tree, path), None, "{path}");
    }
    for name in ["primary-ip-address", "private-ipv4s", "netmask", "vswitch-cidr-block"] {
        assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/{name}")), None, "{name}");
    }
    assert_eq!(text(&tree, "meta-data/sub-private-ipv4-list").unwrap(), "");
}

#[test]
fn network_items_of_instance_and_interface_are_equal() {
    let tree = render(&Case::full());
    for (name, value) in [
        ("vpc-id", "vpc-1"),
        ("vpc-cidr-block", "10.0.0.0/16"),
        ("vswitch-id", "subnet-1"),
        ("vswitch-cidr-block", "10.0.1.0/24"),
    ] {
        assert_eq!(text(&tree, &format!("meta-data/{name}")).unwrap(), value);
        assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/{name}")).unwrap(), value);
    }
    assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/netmask")).unwrap(), "255.255.255.0");
    assert_eq!(text(&tree, "meta-data/eipv4"), text(&tree, "meta-data/public-ipv4"));
}

#[test]
fn hostname_is_the_pod_hostname() {
    let mut case = Case::new();
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "web");
    case.facts.pod.spec.hostname = Some("front".to_owned());
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "front");
    assert_eq!(text(&render(&case), "meta-data/instance/instance-name").unwrap(), "web");
    case.facts.pod.spec.subdomain = Some("peers".to_owned());
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "front.peers.shop.svc.cluster.local");
}

#[test]
fn workload_without_ecs_has_no_tree() {
    let mut case = Case::full();
    case.profile_mut().dialects.remove(&Dialect::Ecs);
    assert_eq!(tree::render(&case.workload(), &link()), None);
}
