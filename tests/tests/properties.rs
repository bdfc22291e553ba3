//! Property tests of trees, paths and tokens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use jiff::Timestamp;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::options::TokenTtl;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::protocol::ec2;
use podmeta_metadata::session::{KeyBytes, Keyring, LastToken, TOKEN_LENGTH};
use podmeta_metadata::tree::{LeafValue, Lookup, SinceVersion, Tree};
use podmeta_node_agent::dev::DevState;
use podmeta_node_agent::dev::InputFile;
use podmeta_node_agent::edge::PodView;
use proptest::prelude::*;

/// Time zero of all tests, in seconds since 1970.
const START_TIME: i64 = 1_767_600_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START_TIME + seconds).unwrap()
}

/// The newest version of a tree.
const NEWEST: SinceVersion = SinceVersion(u8::MAX);

/// Path prefixes that are listed but not served, or served but not listed.
const EXCEPTIONS: [(Dialect, &str); 2] = [
    // A key is listed as `0=my-key` and served at `0`.
    (Dialect::Ec2, "meta-data/public-keys/0"),
    // It is served and not listed.
    (Dialect::Ecs, "meta-data/all"),
];

fn is_exception(dialect: Dialect, path: &str) -> bool {
    EXCEPTIONS.iter().any(|(of, start)| *of == dialect && path.starts_with(start))
}

/// Returns the versions of EC2, oldest first. An item of ECS is in all of them.
fn versions() -> Vec<SinceVersion> {
    ec2::version::PREFIXES.iter().map(|prefix| ec2::version::parse(prefix).unwrap()).collect()
}

