//! Holds docs/coverage.md and the examples to each other: what a row promises is served for a pod of
//! `examples/full.yaml`, what it says is absent is 404, and nothing is served that no row covers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "coverage/example.rs"]
mod example;
#[path = "coverage/rows.rs"]
mod rows;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::protocol::{ec2, ecs};
use podmeta_metadata::request::TOKEN_PATH;
use podmeta_metadata::tree::Lookup;
use serde_json::Value as Json;

use crate::example::{Example, Pod};
use crate::rows::{Names, Row, Source, fits, rows};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("cannot read {file}: {error}"))
}

fn full() -> Example {
    Example::read("examples/full.yaml", &read("examples/full.yaml"))
}

fn table(dialect: Dialect) -> Vec<Row> {
    rows("docs/coverage.md", &read("docs/coverage.md"), dialect)
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Whether a row's path is served as what its form says: a listing, or a leaf.
fn is_served(pod: &Pod, dialect: Dialect, row: &Row, path: &str) -> bool {
    if row.path == TOKEN_PATH {
        return pod.makes_tokens(dialect);
    }
    match pod.get(dialect, path) {
        Some(Lookup::Listing(lines)) => row.is_directory() && !lines.is_empty(),
        Some(Lookup::Leaf(_)) => !row.is_directory(),
        None => false,
    }
}

/// The paths that a row stands for on a pod.
fn paths(pod: &Pod, dialect: Dialect, row: &Row, names: &Names) -> Vec<String> {
    row.paths(names, |directory| pod.names(dialect, directory))
}

/// Every name that any row's placeholder stands for on any pod.
fn names(example: &Example, dialect: Dialect, table: &[Row]) -> Names {
    let mut names = Names::new();
    for pod in example.pods(dialect) {
        for row in table {
            row.learn(&mut names, |directory| pod.names(dialect, directory));
        }
    }
    names
}

#[test]
fn every_row_is_served_as_it_says_or_absent_for_a_reason() {
    let example = full();
    let bare = example.without_items();
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let names = names(&example, dialect, &table);
        let mut faults = Vec::new();
        for row in &table {
            let served = |example: &Example| {
                example.pods(dialect).any(|pod| {
                    let paths = paths(pod, dialect, row, &names);
                    paths.iter().any(|path| is_served(pod, dialect, row, path))
                })
            };
            let anything = || {
                example.pods(dialect).find_map(|pod| {
                    let mut paths = paths(pod, dialect, row, &names).into_iter();
                    paths.find(|path| pod.get(dialect, path).is_some()).map(|path| format!("{path} of {}", pod.name))
                })
            };
            match &row.source {
                Source::Own(_) if served(&bare) => {}
                Source::Own(_) => faults.push(row.fault("is not served by podmeta itself")),
                Source::Item(_) if served(&bare) => faults.push(row.fault("is served without an item")),
                Source::Item(_) if served(&example) => {}
                Source::Item(_) => faults.push(row.fault("is no item of the example")),
                Source::Absent(_) => faults.extend(anything().map(|path| row.fault(&format!("is served: {path}")))),
            }
            let (Source::Own(why) | Source::Item(why) | Source::Absent(why)) = &row.source;
            if why.trim().is_empty() {
                faults.push(row.fault("does not say from where, or why not"));
            }
        }
        assert_none(&faults);
    }
}

#[test]
fn nothing_is_served_that_no_row_covers() {
    let example = full();
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let covers = |path: &str| table.iter().any(|row| !row.is_absent() && fits(&row.path, path));
        let mut faults = Vec::new();
        for pod in example.pods(dialect) {
            for path in pod.tree(dialect).paths() {
                let found = pod.get(dialect, &format!("/latest/{path}"));
                let directory = if matches!(found, Some(Lookup::Listing(_))) && !path.is_empty() { "/" } else { "" };
                let path = format!("/latest/{path}{directory}");
                if !covers(&path) && !pod.has_item(dialect, &path) {
                    faults.push(format!("{path} of {} has no row", pod.name));
                }
            }
            for version in pod.names(dialect, "/") {
                if !covers(&format!("/{version}/")) {
                    faults.push(format!("the version {version} has no row"));
                }
            }
        }
        assert_none(&faults);
    }
}

#[test]
fn no_path_has_two_rows() {
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let paths = table.iter().map(|row| &row.path).collect::<BTreeSet<_>>();
        assert_eq!(paths.len(), table.len(), "{dialect}");
        assert!(table.len() > 90, "{dialect}: only {} rows were read", table.len());
    }
}

