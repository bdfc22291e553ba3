//! Batches of mutations that share a build, which is the slow part. Mutations of a batch kill disjoint sets of cases, so
//! the failed cases identify the mutation.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Mutation, apply};

const MAX_BATCH_SIZE: usize = 8;

/// Distributes mutations over batches, first fit. Every mutation must apply to the source on its own.
#[must_use]
pub fn batches<'m>(mutations: &[&'m Mutation], workspace: &Path) -> Vec<Vec<&'m Mutation>> {
    let mut batches: Vec<Vec<&Mutation>> = Vec::new();
    for &mutation in mutations {
        let fits = |batch: &&mut Vec<&'m Mutation>| {
            let together = batch.iter().copied().chain([mutation]).collect::<Vec<_>>();
            batch.len() < MAX_BATCH_SIZE
                && batch.iter().all(|other| kills_are_disjoint(other, mutation))
                && apply(&together, workspace).is_ok()
        };
        match batches.iter_mut().find(fits) {
            Some(batch) => batch.push(mutation),
            None => batches.push(vec![mutation]),
        }
    }
    batches
}

fn kills_are_disjoint(one: &Mutation, other: &Mutation) -> bool {
    let cases = one.kills.iter().collect::<BTreeSet<_>>();
    other.kills.iter().all(|case| !cases.contains(case))
}
