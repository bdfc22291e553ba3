//! Checks that the record of mutations and docs/conformance.md match the cases. The snippets of the mutations are not
//! compared with the source; `make mutations` does that.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use podmeta_tests::conformance::{CaseFile, cases_dir, read_all};
use podmeta_tests::mutation::page::render;
use podmeta_tests::mutation::{self, LastRun, workspace};

#[test]
fn recorded_kills_name_existing_cases() {
    let cases = read_all(&cases_dir()).unwrap().iter().map(CaseFile::id).collect::<BTreeSet<_>>();
    for mutation in mutation::read_all().unwrap() {
        assert!(!mutation.kills.is_empty(), "mutation {:?} kills no case", mutation.name);
        let unknown = mutation.kills.iter().filter(|case| !cases.contains(*case)).collect::<Vec<_>>();
        assert!(unknown.is_empty(), "mutation {:?} kills unknown cases: {unknown:?}", mutation.name);
    }
}

#[test]
fn changed_mutations_of_the_last_run_exist() {
    let names = mutation::read_all().unwrap().into_iter().map(|mutation| mutation.name).collect::<BTreeSet<_>>();
    let unknown = LastRun::read().unwrap().changed.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
    assert!(unknown.is_empty(), "last-run.yaml lists unknown mutations: {unknown:?}");
}

#[test]
fn conformance_page_matches_cases_and_recorded_mutations() {
    let page = render(&read_all(&cases_dir()).unwrap(), &mutation::read_all().unwrap(), &LastRun::read().unwrap());
    let written = std::fs::read_to_string(workspace().join("docs/conformance.md")).unwrap();
    assert!(written == page, "docs/conformance.md is out of date: run `make conformance-page`");
}
