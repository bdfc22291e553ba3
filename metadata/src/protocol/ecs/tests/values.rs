//! The values of leaves.

use super::{MAC, render};
use crate::dialect::Dialect;
use crate::fixture::{Case, link, text};
use crate::protocol::ecs::tree;

#[test]
fn a_leaf_of_several_values_has_the_separators_of_its_own() {
    let (case, mut link) = (Case::full(), link());
    link.ipv4.push("10.0.1.24".parse().unwrap());
    link.ipv6.push("2001:db8:10::6".parse().unwrap());
    let tree = tree::render(&case.workload(), &link).unwrap();
    for (path, value) in [
        ("meta-data/dns-conf/nameservers", "100.100.2.136\r\n100.100.2.138"),
        ("meta-data/ntp-conf/ntp-servers", "ntp1.aliyun.com\r\nntp1.cloud.aliyuncs.com"),
        ("meta-data/sub-private-ipv4-list", "10.0.1.24"),
        (&format!("{MAC}/private-ipv4s"), r#"["10.0.1.23","10.0.1.24"]"#),
        (&format!("{MAC}/ipv6s"), "[2001:db8:10::5,2001:db8:10::6]"),
        (&format!("{MAC}/vpc-ipv6-cidr-blocks"), "[2001:db8:10::/56]"),
        (&format!("{MAC}/vswitch-ipv6-cidr-block"), "2001:db8:10::/64"),
    ] {
        assert_eq!(text(&tree, path).unwrap(), value, "{path}");
    }
}

#[test]
fn a_pod_with_one_address_has_an_empty_list_of_secondary_ones() {
    assert_eq!(text(&render(&Case::new()), "meta-data/sub-private-ipv4-list").unwrap(), "");
}

#[test]
fn a_pod_without_an_ipv4_address_has_no_item_of_that_family() {
    let (case, mut link) = (Case::full(), link());
    link.ipv4.clear();
    let tree = tree::render(&case.workload(), &link).unwrap();
    for path in ["meta-data/private-ipv4", "meta-data/vswitch-cidr-block"] {
        assert_eq!(text(&tree, path), None, "{path}");
    }
    for name in ["primary-ip-address", "private-ipv4s", "netmask", "vswitch-cidr-block"] {
        assert_eq!(text(&tree, &format!("{MAC}/{name}")), None, "{name}");
    }
    assert_eq!(text(&tree, "meta-data/sub-private-ipv4-list").unwrap(), "");
}

#[test]
fn the_network_items_of_the_instance_are_those_of_its_interface() {
    let tree = render(&Case::full());
    for (name, value) in [
        ("vpc-id", "vpc-1"),
        ("vpc-cidr-block", "10.0.0.0/16"),
        ("vswitch-id", "subnet-1"),
        ("vswitch-cidr-block", "10.0.1.0/24"),
    ] {
        assert_eq!(text(&tree, &format!("meta-data/{name}")).unwrap(), value);
        assert_eq!(text(&tree, &format!("{MAC}/{name}")).unwrap(), value);
    }
    assert_eq!(text(&tree, &format!("{MAC}/netmask")).unwrap(), "255.255.255.0");
    assert_eq!(text(&tree, "meta-data/eipv4"), text(&tree, "meta-data/public-ipv4"));
}

#[test]
fn a_host_name_is_the_pods_own() {
    let mut case = Case::new();
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "web");
    case.facts.pod.spec.hostname = Some("front".to_owned());
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "front");
    assert_eq!(text(&render(&case), "meta-data/instance/instance-name").unwrap(), "web");
    case.facts.pod.spec.subdomain = Some("peers".to_owned());
    assert_eq!(text(&render(&case), "meta-data/hostname").unwrap(), "front.peers.shop.svc.cluster.local");
}

#[test]
fn what_ec2_has_is_not_shown_here() {
    let mut case = Case::full();
    case.own().dialects.remove(&Dialect::Ecs);
    assert_eq!(tree::render(&case.workload(), &link()), None);
}
