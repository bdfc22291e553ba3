//! MAC address, gateways, prefixes and vendor data of the profile.

use super::{INTERFACE_DIR, document_mac, render};
use crate::fixture::{Case, LATEST, listing, text};
use crate::tree::{LeafValue, Lookup};

#[test]
fn mac_address_of_the_profile_is_in_the_tree_but_not_signed() {
    let mut case = Case::full();
    case.profile_mut().instance.network.mac = Some("00:16:3e:0f:aa:01".parse().unwrap());
    let tree = render(&case);
    assert_eq!(text(&tree, "meta-data/mac").unwrap(), "00:16:3e:0f:aa:01");
    let macs = "meta-data/network/interfaces/macs";
    assert_eq!(listing(&tree, macs, LATEST).unwrap(), "00:16:3e:0f:aa:01/");
    assert_eq!(document_mac(&case), "02:00:00:aa:bb:cc");
}

#[test]
fn gateways_and_prefixes_are_those_of_the_profile_or_absent() {
    let items = [
        ("gateway", "10.0.0.253"),
        ("ipv4-prefixes", "10.0.1.0/28\n10.0.1.16/28"),
        ("ipv6-gateway", "2001:db8::fff7"),
        ("ipv6-prefixes", "2001:db8:1234:1a00::/80"),
    ];
    let mut case = Case::full();
    for (name, _) in items {
        assert_eq!(text(&render(&case), &format!("{INTERFACE_DIR}/{name}")), None, "{name}");
    }
    let network = &mut case.profile_mut().instance.network;
    network.ipv4_gateway = Some("10.0.0.253".parse().unwrap());
    network.ipv6_gateway = Some("2001:db8::fff7".parse().unwrap());
    network.ipv4_prefixes = ["10.0.1.0/28", "10.0.1.16/28"].map(|prefix| prefix.parse().unwrap()).into();
    network.ipv6_prefixes = vec!["2001:db8:1234:1a00::/80".parse().unwrap()];
    let tree = render(&case);
    for (name, value) in items {
        assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/{name}")).unwrap(), value, "{name}");
    }
}

#[test]
fn vendor_data_is_that_of_the_profile_or_absent() {
    let mut case = Case::full();
    assert_eq!(render(&case).get("vendor-data", LATEST), None);
    case.profile_mut().instance.vendor_data = Some("#cloud-config\n".try_into().unwrap());
    let tree = render(&case);
    let data = LeafValue::UserData("#cloud-config\n".into());
    assert_eq!(tree.get("vendor-data", LATEST), Some(Lookup::Leaf(&data)));
    assert!(listing(&tree, "", LATEST).unwrap().ends_with("vendor-data"));
}