/// Renders the trees of two pods. All configurable values of a pod contain the name of the pod.
fn trees(labels: &[String], items: &[String], roles: bool) -> Vec<(String, Dialect, Tree)> {
    let mut text = "{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {topology.kubernetes.io/region: eu-west-1, topology.kubernetes.io/zone: eu-west-1a, node.kubernetes.io/instance-type: m7i.large}}}\n".to_owned();
    text.push_str(
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: keys, labels: {podmeta.dev/usable-by: metadataprofiles}}, stringData: {accessKeyId: a, secretAccessKey: b}}\n",
    );
    for name in ["alpha", "omega"] {
        let lines = labels.iter().map(|label| format!("    {label}: {name}\n")).collect::<String>();
        let metadata = items.iter().map(|item| format!("    - {{path: {item}, dialect: ec2, value: {name}}}\n"));
        let metadata =
            if items.is_empty() { String::new() } else { format!("  metadata:\n{}", metadata.collect::<String>()) };
        let role =
            "  roles: [{name: r, dialect: ec2, secret: {name: keys}}, {name: q, dialect: ecs, secret: {name: keys}}]\n";
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels:
    podmeta-test: {name}
{lines}spec: {{nodeName: node-1, containers: [{{name: a, image: a}}]}}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {{name: {name}}}
spec:
  podSelector: {{matchLabels: {{podmeta-test: {name}}}}}
  dialects: [ec2, ecs]
  metadataOptions: {{instanceMetadataTags: enabled}}
  tags: {{labels: [\"*\"]}}
  userData: {{inline: {name}}}
  publicKeys: [{{name: {name}-key, openSshKey: \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 {name}\"}}]
{}{metadata}",
            if roles { role } else { "" }
        ));
    }
    let texts = [InputFile { name: "pods.yaml".to_owned(), text }];
    let dev_state = DevState::compile(&texts, at(0), &Settings::default());
    let dev_state = dev_state.unwrap_or_else(|problems| panic!("{problems:#?}\n{}", texts[0].text));
    let mut trees = Vec::new();
    for (name, pod) in &dev_state.pods {
        let PodView::Served(workload, link) = &pod.view else { panic!("{name} is denied") };
        for dialect in Dialect::ALL {
            trees.extend(dialect.protocol().render(workload, link).map(|tree| (name.clone(), dialect, tree)));
        }
    }
    trees
}

fn label() -> impl Strategy<Value = String> {
    "([a-z]([a-z0-9-]{0,8}[a-z0-9])?/)?[a-z]([a-z0-9._-]{0,10}[a-z0-9])?"
        .prop_filter("label is a YAML boolean or null", |label| {
            !matches!(label.as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null")
        })
}

fn item() -> impl Strategy<Value = String> {
    "x[a-z0-9._-]{0,6}(/[a-z0-9_-]{1,6}){0,3}"
}

/// Returns the names of a listing without trailing slashes.
fn names(listing: &[u8]) -> Vec<String> {
    std::str::from_utf8(listing).unwrap().lines().map(|line| line.trim_end_matches('/').to_owned()).collect()
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn listed_names_resolve_and_resolving_names_are_listed(
        labels in proptest::collection::btree_set(label(), 0..6),
        items in proptest::collection::btree_set(item(), 0..5),
        roles in any::<bool>(),
    ) {
        let (labels, items) = (Vec::from_iter(labels), without_nested(items));
        for (pod, dialect, tree) in trees(&labels, &items, roles) {
            for version in versions() {
                for path in tree.paths() {
                    let Some(found) = tree.get(path, version) else { continue };
                    if let Lookup::Listing(listing) = found {
                        for name in names(&listing) {
                            let child = join(path, &name);
                            prop_assert!(tree.get(&child, version).is_some() || is_exception(dialect, &child),
                                "{pod} {dialect}: {path:?} lists {name:?}, which does not resolve in version {version:?}");
                        }
                    }
                    let Some((parent, name)) = path.rsplit_once('/').or((!path.is_empty()).then_some(("", path))) else { continue };
                    let Some(Lookup::Listing(listing)) = tree.get(parent, version) else {
                        return Err(TestCaseError::fail(format!("{pod} {dialect}: {path} has no parent listing")));
                    };
                    prop_assert!(names(&listing).iter().any(|listed| listed == name) || is_exception(dialect, path),
                        "{pod} {dialect}: {parent:?} does not list {name:?} in version {version:?}");
                }
            }
        }
    }

    #[test]
    fn path_of_a_pod_never_returns_data_of_another_pod(
        labels in proptest::collection::btree_set(label(), 0..4),
        picks in proptest::collection::vec((any::<proptest::sample::Index>(), "(%2e%2e/|\\.\\./|/|%2f|omega/|alpha/|\\PC{1,3}){0,3}"), 1..40),
    ) {
        let trees = trees(&Vec::from_iter(labels), &["x/y".to_owned()], true);
        for (pod, dialect, tree) in &trees {
            let (own, other) = if pod.ends_with("alpha") { ("alpha", "omega") } else { ("omega", "alpha") };
            let paths = tree.paths().collect::<Vec<_>>();
            for (pick, noise) in &picks {
                for raw in [format!("/{}{noise}", pick.get(&paths)), format!("/{noise}{}", pick.get(&paths))] {
                    let Some(path) = CanonicalPath::parse(&raw) else { continue };
                    let (first, rest) = path.split_first();
                    let body = match tree.get(&join(first, rest), NEWEST) {
                        Some(Lookup::Listing(listing)) => listing,
                        Some(Lookup::Leaf(LeafValue::Text(text) | LeafValue::UserData(text))) => text.clone(),
                        Some(Lookup::Leaf(_)) | None => continue,
                    };
                    let body = String::from_utf8_lossy(&body).into_owned();
                    prop_assert!(!body.contains(other), "{own} {dialect}: {raw} returns {body}");
                }
            }
        }
    }

    #[test]
    fn token_is_valid_only_for_its_pod_dialect_key_and_lifetime(
        pods in ("[a-z0-9-]{1,36}", "[a-z0-9-]{1,36}"),
        same in (any::<bool>(), any::<bool>(), any::<bool>()),
        (ttl, later) in (1..=21_600_i64, -100..30_000_i64),
        key in 1..=200_u8,
        nonce in any::<[u8; 16]>(),
        cached in any::<bool>(),
    ) {
        let (same_pod, same_dialect, same_key) = same;
        prop_assume!(pods.0 != pods.1);
        let uid = |text: &str| PodUid::try_from(text).unwrap();
        let ring = |byte| Keyring::new(KeyBytes::new([byte; 32]), at(0));
        let own = ring(key);
        let token = own.issue(&uid(&pods.0), Dialect::Ec2, TokenTtl::try_from(ttl).unwrap(), nonce, at(0)).unwrap();
        prop_assert_eq!(token.len(), TOKEN_LENGTH);
        let last = LastToken::default();
        if cached {
            prop_assert!(own.verify(token.as_bytes(), &last, &uid(&pods.0), Dialect::Ec2, at(0)).is_ok());
        }
        let verifier = if same_key { own } else { ring(key + 1) };
        let pod = uid(if same_pod { &pods.0 } else { &pods.1 });
        let dialect = if same_dialect { Dialect::Ec2 } else { Dialect::Ecs };
        let verified = verifier.verify(token.as_bytes(), &last, &pod, dialect, at(later));
        let is_valid = same_pod && same_dialect && same_key && later < ttl;
        prop_assert_eq!(verified.is_ok(), is_valid, "{:?}", verified);
        if let Ok(left) = verified {
            prop_assert_eq!(i64::from(left), (ttl - later).min(ttl));
        }
    }
}

/// Removes paths that are below another path.
fn without_nested(paths: std::collections::BTreeSet<String>) -> Vec<String> {
    let below = |path: &String| paths.iter().any(|other| path.starts_with(&format!("{other}/")));
    paths.iter().filter(|path| !below(path)).cloned().collect()
}
