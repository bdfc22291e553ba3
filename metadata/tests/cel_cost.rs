//! Search for expressions and facts whose evaluation allocates more than the bound of its cost. The allocator of this test
//! binary counts. Bytes and allocations are asserted, not time: they are the same on every machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "cel_cost/pod.rs"]
mod pod;
#[path = "cel_cost/search.rs"]
mod search;

use allocation_counter::{AllocationInfo, measure};
use pod::{ITEMS, compile_with, entries, facts, profile, worst_facts};
use podmeta_metadata::cel::{Expression, MAX_COST, Scope};
use podmeta_metadata::compile::Compiled;
use podmeta_metadata::facts::Facts;
use podmeta_metadata::finding::FindingReason;
use search::search;

/// Maximum memory that the expressions of one pod need at the same time, in bytes.
const MAX_POD_BYTES: u64 = 8 << 20;

/// Facts far over the limits: a pod of 116 KB, 400 labels.
fn oversized_facts() -> Facts {
    facts(&entries(400, "label-", "value"), &entries(29, "a", &"v".repeat(4000)))
}

/// Compiles a pod with a profile of these expressions.
fn compile_pod(facts: &Facts, sources: &[String]) -> (Compiled, AllocationInfo) {
    let (profile, mut compiled) = (profile(sources), None);
    let used = measure(|| compiled = Some(compile_with(facts, &profile)));
    (compiled.unwrap(), used)
}

/// Evaluates an expression and returns its cost, or `None` if it is not accepted. Panics if it needs more than the bound.
fn check(source: &str, scope: &mut Scope, facts: &Facts) -> Option<u64> {
    let expression = Expression::compile(source).ok()?;
    let cost = expression.cost(scope).ok()?;
    if cost > MAX_COST {
        return None;
    }
    if cost > scope.remaining_cost() {
        *scope = Scope::new(facts).unwrap();
    }
    let used = measure(|| drop(expression.evaluate(scope)));
    assert!(used.bytes_total <= cost, "{source}: allocates {} bytes, cost {cost}", used.bytes_total);
    assert!(used.count_total * 64 <= cost, "{source}: allocates {} times, cost {cost}", used.count_total);
    Some(cost)
}

#[test]
fn evaluation_allocates_at_most_its_cost() {
    for facts in worst_facts() {
        let mut scope = Scope::new(&facts).unwrap();
        let best = search(|source| check(source, &mut scope, &facts));
        let scope = Scope::new(&facts).unwrap();
        let highest_cost = Expression::compile(&best[0]).unwrap().cost(&scope).unwrap();
        assert!(highest_cost > MAX_COST / 2, "the search found no expensive expression: {best:?}");
        for one in &best {
            let (compiled, used) = compile_pod(&facts, std::slice::from_ref(one));
            assert!(used.bytes_max <= MAX_POD_BYTES, "{one}: {} bytes at the same time", used.bytes_max);
            assert!(!compiled.findings.is_empty(), "64 times {one} is within the limit");
        }
        let (_, used) = compile_pod(&facts, &best);
        assert!(used.bytes_max <= MAX_POD_BYTES, "{} bytes at the same time", used.bytes_max);
    }
}

#[test]
fn scope_of_oversized_facts_needs_2_mib() {
    for facts in worst_facts().into_iter().chain([oversized_facts()]) {
        let used = measure(|| drop(Scope::new(&facts)));
        assert!(used.bytes_total <= 2 << 20, "{} bytes", used.bytes_total);
    }
}

/// The examples of the attack: a list of copies of a pod of 116 KB, and a loop over 400 labels in a loop.
#[test]
fn expression_over_a_limit_is_left_out_with_a_finding() {
    let copies = format!("string(size([{}]))", vec!["pod"; 200].join(","));
    let quadratic =
        "string(pod.metadata.labels.filter(k, pod.metadata.labels == pod.metadata.labels).size())".to_owned();
    let at_limit = worst_facts().remove(0);
    for (facts, source, limit) in [
        (oversized_facts(), &copies, "pod.metadata.labels, which has 400 entries"),
        (oversized_facts(), &quadratic, "an expression sees at most 128 entries and 32768 bytes"),
        (at_limit.clone(), &copies, "of the limit of 4000000 for all expressions of a pod, 4000000 is left"),
        (at_limit, &quadratic, "of the limit of 4000000 for all expressions of a pod, 4000000 is left"),
    ] {
        let (compiled, used) = compile_pod(&facts, std::slice::from_ref(source));
        assert!(used.bytes_total <= MAX_POD_BYTES, "{source}: {} bytes", used.bytes_total);
        assert_eq!(compiled.findings.len(), ITEMS);
        let finding = &compiled.findings[0];
        assert_eq!((&*finding.field, finding.reason), ("spec.metadata[0]", FindingReason::ItemUnavailable));
        assert!(finding.message.contains(limit), "{}", finding.message);
        assert!(compiled.outcome.workload().unwrap().dialects.values().all(|part| part.items.is_empty()));
    }
}
