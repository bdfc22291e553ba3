//! What was seen, as docs/conformance.md: each case with the mutation that it was seen to fail with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use podmeta_metadata::dialect::Dialect;

use super::Mutation;
use crate::conformance::Found;

/// The page: a row for each case. Of several mutations that a case fails with, the one that fewest fail with is named.
#[must_use]
pub fn page(cases: &[Found], mutations: &[Mutation]) -> String {
    let mut killers: BTreeMap<&str, &Mutation> = BTreeMap::new();
    for mutation in mutations {
        for case in &mutation.kills {
            let best = killers.entry(case).or_insert(mutation);
            if mutation.kills.len() < best.kills.len() {
                *best = mutation;
            }
        }
    }
    let mut page = format!(
        "# Conformance\n\n\
         `tests/cases` has {} cases, each one rule of a cloud's metadata service. Every one of them was seen to hold, and to\n\
         fail with its rule taken out of the source: the table names a mutation of `tests/mutations` that it fails with, and\n\
         how many cases fail with that one. It is written by\n\n    cargo run -p podmeta-tests --bin mutations\n",
        cases.len()
    );
    for dialect in Dialect::ALL {
        let of_dialect = cases.iter().filter(|found| found.dialect == dialect).collect::<Vec<_>>();
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {dialect}: {} cases\n\n", of_dialect.len());
        page.push_str("| rule | where it comes from | fails when | with |\n| --- | --- | --- | --- |\n");
        for found in of_dialect {
            let (rule, source) = match &found.case {
                Ok(case) => (case.rule.as_str(), case.source.as_str()),
                Err(_) => (found.name.as_str(), ""),
            };
            let (mutation, number) = match killers.get(found.id().as_str()) {
                Some(mutation) => (mutation.name.as_str(), mutation.kills.len()),
                None => ("", 0),
            };
            let _ = writeln!(page, "| {rule} | {source} | {mutation} | {number} |");
        }
    }
    page
}
