//! Items of a profile: the sources of their values, and items that are left out.

use std::net::IpAddr;

use crate::cel::Expression;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, item, string_map};
use crate::item::{FieldPath, Item, ItemPath, ItemSource, MAX_VALUE_BYTES};
use crate::workload::ItemValue;

fn field(path: &str) -> Item {
    from(ItemSource::Field(FieldPath::try_from(path).unwrap()))
}

fn expression(source: &str) -> Item {
    from(ItemSource::Expression(Expression::compile(source).unwrap()))
}

fn from(source: ItemSource) -> Item {
    Item { dialect: Dialect::Ec2, path: ItemPath::try_from("x").unwrap(), source }
}

/// Returns a pod with these items, and a value for every field.
fn with(items: Vec<Item>) -> Case {
    let mut case = Case::new();
    case.facts.pod.metadata.labels = string_map(&[("app", "shop")]);
    case.facts.pod.metadata.annotations = string_map(&[("note", "two\nlines"), ("bell", "\u{7}")]);
    case.facts.pod.spec.node_name = Some("node-1".to_owned());
    case.on_node(&[]).status.addresses =
        ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()).into();
    case.profile_mut().items = items;
    case
}

/// Returns the values of the EC2 items.
fn values(case: &Case) -> Vec<ItemValue> {
    case.workload().ec2().items.into_iter().map(|(_, value)| value).collect()
}

fn paths(case: &Case, dialect: Dialect) -> Vec<String> {
    let workload = case.workload();
    workload.part(dialect).unwrap().items.iter().map(|(path, _)| path.to_string()).collect()
}

fn text(text: &str) -> ItemValue {
    ItemValue::Text(text.try_into().unwrap())
}

#[test]
fn constant_is_served_in_its_dialect_only() {
    let case = with(vec![item(Dialect::Ec2, "product-codes", "a\nb"), item(Dialect::Ecs, "source-address", "")]);
    assert_eq!(values(&case), [text("a\nb")]);
    assert_eq!(paths(&case, Dialect::Ec2), ["product-codes"]);
    assert_eq!(paths(&case, Dialect::Ecs), ["source-address"]);
    assert_eq!(case.findings(), []);
}

#[test]
fn field_has_the_value_of_the_pod() {
    for (path, value) in [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "uid-shop-web"),
        ("metadata.labels['app']", "shop"),
        ("metadata.annotations['note']", "two\nlines"),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "default"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
    ] {
        assert_eq!(values(&with(vec![field(path)])), [text(value)], "{path}");
    }
}

#[test]
fn pod_ip_fields_are_resolved_by_the_node_agent() {
    let case = with(vec![field("status.podIP"), field("status.podIPs")]);
    assert_eq!(values(&case), [ItemValue::PodIp, ItemValue::PodIps]);
}

#[test]
fn item_of_an_absent_field_is_left_out_without_a_finding() {
    let mut case = with(vec![
        field("metadata.labels['none']"),
        field("metadata.annotations['none']"),
        field("spec.nodeName"),
        field("status.hostIP"),
        field("status.hostIPs"),
    ]);
    (case.facts.node, case.facts.pod.spec.node_name) = (None, None);
    assert_eq!(values(&case), []);
    assert_eq!(case.findings(), []);
}

#[test]
fn item_of_a_null_expression_is_left_out_without_a_finding() {
    let case = with(vec![expression("pod.metadata.labels['app'] + '-' + node.metadata.name")]);
    assert_eq!(values(&case), [text("shop-node-1")]);
    let case = with(vec![expression("has(pod.spec.subdomain) ? pod.spec.subdomain : null")]);
    assert_eq!(values(&case), []);
    assert_eq!(case.findings(), []);
}

#[test]
fn item_without_a_valid_value_is_left_out_with_a_finding() {
    for (bad, reason) in [
        (expression("pod.metadata.labels['none']"), "does not evaluate"),
        (expression("pod.metadata.labels"), "gives a Map"),
        (field("metadata.annotations['bell']"), "text, tabs and line feeds only"),
    ] {
        let case =
            with(vec![item(Dialect::Ecs, "a", "1"), item(Dialect::Ec2, "b", "1"), bad, item(Dialect::Ec2, "c", "1")]);
        assert_eq!(paths(&case, Dialect::Ec2), ["b", "c"], "{reason}");
        assert_eq!(case.findings(), [("spec.metadata[2]".to_owned(), FindingReason::ItemUnavailable)], "{reason}");
        let message = &case.compile().findings[0].message;
        assert!(message.starts_with("item x is left out for pod web: ") && message.contains(reason), "{message}");
    }
}

#[test]
fn too_long_value_is_left_out() {
    let mut case = with(vec![field("metadata.annotations['long']")]);
    let mut annotate = |length| {
        case.facts.pod.metadata.annotations.insert("long".to_owned(), "x".repeat(length));
        (values(&case).len(), case.findings().len())
    };
    assert_eq!(annotate(MAX_VALUE_BYTES), (1, 0));
    assert_eq!(annotate(MAX_VALUE_BYTES + 1), (0, 1));
}

