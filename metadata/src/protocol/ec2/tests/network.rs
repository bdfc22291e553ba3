//! Network properties of the profile: MAC address and prefixes.

use super::{INTERFACE_DIR, render};
use crate::fixture::{Case, LATEST, listing, text};

#[test]
fn mac_address_of_the_profile_replaces_that_of_the_link() {
    let mut case = Case::full();
    case.profile_mut().instance.network.mac = Some("02:11:22:33:44:5f".parse().unwrap());
    let tree = render(&case);
    assert_eq!(text(&tree, "meta-data/mac").unwrap(), "02:11:22:33:44:5f");
    let macs = "meta-data/network/interfaces/macs";
    assert_eq!(listing(&tree, macs, LATEST).unwrap(), "02:11:22:33:44:5f/");
    assert_eq!(text(&tree, &format!("{macs}/02:11:22:33:44:5f/mac")).unwrap(), "02:11:22:33:44:5f");
    assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/mac")), None);
}

#[test]
fn delegated_prefixes_are_one_line_each_or_absent() {
    let mut case = Case::full();
    for name in ["ipv4-prefix", "ipv6-prefix"] {
        assert_eq!(text(&render(&case), &format!("{INTERFACE_DIR}/{name}")), None);
    }
    let network = &mut case.profile_mut().instance.network;
    network.ipv4_prefixes = ["10.0.1.64/28", "10.0.1.80/28"].map(|prefix| prefix.parse().unwrap()).into();
    network.ipv6_prefixes = vec!["2001:db8:10:0:a::/80".parse().unwrap()];
    let tree = render(&case);
    assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/ipv4-prefix")).unwrap(), "10.0.1.64/28\n10.0.1.80/28");
    assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/ipv6-prefix")).unwrap(), "2001:db8:10:0:a::/80");
}
