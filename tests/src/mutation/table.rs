//! What was seen, as docs/conformance.md: each case with the mutation that it was seen to fail with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use podmeta_metadata::dialect::Dialect;

use super::Mutation;
use crate::conformance::Found;

/// What was seen of one mutation.
#[derive(Clone, Debug)]
pub struct Seen<'m> {
    /// The mutation.
    pub mutation: &'m Mutation,
    /// The cases that failed.
    pub failed: BTreeSet<String>,
}

/// The page: a row for each case. Of several mutations that a case fails with, the one that fewest fail with is named.
#[must_use]
pub fn page(cases: &[Found], seen: &[Seen<'_>]) -> String {
    let mut killers: BTreeMap<&str, &Seen<'_>> = BTreeMap::new();
    for trial in seen {
        for case in trial.mutation.kills.iter().filter(|case| trial.failed.contains(*case)) {
            let best = killers.entry(case).or_insert(trial);
            if trial.failed.len() < best.failed.len() {
                *best = trial;
            }
        }
    }
    let mut page = format!(
        "# Conformance\n\n\
         `tests/cases` has {} cases, each one rule of a cloud's metadata service. Every one of them was seen to hold, and to\n\
         fail with its rule taken out of the source: the table names the mutation of `tests/mutations` and how many cases\n\
         failed with it. It is written by\n\n    cargo run -p podmeta-tests --bin mutations\n",
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
            let name = found.id();
            let (mutation, number) = match killers.get(name.as_str()) {
                Some(trial) => (trial.mutation.name.as_str(), trial.failed.len().to_string()),
                None => ("**nothing**", String::new()),
            };
            let _ = writeln!(page, "| {rule} | {source} | {mutation} | {number} |");
        }
    }
    page
}