#[test]
fn item_that_conflicts_with_the_tree_is_left_out() {
    for (dialect, path) in [
        (Dialect::Ec2, "placement"),
        (Dialect::Ec2, "network/interfaces"),
        (Dialect::Ec2, "ami-id/x"),
        (Dialect::Ec2, "events/maintenance/history/x"),
        (Dialect::Ecs, "instance"),
        (Dialect::Ecs, "network/interfaces"),
        (Dialect::Ecs, "image-id/x"),
        (Dialect::Ecs, "sub-private-ipv4-list/x"),
    ] {
        let mut case = with(vec![item(Dialect::Ec2, "a", "1"), item(dialect, path, "1"), item(Dialect::Ecs, "a", "1")]);
        case.on_node(&[("topology.kubernetes.io/zone", "eu-west-1a")]);
        assert_eq!(
            case.findings(),
            [("spec.metadata[1].path".to_owned(), FindingReason::ItemMisplaced)],
            "{dialect} {path}"
        );
        assert_eq!(paths(&case, dialect), ["a"], "{dialect} {path}");
        let message = &case.compile().findings[0].message;
        assert!(message.contains(path) && message.contains(&format!("the {dialect} tree")), "{message}");
    }
}

#[test]
fn first_of_two_conflicting_items_is_kept() {
    let case = with(["disk/a", "disk", "disk/b"].map(|path| item(Dialect::Ec2, path, "1")).into());
    assert_eq!(paths(&case, Dialect::Ec2), ["disk/a", "disk/b"]);
    assert_eq!(case.findings(), [("spec.metadata[1].path".to_owned(), FindingReason::ItemMisplaced)]);
    let case = with(vec![item(Dialect::Ec2, "disk", "1"), item(Dialect::Ec2, "disk/a", "1")]);
    assert_eq!(paths(&case, Dialect::Ec2), ["disk"]);
}

#[test]
fn items_of_different_dialects_do_not_conflict() {
    let case = with(vec![item(Dialect::Ec2, "disk", "1"), item(Dialect::Ecs, "disk/a", "1")]);
    assert_eq!(case.findings(), []);
    assert_eq!(paths(&case, Dialect::Ec2), ["disk"]);
    assert_eq!(paths(&case, Dialect::Ecs), ["disk/a"]);
}

#[test]
fn items_over_the_size_limit_are_left_out_with_a_finding() {
    let long = "x".repeat(MAX_VALUE_BYTES);
    let items: Vec<Item> = (0..10).map(|number| item(Dialect::Ec2, &format!("item-{number}"), &long)).collect();
    let case = with(items);
    assert_eq!(values(&case).len(), 8);
    let findings = case.compile().findings;
    assert_eq!(findings.len(), 2);
    assert_eq!((findings[0].field.as_str(), findings[0].reason), ("spec.metadata[8]", FindingReason::ItemUnavailable));
    assert!(findings[0].message.contains("32768 bytes together"), "{}", findings[0].message);
}

#[test]
fn expression_over_the_cost_limit_is_left_out_alone() {
    let copies = format!("string(size([{}]))", ["pod"; 200].join(","));
    let mut case =
        with(vec![expression("pod.metadata.name"), expression(&copies), expression("pod.metadata.namespace")]);
    for index in 0..64 {
        case.facts.pod.metadata.labels.insert(format!("label-{index}"), "value".repeat(10));
    }
    assert_eq!(values(&case), [text("web"), text("shop")]);
    let findings = case.compile().findings;
    assert_eq!(findings.len(), 1);
    assert_eq!((&*findings[0].field, findings[0].reason), ("spec.metadata[1]", FindingReason::ItemUnavailable));
    assert!(
        findings[0].message.contains("of the limit of 4000000 for all expressions of a pod"),
        "{}",
        findings[0].message
    );
}

#[test]
fn dialects_share_the_cost_limit_of_a_pod() {
    let costly = format!("size([{}])", ["pod"; 20].join(","));
    let cost =
        Expression::compile(&costly).unwrap().cost(&crate::cel::Scope::new(&with(vec![]).facts).unwrap()).unwrap();
    let half = usize::try_from(crate::cel::MAX_COST / cost).unwrap() * 2 / 3;
    let items = |dialect| (0..half).map(move |_| (dialect, costly.clone()));
    let source = |(dialect, source): (Dialect, String)| Item { dialect, ..expression(&source) };
    let case = with(items.clone()(Dialect::Ec2).chain(items(Dialect::Ecs)).map(source).collect());
    let findings = case.findings();
    let left_out = findings.iter().filter(|(_, reason)| *reason == FindingReason::ItemUnavailable).count();
    assert!(left_out > 0 && left_out < half, "{left_out} of {half}");
}
