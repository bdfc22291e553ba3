//! `meta-data/all`: the tree as one JSON object.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::render;
use crate::dialect::Dialect;
use crate::fixture::{Case, item, listing, look_up, text};
use crate::protocol::ecs::{Ecs, tree::ALWAYS};
use crate::tree::{LeafValue, Tree};

/// Returns the text of each leaf of a JSON object, by path.
fn flattened(all: &Json) -> BTreeMap<String, String> {
    let Json::Object(members) = all else { panic!("not an object: {all}") };
    let mut leaves = BTreeMap::new();
    for (name, value) in members {
        match value {
            Json::String(text) => drop(leaves.insert(name.clone(), text.clone())),
            below => leaves.extend(flattened(below).into_iter().map(|(path, text)| (format!("{name}/{path}"), text))),
        }
    }
    leaves
}

/// Returns the object `meta-data/all`.
fn all(tree: &Tree) -> Json {
    serde_json::from_str(&text(tree, "meta-data/all").unwrap()).unwrap()
}

#[test]
fn all_has_every_text_leaf() {
    let mut case = Case::full();
    case.profile_mut().items =
        vec![item(Dialect::Ecs, "disks/a/name", "two\nlines \"quoted\""), item(Dialect::Ecs, "x", "")];
    let tree = render(&case);
    let leaves = tree.leaves(ALWAYS).filter_map(|(path, value)| match (path.strip_prefix("meta-data/")?, value) {
        ("all", _) => None,
        (path, LeafValue::Text(text)) => Some((path.to_owned(), String::from_utf8(text.to_vec()).unwrap())),
        (
            _,
            LeafValue::UserData(_) | LeafValue::SecretUserData(_) | LeafValue::Credentials | LeafValue::Document(_),
        ) => None,
    });
    assert_eq!(flattened(&all(&tree)), leaves.collect());
    assert_eq!(all(&tree)["dns-conf"]["nameservers"], "100.100.2.136\r\n100.100.2.138");
    assert_eq!(all(&tree)["instance-id"], case.workload().ecs().instance_id);
}

#[test]
fn all_has_no_role_user_data_or_document() {
    let tree = render(&Case::full());
    assert!(look_up(&Ecs, &tree, "/latest/meta-data/ram/security-credentials/AppReaderRole").is_some());
    let all = all(&tree);
    assert_eq!(all.get("ram"), None);
    let text = all.to_string();
    for excluded in ["AppReaderRole", "security-credentials", "#!/bin/sh", "instance-identity"] {
        assert!(!text.contains(excluded), "{excluded} in {text}");
    }
}

#[test]
fn all_exists_and_is_not_listed() {
    let tree = render(&Case::full());
    assert!(look_up(&Ecs, &tree, "/2016-01-01/meta-data/all").is_some());
    assert!(!listing(&tree, "meta-data", ALWAYS).unwrap().lines().any(|line| line == "all"));
}
