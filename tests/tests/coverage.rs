//! Compares docs/coverage.md with the trees of `examples/full.yaml`. Every row of a served path must be served, every row
//! of an absent path must return 404, and every served path must have a row.

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

use crate::example::{ExamplePod, ExamplePods};
use crate::rows::{CoverageRow, PlaceholderNames, RowSource, path_matches, rows};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("cannot read {file}: {error}"))
}

fn full() -> ExamplePods {
    ExamplePods::read("examples/full.yaml", &read("examples/full.yaml"))
}

fn table(dialect: Dialect) -> Vec<CoverageRow> {
    rows("docs/coverage.md", &read("docs/coverage.md"), dialect)
}

fn assert_no_failures(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Returns true if `path` is served as a listing for a directory row, or as a leaf otherwise.
fn is_served(pod: &ExamplePod, dialect: Dialect, row: &CoverageRow, path: &str) -> bool {
    if row.path == TOKEN_PATH {
        return pod.issues_tokens(dialect);
    }
    match pod.get(dialect, path) {
        Some(Lookup::Listing(lines)) => row.is_directory() && !lines.is_empty(),
        Some(Lookup::Leaf(_)) => !row.is_directory(),
        None => false,
    }
}

/// Expands the path of a row with the names that a pod lists.
fn paths(pod: &ExamplePod, dialect: Dialect, row: &CoverageRow, names: &PlaceholderNames) -> Vec<String> {
    row.paths(names, |directory| pod.names(dialect, directory))
}

/// Returns the names that each placeholder has on any pod.
fn names(example: &ExamplePods, dialect: Dialect, table: &[CoverageRow]) -> PlaceholderNames {
    let mut names = PlaceholderNames::new();
    for pod in example.pods(dialect) {
        for row in table {
            row.collect_names(&mut names, |directory| pod.names(dialect, directory));
        }
    }
    names
}

#[test]
fn every_row_is_served_or_absent_as_documented() {
    let example = full();
    let bare = example.without_items();
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let names = names(&example, dialect, &table);
        let mut failures = Vec::new();
        for row in &table {
            let served = |example: &ExamplePods| {
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
                RowSource::Builtin(_) if served(&bare) => {}
                RowSource::Builtin(_) => failures.push(row.failure("is not served without an item")),
                RowSource::Item(_) if served(&bare) => failures.push(row.failure("is served without an item")),
                RowSource::Item(_) if served(&example) => {}
                RowSource::Item(_) => failures.push(row.failure("is not an item of the example")),
                RowSource::Absent(_) => {
                    failures.extend(anything().map(|path| row.failure(&format!("is served: {path}"))))
                }
            }
            let (RowSource::Builtin(reason) | RowSource::Item(reason) | RowSource::Absent(reason)) = &row.source;
            if reason.trim().is_empty() {
                failures.push(row.failure("has no source or reason"));
            }
        }
        assert_no_failures(&failures);
    }
}

#[test]
fn every_served_path_has_a_row() {
    let example = full();
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let covers = |path: &str| table.iter().any(|row| !row.is_absent() && path_matches(&row.path, path));
        let mut failures = Vec::new();
        for pod in example.pods(dialect) {
            for path in pod.tree(dialect).paths() {
                let found = pod.get(dialect, &format!("/latest/{path}"));
                let directory = if matches!(found, Some(Lookup::Listing(_))) && !path.is_empty() { "/" } else { "" };
                let path = format!("/latest/{path}{directory}");
                if !covers(&path) && !pod.has_item(dialect, &path) {
                    failures.push(format!("{path} of {} has no row", pod.name));
                }
            }
            for version in pod.names(dialect, "/") {
                if !covers(&format!("/{version}/")) {
                    failures.push(format!("the version {version} has no row"));
                }
            }
        }
        assert_no_failures(&failures);
    }
}

#[test]
fn every_path_has_one_row() {
    for dialect in Dialect::ALL {
        let table = table(dialect);
        let paths = table.iter().map(|row| &row.path).collect::<BTreeSet<_>>();
        assert_eq!(paths.len(), table.len(), "{dialect}");
        assert!(table.len() > 90, "{dialect}: only {} rows were read", table.len());
    }
}

