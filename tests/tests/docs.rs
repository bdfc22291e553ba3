//! Checks README.md and docs/ against the repository: links, commands, manifests, and the reference tables.
//!
//! Commands that need no cluster are run by `node-agent/tests/docs.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_markdown::{Page, code, page, pages, root};
use regex::Regex;

/// Labels of `sh` blocks that no test runs, and a pattern of the text that the page must have above such a block.
const UNTESTED: [(&str, &str); 3] =
    [("needs-cluster", r"needs? a cluster"), ("needs-root", r"needs? root"), ("slow", r"minutes")];

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Concatenates the Rust sources of a directory.
fn sources(directory: &str) -> String {
    fn read(directory: &Path, text: &mut String) {
        let mut paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    read(&root().join(directory), &mut text);
    text
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn has_anchor(page: &Page, wanted: &str) -> bool {
    let prose = page.prose();
    prose.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_link_resolves() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut faults = Vec::new();
    for from in pages().into_iter().chain([page("tests/README.md")]) {
        let dir = Path::new(&from.path).parent().unwrap();
        for found in link.captures_iter(&from.prose()) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { Path::new(&from.path).to_path_buf() } else { dir.join(file) };
            if !root().join(&path).exists() {
                faults.push(format!("{}: no file for the link {target}", from.path));
            } else if !wanted.is_empty() {
                let path = if root().join(&path).is_dir() { path.join("README.md") } else { path };
                if !has_anchor(&page(path.to_str().unwrap()), wanted) {
                    faults.push(format!("{}: no heading for the link {target}", from.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_path_that_developers_are_pointed_to_exists() {
    let mut faults = Vec::new();
    for path in ["ARCHITECTURE.md", "CONTRIBUTING.md", "MAINTAINERS.md", "SECURITY.md", "docs/internals.md"] {
        for named in code(&page(path).prose()).into_iter().filter(|text| {
            let file = Path::new(text)
                .extension()
                .is_some_and(|extension| extension == "rs" || extension == "md" || extension == "yaml");
            (file || text.ends_with('/'))
                && text.contains('/')
                && !text.starts_with('/')
                && !text.contains("meta-data/")
        }) {
            if !root().join(named).exists() {
                faults.push(format!("{path}: {named} does not exist"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_command_is_run_by_a_test_or_the_page_names_its_needs() {
    let mut faults = Vec::new();
    for page in pages() {
        for block in
            page.blocks().into_iter().filter(|block| matches!(block.language.as_str(), "sh" | "bash" | "console"))
        {
            if block.language == "sh" && matches!(block.label.as_str(), "run" | "serve") {
                continue;
            }
            match UNTESTED.iter().find(|(label, _)| block.language == "sh" && block.label == *label) {
                None => faults
                    .push(format!("{}: label the block run, serve, needs-cluster, needs-root or slow", block.place)),
                Some((_, required)) => {
                    let above = block.above.split_whitespace().collect::<Vec<_>>().join(" ");
                    if !Regex::new(required).unwrap().is_match(&above) {
                        faults.push(format!("{}: the text above does not match: {required}", block.place));
                    }
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_make_target_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let command = Regex::new(r"(?m)(?:`|^|[ ;&])make ([a-z][a-z-]*)(?:`|$| [A-Z]+=|\s*#)").unwrap();
    let mut faults = Vec::new();
    for page in pages() {
        for found in command.captures_iter(&page.text) {
            if !makefile.lines().any(|line| line.starts_with(&format!("{}:", &found[1]))) {
                faults.push(format!("{}: the Makefile has no target {}", page.path, &found[1]));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_manifest_is_valid() {
    let mut faults = Vec::new();
    let mut manifests = 0;
    for page in pages() {
        for block in
            page.blocks().into_iter().filter(|block| block.language == "yaml" && block.text.contains("apiVersion"))
        {
            let (_, problems) = load(&[ManifestFile { name: block.place, text: block.text }], Timestamp::UNIX_EPOCH);
            faults.extend(problems.iter().map(ToString::to_string));
            manifests += 1;
        }
    }
    assert_none(&faults);
    assert!(manifests > 10, "{manifests} manifests");
}

/// The reasons of findings that become the reason of `Accepted`.
fn finding_reasons() -> BTreeSet<String> {
    let source = sources("metadata/src");
    let variants = Regex::new(r"pub enum FindingReason \{([^}]*)\}").unwrap();
    let variants = &variants.captures(&source).expect("metadata has the enum FindingReason")[1];
    let names = variants.lines().filter_map(|line| line.trim().strip_suffix(','));
    names.filter(|name| !matches!(*name, "Conflicted" | "TagDropped")).map(str::to_owned).collect()
}

/// The causes of a provider's failure. They become the reason of `CredentialsReady`.
fn failure_causes() -> BTreeSet<String> {
    let source = sources("metadata/src");
    let names = Regex::new(r#"Self::[A-Za-z]+ => "([A-Z][A-Za-z]+)""#).unwrap();
    let texts = source.split_once("impl fmt::Display for FailureCause").expect("FailureCause has Display").1;
    let texts = texts.split_once("\n}").unwrap().0;
    names.captures_iter(texts).map(|found| found[1].to_owned()).collect()
}

#[test]
fn documented_conditions_and_reasons_are_those_of_the_code() {
    let rows = page("docs/conditions.md").rows("Conditions");
    let documented = |column: usize| rows.iter().map(|row| code(&row[column])[0].to_owned()).collect::<BTreeSet<_>>();
    let kinds = [ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED].map(str::to_owned);
    assert_eq!(documented(0), BTreeSet::from(kinds));

    let reason = Regex::new(r#"Status::(?:True|False|Unknown),\s*"([A-Z][A-Za-z]+)""#).unwrap();
    let source = sources("operator/src");
    let mut reasons = finding_reasons();
    reasons.extend(failure_causes());
    reasons.extend(reason.captures_iter(&source).map(|found| found[1].to_owned()));
    assert_eq!(documented(2), reasons);

    let help = page("docs/troubleshooting.md").rows("By condition reason");
    let helped = help.iter().map(|row| code(&row[0])[1].to_owned()).collect::<BTreeSet<_>>();
    let healthy = ["Accepted", "Programmed", "Issued", "NoRoles", "NoConflict", "NoHostNetworkPods"];
    let missing = reasons.iter().filter(|reason| !helped.contains(*reason) && !healthy.contains(&reason.as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "reasons that docs/troubleshooting.md lacks");
}

#[test]
fn documented_reasons_of_the_node_condition_are_those_of_the_code() {
    let source = fs::read_to_string(root().join("operator/src/model/node_guard.rs")).unwrap();
    let reason = Regex::new(r#"Self::[A-Za-z]+ => "([A-Z][A-Za-z]+)""#).unwrap();
    let reasons = reason.captures_iter(&source).map(|found| found[1].to_owned()).collect::<BTreeSet<_>>();
    let rows = page("docs/conditions.md").rows("Condition of a Node");
    let documented = rows.iter().map(|row| code(&row[1])[0].to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(documented, reasons);
    let help = page("docs/troubleshooting.md").rows("A node is not guarded");
    let helped = help.iter().map(|row| code(&row[0])[0].to_owned()).chain(["GuardsInPlace".to_owned()]);
    assert_eq!(helped.collect::<BTreeSet<_>>(), reasons, "docs/troubleshooting.md");
}

#[test]
fn documented_log_messages_are_those_of_the_code() {
    let rows = page("docs/troubleshooting.md").rows("An agent is not ready");
    let mut faults = Vec::new();
    for (program, directory) in [("agent: ", "node-agent/src"), ("operator: ", "operator/src")] {
        let source = sources(directory);
        let named = rows.iter().filter(|row| row[0].starts_with(program)).map(|row| code(&row[0])[0]);
        faults.extend(named.filter(|message| !source.contains(message)).map(|message| format!("{program}{message}")));
    }
    assert_none(&faults);
}

#[test]
fn documented_metrics_are_those_of_the_code() {
    let registered = Regex::new(r#"register(_with_unit)?\(\s*"([a-z_]+)""#).unwrap();
    let collected = Regex::new(r#"encode_descriptor\("([a-z_]+)""#).unwrap();
    let shared = sources("service/src");
    for (heading, prefix, directory) in
        [("Operator", "podmeta_operator_", "operator/src"), ("Node agent", "podmeta_agent_", "node-agent/src")]
    {
        let source = sources(directory);
        let names = registered.captures_iter(&source).map(|found| {
            let unit = if found.get(1).is_some() { "_seconds" } else { "" };
            format!("{prefix}{}{unit}", &found[2])
        });
        let names = names.chain(collected.captures_iter(&shared).map(|found| format!("{prefix}{}", &found[1])));
        let rows = page("docs/metrics.md").rows(heading);
        let documented = rows.iter().flat_map(|row| code(&row[0])).filter(|name| name.starts_with("podmeta_"));
        let documented = documented.map(|name| name.strip_suffix("_total").unwrap_or(name).to_owned());
        assert_eq!(documented.collect::<BTreeSet<_>>(), names.collect::<BTreeSet<_>>(), "{heading}");
    }
}

#[test]
fn documented_operator_flags_are_those_of_the_code() {
    let field = Regex::new(r"(?m)^    pub ([a-z_]+):").unwrap();
    let mut flags = BTreeSet::new();
    for (directory, start) in [
        ("operator/src", "pub struct Args {"),
        ("operator/src", "pub struct CredentialsArgs {"),
        ("service/src", "pub struct ClusterArgs {"),
    ] {
        let source = sources(directory);
        let fields = source.split_once(start).unwrap_or_else(|| panic!("{directory}: no {start}")).1;
        let fields = fields.split_once("\n}").unwrap().0;
        flags.extend(field.captures_iter(fields).map(|found| format!("--{}", found[1].replace('_', "-"))));
    }
    // The flattened CredentialsArgs and ClusterArgs.
    flags.remove("--credentials");
    flags.remove("--cluster");
    let rows = page("docs/command-line.md").rows("podmeta-operator run");
    let documented = rows.iter().flat_map(|row| code(&row[0])).map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(documented, flags);
}

#[test]
fn documented_chart_values_are_those_of_the_chart() {
    fn leaves(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        match value.as_object() {
            Some(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    leaves(field, &path, found);
                }
            }
            _ => drop(found.insert(path.to_owned())),
        }
    }
    let text = fs::read_to_string(root().join("charts/podmeta/values.yaml")).unwrap();
    let values: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let mut found = BTreeSet::new();
    leaves(&values, "", &mut found);
    let rows = page("docs/install.md").rows("Values");
    let documented = rows.iter().flat_map(|row| code(&row[0])).map(str::to_owned).collect::<BTreeSet<_>>();
    let below = |value: &str, documented: &str| value == documented || value.starts_with(&format!("{documented}."));
    let missing = found.iter().filter(|value| !documented.iter().any(|documented| below(value, documented)));
    let extra = documented.iter().filter(|documented| !found.iter().any(|value| below(value, documented)));
    let faults = missing.map(|value| format!("docs/install.md lacks {value}"));
    let faults = faults.chain(extra.map(|value| format!("docs/install.md has {value}, which the chart lacks")));
    assert_none(&faults.collect::<Vec<_>>());
}
