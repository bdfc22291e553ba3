//! Tags from labels and static tags.

use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, string_map};
use crate::options::InstanceMetadataTags;
use crate::tag::{LabelPattern, StaticTag, TagValue};

/// Returns a pod with labels, label patterns and static tags.
fn tagged(labels: &[(&str, &str)], patterns: &[&str], fixed: &[(&str, &str)]) -> Case {
    let mut case = Case::new();
    case.facts.pod.metadata.labels = string_map(labels);
    let own = case.profile_mut();
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
fn only_selected_labels_become_tags() {
    let case = tagged(&[("team", "a"), ("tier", "web"), ("app", "shop")], &["te*", "app"], &[]);
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), pairs(&[("app", "shop"), ("team", "a")]));
    }
    assert_eq!(case.findings(), []);
}

#[test]
fn static_tag_overrides_a_label() {
    let case = tagged(&[("team", "a"), ("app", "shop")], &["*"], &[("team", "b"), ("Name", "")]);
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), pairs(&[("Name", ""), ("app", "shop"), ("team", "b")]));
    }
}

#[test]
fn label_with_a_forbidden_key_is_dropped_with_a_finding() {
    let case = tagged(&[("app.example/part", "db"), ("aliyun-x", "1"), ("team", "a")], &["*"], &[]);
    assert_eq!(tags(&case, Dialect::Ec2), pairs(&[("aliyun-x", "1"), ("team", "a")]));
    assert_eq!(tags(&case, Dialect::Ecs), pairs(&[("team", "a")]));
    let finding = ("spec.tags.labels".to_owned(), FindingReason::TagDropped);
    assert_eq!(case.findings(), [finding.clone(), finding]);
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
fn unselected_label_gives_no_finding() {
    let case = tagged(&[("app.example/part", "db"), ("team", "a")], &["team"], &[]);
    assert_eq!(case.findings(), []);
}

#[test]
fn disabled_tags_are_absent_without_a_finding() {
    let mut case = tagged(&[("app.example/part", "db")], &["*"], &[("team", "b")]);
    case.profile_mut().options.instance_metadata_tags = InstanceMetadataTags::Disabled;
    for dialect in Dialect::ALL {
        assert_eq!(tags(&case, dialect), []);
    }
    assert_eq!(case.findings(), []);
}

/// Returns a pod with 4,000 labels, which sort after every static tag.
fn with_many_labels(patterns: &[&str], static_tags: usize) -> Case {
    let labels = (0..4000).map(|number| format!("l{number:04}")).collect::<Vec<_>>();
    let labels = labels.iter().map(|key| (key.as_str(), "x")).collect::<Vec<_>>();
    let fixed = (0..static_tags).map(|number| format!("Fixed{number:02}")).collect::<Vec<_>>();
    let fixed = fixed.iter().map(|key| (key.as_str(), "y")).collect::<Vec<_>>();
    tagged(&labels, patterns, &fixed)
}

#[test]
fn tags_over_the_dialects_limit_are_left_out_with_a_finding() {
    let case = with_many_labels(&["*"], 2);
    for (dialect, max) in [(Dialect::Ec2, 50), (Dialect::Ecs, 20)] {
        let tags = tags(&case, dialect);
        assert_eq!((tags.len(), tags[0].0.as_str(), tags[2].0.as_str()), (max, "Fixed00", "l0000"), "{dialect}");
    }
    let compiled = case.compile();
    let fields = compiled.findings.iter().map(|finding| (finding.field.as_str(), finding.reason));
    assert_eq!(fields.collect::<Vec<_>>(), [("spec.tags", FindingReason::TooManyTags); 2]);
    assert_eq!(compiled.findings[0].message, "ec2 allows 50 tags; 3952 tags of pod web are left out");
}

#[test]
fn static_tags_take_precedence_up_to_the_dialects_limit() {
    let case = with_many_labels(&["l0000"], 20);
    assert_eq!((tags(&case, Dialect::Ec2).len(), tags(&case, Dialect::Ecs).len()), (21, 20));
    assert!(tags(&case, Dialect::Ecs).iter().all(|(key, _)| key.starts_with("Fixed")));
    let case = with_many_labels(&[], 21);
    assert_eq!(tags(&case, Dialect::Ecs).len(), 20);
    assert_eq!(case.findings(), [("spec.tags".to_owned(), FindingReason::TooManyTags)]);
}

#[test]
fn finding_names_at_most_eight_forbidden_labels() {
    let labels = (0..4000).map(|number| format!("app.example/l{number:04}")).collect::<Vec<_>>();
    let labels = labels.iter().map(|key| (key.as_str(), "x")).collect::<Vec<_>>();
    let message = tagged(&labels, &["*"], &[]).compile().findings.remove(0).message;
    assert!(message.ends_with("app.example/l0007 and 3992 more"), "{message}");
}
