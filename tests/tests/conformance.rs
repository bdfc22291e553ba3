//! The conformance suite: every case of `cases/` holds, and is what its file's name says.

use std::collections::BTreeSet;

use podmeta_metadata::dialect::Dialect;
use podmeta_tests::conformance::{folder, play, read_all};

/// Cases do not get fewer by accident.
const AT_LEAST: [(Dialect, usize); 2] = [(Dialect::Ec2, 250), (Dialect::Ecs, 120)];

#[test]
fn all_cases_pass() {
    let folder = folder();
    let cases = read_all(&folder).unwrap();
    let failures = play(&folder, &cases);
    for failure in &failures {
        println!("FAILED {}\n    {}\n", failure.file, failure.report);
    }
    assert!(failures.is_empty(), "{} of {} cases failed", failures.len(), cases.len());
    println!("{} cases hold", cases.len());
}

#[test]
fn every_file_is_named_after_its_rule_and_none_is_lost() {
    let cases = read_all(&folder()).unwrap();
    for (dialect, least) in AT_LEAST {
        let number = cases.iter().filter(|found| found.dialect == dialect).count();
        assert!(number >= least, "{number} cases of {dialect}, fewer than {least}");
    }
    for found in &cases {
        let case = found.case.as_ref().unwrap_or_else(|error| panic!("{}: {error:#}", found.file()));
        assert_eq!(found.name, case.name(), "{}", found.file());
        assert!(!case.source.is_empty(), "{} does not say where its rule comes from", found.file());
    }
}

#[test]
fn no_two_cases_do_the_same() {
    let mut seen = BTreeSet::new();
    for found in read_all(&folder()).unwrap() {
        let case = found.case.unwrap();
        let what = format!("{} {} {:?} {:?}", found.dialect, case.pod, case.patch, case.steps);
        assert!(seen.insert(what), "{}/{} does what another case does", found.dialect, found.name);
    }
}
