//! Time to compile the pods with the most expensive expressions: 64 items, facts at the limits. The search prefers
//! expressions that take much time for their cost.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "a benchmark fails by panicking"
)]

#[path = "../../metadata/tests/cel_cost/pod.rs"]
mod pod;
#[path = "../../metadata/tests/cel_cost/search.rs"]
mod search;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pod::{compile_with, profile, worst_facts};
use podmeta_metadata::cel::{Expression, MAX_COST, Scope};
use podmeta_metadata::facts::Facts;
use search::search;

/// Returns the evaluation time in nanoseconds per 1,000 units of cost, or `None` if the expression is invalid or too
/// expensive.
fn time_of_cost(source: &str, facts: &Facts) -> Option<u64> {
    let expression = Expression::compile(source).ok()?;
    let mut scope = Scope::new(facts).expect("facts are converted");
    let cost = expression.cost(&scope).ok().filter(|cost| *cost <= MAX_COST)?;
    let started = Instant::now();
    drop(expression.evaluate(&mut scope));
    u64::try_from(started.elapsed().as_nanos()).ok().map(|time| time * 1_000 / cost)
}

/// Returns the expression that takes longest to compile in a profile of 64 items.
fn slowest(facts: &Facts, sources: Vec<String>) -> String {
    let time = |source: &String| -> Duration {
        let profile = profile(std::slice::from_ref(source));
        let times = [(); 3].map(|()| {
            let started = Instant::now();
            drop(compile_with(facts, &profile));
            started.elapsed()
        });
        times.into_iter().min().unwrap_or_default()
    };
    sources.into_iter().max_by_key(time).expect("the search accepts expressions")
}

fn benches(criterion: &mut Criterion) {
    for (index, facts) in worst_facts().iter().enumerate() {
        let source = slowest(facts, search(|source| time_of_cost(source, facts)));
        println!("facts {index}: 64 times {source}");
        let profile = profile(&[source]);
        criterion.bench_function(&format!("pod: compile 64 expensive expressions, facts {index}"), |bench| {
            bench.iter(|| compile_with(black_box(facts), &profile));
        });
    }
}

criterion_group!(cel, benches);
criterion_main!(cel);
