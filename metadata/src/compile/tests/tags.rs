//! Which labels become tags, and which tags win.

use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, string_map};
use crate::options::InstanceMetadataTags;
use crate::tag::{LabelPattern, StaticTag, TagValue};

/// A pod with labels, whose profile selects some and sets tags of its own.
fn tagged(labels: &[(&str, &str)], patterns: &[&str], fixed: &[(&str, &str)]) -> Case {
    let mut case = Case::new();
    case.facts.pod.metadata.labels = string_map(labels);
    let own = case.own();
    own.options.instance_metadata_tags = InstanceMetadataTags::Enabled;
    own.tag_labels = patterns.iter().map(|pattern| LabelPattern::try_from(*pattern).unwrap()).collect();
    let tag =
        |(key, value): &(&str, &str)| StaticTag { key: (*key).to_owned(), value: TagValue::try_from(*value).unwrap() };
    own.static_tags = fixed.iter().map(tag).collect();
    case
}

fn tags(case: &Case, dialect: Dialect) -> Vec<(String, String)> {
    case.workload().part(dialect).unwrap().tags.clone()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    string_map(pairs).into_iter().collect()
}

#[test]
fn selected_labels_become_tags_by_key_and_others_do_not() {
    let case = tagged(&[("team", "a"), ("tier", "web"), ("app", "shop")], &["te*", "app"], &[]);
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), pairs(&[("app", "shop"), ("team", "a")]));
    }
    assert_eq!(case.findings(), []);
}

#[test]
fn a_static_tag_wins_over_a_label() {
    let case = tagged(&[("team", "a"), ("app", "shop")], &["*"], &[("team", "b"), ("Name", "")]);
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), pairs(&[("Name", ""), ("app", "shop"), ("team", "b")]));
    }
}

#[test]
fn a_label_whose_key_the_dialect_does_not_allow_is_dropped_and_found() {
    let case = tagged(&[("app.example/part", "db"), ("aliyun-x", "1"), ("team", "a")], &["*"], &[]);
    assert_eq!(tags(&case, Dialect::Ec2), pairs(&[("aliyun-x", "1"), ("team", "a")]));
    assert_eq!(tags(&case, Dialect::Ecs), pairs(&[("team", "a")]));
    let found = ("spec.tags.labels".to_owned(), FindingReason::TagDropped);
    assert_eq!(case.findings(), [found.clone(), found]);
    let messages = case.compile().findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>();
    assert_eq!(
        messages,
        [
            "ec2 does not allow the keys of these labels in tags: app.example/part",
            "ecs does not allow the keys of these labels in tags: aliyun-x, app.example/part",
        ]
    );
}

#[test]
fn a_label_that_is_not_selected_is_not_found_either() {
    let case = tagged(&[("app.example/part", "db"), ("team", "a")], &["team"], &[]);
    assert_eq!(case.findings(), []);
}

#[test]
fn where_tags_are_disabled_there_are_none_and_nothing_is_found() {
    let mut case = tagged(&[("app.example/part", "db")], &["*"], &[("team", "b")]);
    case.own().options.instance_metadata_tags = InstanceMetadataTags::Disabled;
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), []);
    }
    assert_eq!(case.findings(), []);
}
