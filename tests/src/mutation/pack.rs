//! Puts several mutations into one build, because a build takes long: those whose cases have none in common, so that
//! the cases that fail tell which mutation is there.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Mutation, changed};

/// How many mutations one build may have.
const MOST: usize = 8;

/// Distributes mutations over as few builds as a simple search finds.
///
/// # Errors
/// If a mutation does not fit the source.
pub fn pack<'m>(mutations: &'m [Mutation], workspace: &Path) -> anyhow::Result<Vec<Vec<&'m Mutation>>> {
    let mut builds: Vec<Vec<&Mutation>> = Vec::new();
    for mutation in mutations {
        mutation.changed(workspace)?;
        let fits = |build: &&mut Vec<&'m Mutation>| {
            let together = build.iter().copied().chain([mutation]).collect::<Vec<_>>();
            build.len() < MOST
                && build.iter().all(|other| are_apart(other, mutation))
                && changed(&together, workspace).is_ok()
        };
        match builds.iter_mut().find(fits) {
            Some(build) => build.push(mutation),
            None => builds.push(vec![mutation]),
        }
    }
    Ok(builds)
}

/// Whether no case fails with both.
fn are_apart(one: &Mutation, other: &Mutation) -> bool {
    let cases = one.kills.iter().collect::<BTreeSet<_>>();
    other.kills.iter().all(|case| !cases.contains(case))
}
