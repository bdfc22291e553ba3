//! Pods with facts at the limits, and profiles of expressions. Also used by the benchmark.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use podmeta_metadata::cel::{Expression, MAX_ENTRIES, MAX_ENTRIES_BYTES};
use podmeta_metadata::compile::{Compiled, ConfigMapValues, Settings, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::facts::{
    Facts, NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, NodeStatus, PodFacts, PodMetadata,
    PodOrigin, PodSpec, PodStatus, Taint, Toleration,
};
use podmeta_metadata::item::{Item, ItemPath, ItemSource};
use podmeta_metadata::profile::{Profile, ProfileRef};

/// Number of items of a profile, the maximum of the API.
pub(crate) const ITEMS: usize = 64;

pub(crate) fn entries(count: usize, key: &str, value: &str) -> BTreeMap<String, String> {
    (0..count).map(|index| (format!("{key}{index}"), value.to_owned())).collect()
}

/// Returns a pod, a namespace and a node with the same labels and annotations, and as many tolerations and taints as labels.
pub(crate) fn facts(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Facts {
    let toleration = Toleration { key: Some("k".into()), value: None, effect: None, toleration_seconds: Some(1) };
    let taint = Taint { key: "k".into(), value: "v".into(), effect: "e".into(), time_added: Timestamp::UNIX_EPOCH };
    Facts {
        pod: PodFacts {
            origin: PodOrigin::Client,
            metadata: PodMetadata {
                name: "web-0".into(),
                namespace: "shop".into(),
                uid: "uid".try_into().unwrap(),
                labels: labels.clone(),
                annotations: annotations.clone(),
                creation_timestamp: Timestamp::UNIX_EPOCH,
                deletion_timestamp: None,
                controller: None,
            },
            spec: PodSpec {
                image: "i".repeat(MAX_ENTRIES_BYTES),
                tolerations: vec![toleration; labels.len()],
                ..PodSpec::default()
            },
            status: PodStatus::default(),
        },
        namespace: NamespaceFacts {
            metadata: NamespaceMetadata {
                name: "shop".into(),
                labels: labels.clone(),
                annotations: annotations.clone(),
            },
        },
        node: Some(NodeFacts {
            metadata: NodeMetadata { name: "node-1".into(), labels: labels.clone() },
            spec: NodeSpec { pod_cidrs: Vec::new(), taints: vec![taint; labels.len()] },
            // The operator keeps at most 16 addresses of a node. The text of these is the longest.
            status: NodeStatus { addresses: vec!["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(); 16] },
        }),
    }
}

/// Facts at the limits, in several forms: many short values, few long ones, characters that are escaped in errors.
pub(crate) fn worst_facts() -> Vec<Facts> {
    let many = entries(MAX_ENTRIES, "a", &"v".repeat(MAX_ENTRIES_BYTES / MAX_ENTRIES - 4));
    let tiny = entries(MAX_ENTRIES, "a", "");
    let long = entries(8, "a", &"v".repeat(MAX_ENTRIES_BYTES / 8 - 2));
    let control = entries(8, "a", &"\u{1}".repeat(MAX_ENTRIES_BYTES / 8 - 2));
    vec![facts(&many, &many), facts(&tiny, &long), facts(&tiny, &control), facts(&entries(3, "a", "b"), &tiny)]
}

/// Returns a profile of 64 items, which repeat these expressions.
pub(crate) fn profile(sources: &[String]) -> Profile {
    let object = ProfileRef { namespace: "shop".into(), name: "web".into(), uid: "u".into(), generation: 1 };
    let mut profile = Profile::with_defaults(object, Timestamp::UNIX_EPOCH);
    profile.dialects = BTreeSet::from(Dialect::ALL);
    let expressions: Vec<Expression> = sources.iter().map(|source| Expression::compile(source).unwrap()).collect();
    let items = expressions.into_iter().cycle().take(ITEMS).enumerate();
    let item = |(index, expression)| Item {
        dialect: Dialect::ALL[index % 2],
        path: ItemPath::try_from(format!("x{index}").as_str()).unwrap(),
        source: ItemSource::Expression(expression),
    };
    profile.items = items.map(item).collect();
    profile
}

pub(crate) fn compile_with(facts: &Facts, profile: &Profile) -> Compiled {
    compile(facts, &[profile], &[], &ConfigMapValues::new(), &Settings::default())
}