/// Returns the first version that serves a row: the latest date of the row and its parent directories.
fn first_version<'r>(table: &'r [CoverageRow], row: &'r CoverageRow) -> &'r str {
    let above = table.iter().filter(|other| other.is_directory() && row.path.starts_with(&other.path));
    // `1.0` sorts before every date.
    above.chain([row]).filter_map(|row| row.since.as_deref()).max().unwrap_or("1.0")
}

#[test]
fn ec2_item_is_served_since_the_version_of_its_row() {
    let (table, example) = (table(Dialect::Ec2), full().without_items());
    let names = names(&example, Dialect::Ec2, &table);
    let mut failures = Vec::new();
    for row in table.iter().filter(|row| matches!(row.source, RowSource::Builtin(_))) {
        let Some(below) = row.path.strip_prefix("/latest/").filter(|below| !below.is_empty() && *below != "api/token")
        else {
            continue;
        };
        let since = first_version(&table, row);
        for pod in example.pods(Dialect::Ec2) {
            let path =
                paths(pod, Dialect::Ec2, row, &names).into_iter().find(|path| is_served(pod, Dialect::Ec2, row, path));
            let Some(path) = path else { continue };
            let below = if path == row.path { below } else { path.trim_start_matches("/latest/") };
            for version in ec2::version::PREFIXES {
                // `latest` sorts after every date.
                if pod.get(Dialect::Ec2, &format!("/{version}/{below}")).is_some() != (version >= since) {
                    failures.push(row.failure(&format!("is wrong in version {version}: expected since {since}")));
                }
            }
        }
    }
    assert_no_failures(&failures);
}

#[test]
fn ecs_row_is_equal_in_both_versions() {
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
fn examples_have_no_problems_and_no_findings() {
    for file in ["examples/quickstart.yaml", "examples/full.yaml"] {
        let example = ExamplePods::read(file, &read(file));
        assert_eq!(example.findings, [""; 0], "{file}");
    }
}

#[test]
fn quickstart_has_one_pod_with_a_role_in_both_dialects() {
    let file = "examples/quickstart.yaml";
    let example = ExamplePods::read(file, &read(file));
    for dialect in Dialect::ALL {
        let [pod] = example.pods(dialect).collect::<Vec<_>>()[..] else { panic!("not one pod") };
        assert_eq!(pod.name, "default/web");
        assert_eq!(pod.workload.instance.region.as_deref(), Some("eu-west-1"));
        assert!(pod.workload.part(dialect).unwrap().role.is_some());
    }
}

/// Appends the paths of all fields of a schema below `field`.
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

/// Returns true if an object, or any element of a list, has a field.
fn has(value: &Json, field: &[&str]) -> bool {
    match (value, field) {
        (Json::Array(items), _) => items.iter().any(|item| has(item, field)),
        (_, []) => true,
        (value, [first, rest @ ..]) => value.get(first).is_some_and(|value| has(value, rest)),
    }
}

#[test]
fn full_example_uses_every_field_of_both_resources() {
    let objects: Vec<Json> = serde_saphyr::from_multiple(&read("examples/full.yaml")).unwrap();
    let mut failures = Vec::new();
    for (file, kind) in [("metadataprofiles.yaml", "MetadataProfile"), ("metadatapolicies.yaml", "MetadataPolicy")] {
        let definition: Json = serde_saphyr::from_str(&read(&format!("charts/podmeta/files/crds/{file}"))).unwrap();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        let mut all = Vec::new();
        fields(schema, "spec", &mut all);
        assert!(all.len() > 8, "{file}: only {} fields were read", all.len());
        for field in all {
            let path = field.split('.').collect::<Vec<_>>();
            if !objects.iter().any(|object| object["kind"] == kind && has(object, &path)) {
                failures.push(format!("no {kind} of the example has the field {field}"));
            }
        }
    }
    assert_no_failures(&failures);
}
