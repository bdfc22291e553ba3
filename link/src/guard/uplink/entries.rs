//! The difference between the wanted entries of the map of cgroups and those that it has. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::program::CgroupKind;

/// A change of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryChange {
    /// Sets the kind of the cgroup with this ID.
    Set(u64, CgroupKind),
    /// Removes the cgroup with this ID.
    Remove(u64),
}

/// Treatment of obsolete entries, which are not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obsolete<'a> {
    /// Removes them: all wanted cgroups are known.
    Remove,
    /// Keeps them: some wanted cgroups are not known, and an obsolete entry could be that of one of them.
    Keep,
    /// Keeps those of existing cgroups, whose IDs are in the set, and removes the others: the map fills up. The kernel never reuses
    /// the ID of a cgroup, so the entry of a deleted cgroup has no effect.
    KeepExisting(&'a BTreeSet<u64>),
}

/// Returns the changes, in the order in which they must be made. Obsolete exempt pods are removed first: this makes room in a full
/// map. Exempt pods are set before the cgroups of all pods, so that the program never drops packets of exempt pods.
pub(super) fn changes(
    current: &BTreeMap<u64, u32>,
    wanted: &BTreeMap<u64, CgroupKind>,
    obsolete: Obsolete<'_>,
) -> Vec<EntryChange> {
    let is_current = |id: &u64, kind: CgroupKind| current.get(id) == Some(&u32::from(kind as u8));
    let of_kind = |kind| {
        let missing = wanted.iter().filter(move |(id, wanted)| **wanted == kind && !is_current(id, kind));
        missing.map(move |(id, _)| EntryChange::Set(*id, kind))
    };
    let is_kept = |id: &u64| match obsolete {
        Obsolete::Remove => false,
        Obsolete::Keep => true,
        Obsolete::KeepExisting(existing) => existing.contains(id),
    };
    let is_exempt = |kind: u32| kind == u32::from(CgroupKind::ExemptPod as u8);
    let obsolete = current.iter().filter(|(id, _)| !wanted.contains_key(id) && !is_kept(id));
    let obsolete = obsolete.map(|(id, kind)| (*id, *kind));
    let (exempt, others) = obsolete.partition::<Vec<(u64, u32)>, _>(|(_, kind)| is_exempt(*kind));
    let remove = |entries: Vec<(u64, u32)>| entries.into_iter().map(|(id, _)| EntryChange::Remove(id));
    let mut changes = remove(exempt).collect::<Vec<_>>();
    changes.extend(of_kind(CgroupKind::ExemptPod));
    changes.extend(of_kind(CgroupKind::Pods));
    changes.extend(remove(others));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [(u64, CgroupKind); 3] =
        [(1, CgroupKind::Pods), (7, CgroupKind::ExemptPod), (8, CgroupKind::ExemptPod)];

    #[test]
    fn empty_map_gets_exempt_pods_before_the_cgroup_of_all_pods() {
        let changes = changes(&BTreeMap::new(), &BTreeMap::from(WANTED), Obsolete::Remove);
        let set = |(id, kind)| EntryChange::Set(id, kind);
        assert_eq!(changes, [set(WANTED[1]), set(WANTED[2]), set(WANTED[0])]);
    }

    #[test]
    fn complete_map_is_not_written() {
        let current = BTreeMap::from([(1, 1), (7, 2), (8, 2)]);
        assert_eq!(changes(&current, &BTreeMap::from(WANTED), Obsolete::Remove), []);
    }

    #[test]
    fn ended_exempt_pod_is_removed_first_and_ended_cgroup_of_all_pods_last() {
        let current = BTreeMap::from([(1, 1), (5, 1), (7, 1), (8, 2), (9, 2)]);
        let expected = [EntryChange::Remove(9), EntryChange::Set(7, CgroupKind::ExemptPod), EntryChange::Remove(5)];
        assert_eq!(changes(&current, &BTreeMap::from(WANTED), Obsolete::Remove), expected);
    }

    #[test]
    fn obsolete_entry_is_kept_while_not_all_cgroups_are_known() {
        let current = BTreeMap::from([(1, 1), (7, 2), (8, 2), (9, 2)]);
        assert_eq!(changes(&current, &BTreeMap::from(WANTED), Obsolete::Keep), []);
    }

    #[test]
    fn obsolete_entry_of_a_deleted_cgroup_is_removed_from_a_map_that_fills_up() {
        let current = BTreeMap::from([(1, 1), (7, 2), (8, 2), (9, 2), (10, 2)]);
        let existing = BTreeSet::from([1, 9]);
        let changes = changes(&current, &BTreeMap::from(WANTED), Obsolete::KeepExisting(&existing));
        assert_eq!(changes, [EntryChange::Remove(10)]);
    }
}
