//! The conformance suite: runs every case of `cases/` and checks the case files.

use std::collections::BTreeSet;

use podmeta_metadata::dialect::Dialect;
use podmeta_tests::conformance::{cases_dir, read_all, run_cases};

/// Minimum number of cases by dialect. Detects cases that are lost by accident.
const MIN_CASES: [(Dialect, usize); 2] = [(Dialect::Ec2, 250), (Dialect::Ecs, 120)];

#[test]
fn all_cases_pass() {
    let dir = cases_dir();
    let cases = read_all(&dir).unwrap();
    let failures = run_cases(&dir, &cases);
    for failure in &failures {
        println!("FAILED {}\n    {}\n", failure.file, failure.report);
    }
    assert!(failures.is_empty(), "{} of {} cases failed", failures.len(), cases.len());
    println!("{} cases passed", cases.len());
}

#[test]
fn case_files_are_named_after_their_rule_and_none_is_missing() {
    let cases = read_all(&cases_dir()).unwrap();
    for (dialect, least) in MIN_CASES {
        let number = cases.iter().filter(|file| file.dialect == dialect).count();
        assert!(number >= least, "{number} cases of {dialect}, fewer than {least}");
    }
    for file in &cases {
        let case = file.case.as_ref().unwrap_or_else(|error| panic!("{}: {error:#}", file.file()));
        assert_eq!(file.name, case.name(), "{}", file.file());
        assert!(!case.source.is_empty(), "{} has no source", file.file());
    }
}

#[test]
fn no_two_cases_have_the_same_steps() {
    let mut seen = BTreeSet::new();
    for file in read_all(&cases_dir()).unwrap() {
        let case = file.case.unwrap();
        let content = format!("{} {} {:?} {:?}", file.dialect, case.pod, case.patch, case.steps);
        assert!(seen.insert(content), "{}/{} has the steps of another case", file.dialect, file.name);
    }
}
