//! Every conformance case was seen to fail with its rule removed: `mutations/` says with which, and docs/conformance.md
//! shows it. Here is checked that both are true of the source as it is; the trying itself takes long, and is
//! `cargo run -p podmeta-tests --bin mutations`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use podmeta_tests::conformance::{Found, folder, read_all};
use podmeta_tests::mutation::table::page;
use podmeta_tests::mutation::{self, workspace};

#[test]
fn every_mutation_fits_the_source() {
    let mutations = mutation::read_all().unwrap();
    let misfits = mutations.iter().filter_map(|mutation| {
        let error = mutation.changed(&workspace()).err()?;
        Some(format!("{}: {error:#}", mutation.name))
    });
    let misfits = misfits.collect::<Vec<_>>();
    assert!(misfits.is_empty(), "{} do not fit:\n{}", misfits.len(), misfits.join("\n"));
}

#[test]
fn every_case_fails_with_some_mutation_and_every_mutation_with_some_case() {
    let mutations = mutation::read_all().unwrap();
    let cases = read_all(&folder()).unwrap().iter().map(Found::id).collect::<BTreeSet<_>>();
    let killed = mutations.iter().flat_map(|mutation| mutation.kills.iter().cloned()).collect::<BTreeSet<_>>();
    assert_eq!(cases.difference(&killed).collect::<Vec<_>>(), Vec::<&String>::new(), "cases that nothing kills");
    assert_eq!(killed.difference(&cases).collect::<Vec<_>>(), Vec::<&String>::new(), "kills that are no cases");
    let idle = mutations.iter().filter(|mutation| mutation.kills.is_empty()).map(|mutation| &mutation.name);
    assert_eq!(idle.collect::<Vec<_>>(), Vec::<&String>::new(), "mutations that no case fails with");
}

#[test]
fn the_page_shows_what_the_mutations_say() {
    let page = page(&read_all(&folder()).unwrap(), &mutation::read_all().unwrap());
    let written = std::fs::read_to_string(workspace().join("docs/conformance.md")).unwrap();
    assert_eq!(written, page, "write docs/conformance.md anew: cargo run -p podmeta-tests --bin mutations");
}
