//! Renders docs/conformance.md: each case with its source and with a mutation that it detected.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use podmeta_metadata::dialect::Dialect;

use super::{LastRun, Mutation};
use crate::conformance::CaseFile;

/// Renders the page. If several mutations kill a case, the page names one that was in the last run, and of these the one that
/// kills the fewest cases.
#[must_use]
pub fn render(cases: &[CaseFile], mutations: &[Mutation], last_run: &LastRun) -> String {
    let LastRun { commit, date, partial, changed } = last_run;
    let rank = |mutation: &Mutation| (changed.contains(&mutation.name), mutation.kills.len());
    let mut killers: BTreeMap<&str, &Mutation> = BTreeMap::new();
    for mutation in mutations {
        for case in &mutation.kills {
            let best = killers.entry(case).or_insert(mutation);
            if rank(mutation) < rank(best) {
                *best = mutation;
            }
        }
    }
    let not_run = match changed.len() {
        0 => String::new(),
        count => format!(
            "{count} of {} mutations were added or changed after that commit. \"not run\" marks the cases that only they\n\
             should kill.\n",
            mutations.len()
        ),
    };
    let partial = partial.iter().map(|run| {
        format!(
            "On {}, {} mutations were run, and killed their cases. The record does not name them.\n",
            run.date, run.mutations
        )
    });
    let partial = partial.collect::<String>();
    let mut page = format!(
        "# Conformance\n\n\
         `tests/cases` has {} cases. Each case tests one rule of a cloud's metadata service and names the source of the rule.\n\
         All of them pass on every commit (`make quick`).\n\n\
         The columns \"mutation\" and \"kills\" are a record. The mutation removes the rule from the source, and\n\
         the case fails. \"kills\" is the number of all cases that fail with it. Last verified at commit {commit} on {date} with\n\
         `make mutations`. \"none\" means that no mutation is recorded for the case.\n\
         {not_run}{partial}\
         [tests/README.md](../tests/README.md) describes cases, sources and mutations.\n\n\
         This page is generated. After a change of a case run `make conformance-page`.\n",
        cases.len()
    );
    for dialect in Dialect::ALL {
        let of_dialect = cases.iter().filter(|case| case.dialect == dialect).collect::<Vec<_>>();
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {dialect}: {} cases\n\n", of_dialect.len());
        page.push_str("| rule | source | mutation | kills |\n| --- | --- | --- | --- |\n");
        for file in of_dialect {
            let (rule, source) = match &file.case {
                Ok(case) => (case.rule.as_str(), case.source.as_str()),
                Err(_) => (file.name.as_str(), ""),
            };
            let (mutation, kills) = match killers.get(file.id().as_str()) {
                Some(mutation) if changed.contains(&mutation.name) => (mutation.name.as_str(), "not run".to_owned()),
                Some(mutation) => (mutation.name.as_str(), mutation.kills.len().to_string()),
                None => ("none", "0".to_owned()),
            };
            let _ = writeln!(page, "| {rule} | {source} | {mutation} | {kills} |");
        }
    }
    page
}
