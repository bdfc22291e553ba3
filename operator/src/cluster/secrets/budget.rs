//! The memory budget of the Secrets that profiles may use. Data over the budget does not enter the queue of updates.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use podmeta_metadata::credentials::SecretData;

use crate::model::update::StateUpdate;
use crate::text::format_object;

/// Maximum memory of the Secrets of one namespace, in bytes; see [`SecretData::memory_size`].
const MAX_NAMESPACE_BYTES: usize = 4 * 1024 * 1024;

/// The Secrets of all namespaces.
#[derive(Debug, Default)]
pub(super) struct SecretBudget {
    namespaces: HashMap<String, NamespaceBudget>,
}

/// The Secrets of one namespace. The first ones in the order of their names are kept while they are within the budget. The
/// order in which Secrets are added does not change the result. A Secret over the budget is not usable until the API
/// server sends it again, because its data is not kept.
#[derive(Debug, Default)]
struct NamespaceBudget {
    /// The sizes of the kept Secrets, by name.
    kept: BTreeMap<String, usize>,
    kept_bytes: usize,
    /// The names of the Secrets over the budget. All are after the names of the kept ones.
    dropped: BTreeSet<String>,
}

impl SecretBudget {
    /// Returns the updates to apply in place of a Secret that was added, replaced or, without data, removed.
    pub(super) fn updates(&mut self, namespace: String, name: String, data: Option<SecretData>) -> Vec<StateUpdate> {
        let budget = self.namespaces.entry(namespace.clone()).or_default();
        budget.remove(&name);
        let dropped = data.as_ref().map(|data| budget.insert(&name, data.memory_size())).unwrap_or_default();
        for name in &dropped {
            tracing::warn!(
                secret = %format_object(Some(&namespace), name),
                "ignoring a Secret that profiles may use: the Secrets of its namespace take more than {MAX_NAMESPACE_BYTES} bytes; remove the label from Secrets that no profile needs"
            );
        }
        let data = data.filter(|_| !dropped.contains(&name));
        if budget.is_empty() {
            self.namespaces.remove(&namespace);
        }
        let others = dropped.into_iter().filter(|dropped| *dropped != name).map(|dropped| (dropped, None));
        let mut updates: Vec<(String, Option<SecretData>)> = others.collect();
        updates.push((name, data));
        let update = |(name, data)| StateUpdate::Secret { namespace: namespace.clone(), name, data };
        updates.into_iter().map(update).collect()
    }
}

impl NamespaceBudget {
    /// Adds a Secret that is not known. Returns the Secrets that exceed the budget because of it.
    fn insert(&mut self, name: &str, size: usize) -> Vec<String> {
        if self.dropped.first().is_some_and(|dropped| dropped.as_str() < name) {
            self.dropped.insert(name.to_owned());
            return vec![name.to_owned()];
        }
        self.kept_bytes += size;
        self.kept.insert(name.to_owned(), size);
        let mut dropped = Vec::new();
        while self.kept_bytes > MAX_NAMESPACE_BYTES
            && let Some((name, size)) = self.kept.pop_last()
        {
            self.kept_bytes -= size;
            self.dropped.insert(name.clone());
            dropped.push(name);
        }
        dropped
    }

    fn remove(&mut self, name: &str) {
        self.dropped.remove(name);
        self.kept_bytes -= self.kept.remove(name).unwrap_or_default();
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.dropped.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::credentials::MAX_SECRET_BYTES;

    use super::*;

    /// The number of Secrets of the maximum size.
    const COUNT: usize = 100;

    fn name(index: usize) -> String {
        format!("s{index:03}")
    }

    fn large() -> SecretData {
        SecretData::from_iter([("k".to_owned(), vec![0; MAX_SECRET_BYTES - 1])])
    }

    /// Applies a Secret to the budget, and the updates to the names of usable Secrets.
    fn apply(budget: &mut SecretBudget, usable: &mut BTreeSet<String>, name: String, data: Option<SecretData>) {
        for update in budget.updates("shop".to_owned(), name, data) {
            let StateUpdate::Secret { name, data, .. } = update else { panic!("{update:?}") };
            match data {
                Some(_) => usable.insert(name),
                None => usable.remove(&name),
            };
        }
    }

    #[test]
    fn secrets_over_the_budget_are_dropped_in_any_order() {
        let orders: [Vec<usize>; 3] =
            [(0..COUNT).collect(), (0..COUNT).rev().collect(), (0..COUNT).map(|index| index * 37 % COUNT).collect()];
        for order in orders {
            let (mut budget, mut usable) = (SecretBudget::default(), BTreeSet::new());
            order.into_iter().for_each(|index| apply(&mut budget, &mut usable, name(index), Some(large())));
            assert_eq!(usable, (0..63).map(name).collect());
            budget.updates("attic".to_owned(), name(99), Some(large())).iter().for_each(|update| {
                assert!(matches!(update, StateUpdate::Secret { data: Some(_), .. }), "another namespace");
            });
        }
    }

    #[test]
    fn dropped_secret_is_usable_after_it_is_sent_again_within_the_budget() {
        let (mut budget, mut usable) = (SecretBudget::default(), BTreeSet::new());
        (0..64).for_each(|index| apply(&mut budget, &mut usable, name(index), Some(large())));
        apply(&mut budget, &mut usable, name(63), Some(large()));
        assert!(!usable.contains(&name(63)));
        apply(&mut budget, &mut usable, name(5), None);
        apply(&mut budget, &mut usable, name(63), Some(large()));
        assert!(usable.contains(&name(63)));
        apply(&mut budget, &mut usable, name(5), Some(large()));
        assert!(usable.contains(&name(5)) && !usable.contains(&name(63)));
        (0..64).for_each(|index| apply(&mut budget, &mut usable, name(index), None));
        assert!(usable.is_empty() && budget.namespaces.is_empty());
    }

    #[test]
    fn each_key_counts_its_overhead() {
        let keys: SecretData = (0..10_000).map(|key| (format!("{key:x}"), Vec::new())).collect();
        let (mut budget, mut usable) = (SecretBudget::default(), BTreeSet::new());
        (0..COUNT).for_each(|index| apply(&mut budget, &mut usable, name(index), Some(keys.clone())));
        assert_eq!(usable.len(), 3);
    }
}
