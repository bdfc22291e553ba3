//! The values of leaves.

use super::{INTERFACE_DIR, render};
use crate::dialect::Dialect;
use crate::fixture::{Case, LATEST, link, listing, look_up, secret_role, text};
use crate::item::{FieldPath, Item, ItemSource};
use crate::protocol::ec2::{Ec2, tree};
use crate::tree::{LeafValue, Lookup};

#[test]
fn lists_have_one_line_per_value_without_a_final_line_feed() {
    let tree = render(&Case::full());
    for (path, value) in [
        ("meta-data/security-groups", "web\nssh"),
        (&format!("{INTERFACE_DIR}/security-group-ids"), "sg-1\nsg-2"),
        (&format!("{INTERFACE_DIR}/vpc-ipv4-cidr-block"), "10.0.0.0/16"),
        (&format!("{INTERFACE_DIR}/vpc-ipv4-cidr-blocks"), "10.0.0.0/16\n100.64.0.0/16"),
        (&format!("{INTERFACE_DIR}/ipv4-associations/203.0.113.25"), "10.0.1.23"),
        (&format!("{INTERFACE_DIR}/ipv6s"), "2001:db8:10::5"),
    ] {
        assert_eq!(text(&tree, path).unwrap(), value, "{path}");
    }
}

#[test]
fn pod_without_ipv4_has_no_ipv4_items() {
    let (case, mut link) = (Case::full(), link());
    link.ipv4.clear();
    let tree = tree::render(&case.workload(), &link).unwrap();
    for path in [
        "meta-data/local-ipv4",
        &format!("{INTERFACE_DIR}/local-ipv4s"),
        &format!("{INTERFACE_DIR}/subnet-ipv4-cidr-block"),
    ] {
        assert_eq!(text(&tree, path), None, "{path}");
    }
    assert_eq!(text(&tree, "meta-data/ipv6").unwrap(), "2001:db8:10::5");
}

#[test]
fn address_items_come_from_the_link_or_are_left_out() {
    let (mut case, mut link) = (Case::new(), link());
    for (path, field) in [("first", "status.podIP"), ("all", "status.podIPs")] {
        let source = ItemSource::Field(FieldPath::try_from(field).unwrap());
        case.profile_mut().items.push(Item { dialect: Dialect::Ec2, path: path.try_into().unwrap(), source });
    }
    let workload = case.workload();
    let tree = tree::render(&workload, &link).unwrap();
    assert_eq!(text(&tree, "meta-data/first").unwrap(), "10.0.1.23");
    assert_eq!(text(&tree, "meta-data/all").unwrap(), "10.0.1.23,2001:db8:10::5");
    (link.ipv4, link.ipv6) = (vec![], vec![]);
    let tree = tree::render(&workload, &link).unwrap();
    assert_eq!((text(&tree, "meta-data/first"), text(&tree, "meta-data/all")), (None, None));
}

#[test]
fn notices_have_the_format_of_termination_handlers() {
    let tree = render(&Case::full());
    for (path, value) in [
        ("meta-data/spot/instance-action", r#"{"action": "terminate", "time": "2026-01-05T09:00:30Z"}"#),
        ("meta-data/spot/termination-time", "2026-01-05T09:00:30Z"),
        ("meta-data/events/recommendations/rebalance", r#"{"noticeTime": "2026-01-05T09:00:00Z"}"#),
        ("meta-data/events/maintenance/scheduled", "[]"),
        ("meta-data/autoscaling/target-lifecycle-state", "Terminated"),
    ] {
        assert_eq!(text(&tree, path).unwrap(), value);
    }
}

#[test]
fn hostname_is_the_dns_name_or_is_made_from_the_address() {
    let mut case = Case::new();
    let name = |case: &Case| {
        let tree = render(case);
        let name = text(&tree, "meta-data/hostname").unwrap();
        assert_eq!(text(&tree, "meta-data/local-hostname").as_ref(), Some(&name));
        assert_eq!(text(&tree, &format!("{INTERFACE_DIR}/local-hostname")).as_ref(), Some(&name));
        name
    };
    assert_eq!(name(&case), "ip-10-0-1-23");
    case.settings.region = Some("eu-west-1".to_owned());
    assert_eq!(name(&case), "ip-10-0-1-23.eu-west-1.compute.internal");
    case.settings.region = Some("us-east-1".to_owned());
    assert_eq!(name(&case), "ip-10-0-1-23.ec2.internal");
    case.settings.hostname_suffix = Some("pods.example".to_owned());
    assert_eq!(name(&case), "ip-10-0-1-23.pods.example");
    case.facts.pod.spec.subdomain = Some("peers".to_owned());
    assert_eq!(name(&case), "web.peers.shop.svc.cluster.local");
}

#[test]
fn hostname_without_ipv4_is_made_from_the_instance_id() {
    let (mut case, mut link) = (Case::new(), link());
    case.settings.region = Some("eu-west-1".to_owned());
    link.ipv4.clear();
    let workload = case.workload();
    let tree = tree::render(&workload, &link).unwrap();
    let id = workload.ec2().instance_id;
    assert_eq!(text(&tree, "meta-data/hostname").unwrap(), format!("{id}.eu-west-1.compute.internal"));
}

#[test]
fn partition_depends_on_the_region() {
    for (region, domain, name) in [
        ("eu-west-1", "amazonaws.com", "aws"),
        ("cn-north-1", "amazonaws.com.cn", "aws-cn"),
        ("us-gov-west-1", "amazonaws.com", "aws-us-gov"),
    ] {
        let mut case = Case::full();
        case.profile_mut().instance.region = Some(region.try_into().unwrap());
        let tree = render(&case);
        assert_eq!(text(&tree, "meta-data/services/domain").unwrap(), domain);
        assert_eq!(text(&tree, "meta-data/services/partition").unwrap(), name);
        let info = text(&tree, "meta-data/iam/info").unwrap();
        assert!(info.contains(&format!("\"arn:{name}:iam::123456789012:instance-profile/web-role\"")), "{info}");
    }
}

#[test]
fn role_without_an_account_has_credentials_and_no_profile_arn() {
    let mut case = Case::new();
    case.profile_mut().roles = [(Dialect::Ec2, secret_role("web"))].into();
    let tree = render(&case);
    assert_eq!(listing(&tree, "meta-data/iam", LATEST).unwrap(), "security-credentials/");
    assert_eq!(
        look_up(&Ec2, &tree, "/latest/meta-data/iam/security-credentials/web/"),
        Some(Lookup::Leaf(&LeafValue::Credentials))
    );
    assert_eq!(look_up(&Ec2, &tree, "/latest/meta-data/iam/security-credentials/we"), None);
    assert_eq!(text(&tree, "meta-data/identity-credentials/ec2/info"), None);
}