/// When a row shows: since its own date, and no earlier than the directories that it is in.
fn shows_since<'r>(table: &'r [Row], row: &'r Row) -> &'r str {
    let above = table.iter().filter(|other| other.is_directory() && row.path.starts_with(&other.path));
    // `1.0` is before every date in byte order.
    above.chain([row]).filter_map(|row| row.since.as_deref()).max().unwrap_or("1.0")
}

#[test]
fn an_ec2_item_shows_since_the_version_of_its_row() {
    let (table, example) = (table(Dialect::Ec2), full().without_items());
    let names = names(&example, Dialect::Ec2, &table);
    let mut faults = Vec::new();
    for row in table.iter().filter(|row| matches!(row.source, Source::Own(_))) {
        let Some(below) = row.path.strip_prefix("/latest/").filter(|below| !below.is_empty() && *below != "api/token")
        else {
            continue;
        };
        let since = shows_since(&table, row);
        for pod in example.pods(Dialect::Ec2) {
            let path =
                paths(pod, Dialect::Ec2, row, &names).into_iter().find(|path| is_served(pod, Dialect::Ec2, row, path));
            let Some(path) = path else { continue };
            let below = if path == row.path { below } else { path.trim_start_matches("/latest/") };
            for version in ec2::version::PREFIXES {
                // `latest` is after every date in byte order.
                if pod.get(Dialect::Ec2, &format!("/{version}/{below}")).is_some() != (version >= since) {
                    faults.push(row.fault(&format!("is wrong in version {version}: it shows since {since}")));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_ecs_row_is_the_same_in_both_versions() {
    let (table, example) = (table(Dialect::Ecs), full());
    let names = names(&example, Dialect::Ecs, &table);
    let [dated, latest] = ecs::tree::PREFIXES;
    for row in table.iter().filter(|row| row.path != TOKEN_PATH) {
        for pod in example.pods(Dialect::Ecs) {
            for path in paths(pod, Dialect::Ecs, row, &names) {
                let Some(below) = path.strip_prefix(&format!("/{latest}/")) else { continue };
                let other = pod.get(Dialect::Ecs, &format!("/{dated}/{below}"));
                assert_eq!(other, pod.get(Dialect::Ecs, &path), "{path} of {}", pod.name);
            }
        }
    }
}

#[test]
fn the_examples_have_no_problem_and_nothing_to_find() {
    for file in ["examples/quickstart.yaml", "examples/full.yaml"] {
        let example = Example::read(file, &read(file));
        assert_eq!(example.notes, [""; 0], "{file}");
    }
}

#[test]
fn the_quickstart_is_one_pod_with_a_role_in_both_dialects() {
    let file = "examples/quickstart.yaml";
    let example = Example::read(file, &read(file));
    for dialect in Dialect::ALL {
        let [pod] = example.pods(dialect).collect::<Vec<_>>()[..] else { panic!("not one pod") };
        assert_eq!(pod.name, "default/web");
        assert_eq!(pod.workload.instance.region.as_deref(), Some("eu-west-1"));
        assert!(pod.workload.part(dialect).unwrap().role.is_some());
    }
}

/// The paths of all fields of a schema, below `field`.
fn fields(schema: &Json, field: &str, all: &mut Vec<String>) {
    if let Some(items) = schema.get("items") {
        return fields(items, field, all);
    }
    for (name, schema) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let field = format!("{field}.{name}");
        fields(schema, &field, all);
        all.push(field);
    }
}

/// Whether an object has a field; of a list, any element may have it.
fn has(value: &Json, field: &[&str]) -> bool {
    match (value, field) {
        (Json::Array(items), _) => items.iter().any(|item| has(item, field)),
        (_, []) => true,
        (value, [first, rest @ ..]) => value.get(first).is_some_and(|value| has(value, rest)),
    }
}

#[test]
fn the_full_example_uses_every_field_of_both_resources() {
    let objects: Vec<Json> = serde_saphyr::from_multiple(&read("examples/full.yaml")).unwrap();
    let mut faults = Vec::new();
    for (file, kind) in [("metadataprofiles.yaml", "MetadataProfile"), ("metadatapolicies.yaml", "MetadataPolicy")] {
        let definition: Json = serde_saphyr::from_str(&read(&format!("charts/podmeta/files/crds/{file}"))).unwrap();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        let mut all = Vec::new();
        fields(schema, "spec", &mut all);
        assert!(all.len() > 8, "{file}: only {} fields were read", all.len());
        for field in all {
            let path = field.split('.').collect::<Vec<_>>();
            if !objects.iter().any(|object| object["kind"] == kind && has(object, &path)) {
                faults.push(format!("no {kind} has {field}"));
            }
        }
    }
    assert_none(&faults);
}
