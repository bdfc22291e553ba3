//! The difference between the wanted entries of the map of cgroups and those that it has. Pure.

use std::collections::BTreeMap;

use super::program::CgroupKind;

/// A change of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryChange {
    /// Sets the kind of the cgroup with this ID.
    Set(u64, CgroupKind),
    /// Removes the cgroup with this ID.
    Remove(u64),
}

/// Treatment of entries that are not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obsolete {
    Remove,
    /// Not all wanted cgroups are known. The kernel uses the ID of a cgroup once, so the entry of a deleted cgroup has no effect.
    Keep,
}

/// Returns the changes, in their order: exempt pods first, so that no exempt pod is dropped meanwhile.
pub(super) fn changes(
    current: &BTreeMap<u64, u32>,
    wanted: &BTreeMap<u64, CgroupKind>,
    obsolete: Obsolete,
) -> Vec<EntryChange> {
    let is_current = |id: &u64, kind: CgroupKind| current.get(id) == Some(&u32::from(kind as u8));
    let of_kind = |kind| {
        let missing = wanted.iter().filter(move |(id, wanted)| **wanted == kind && !is_current(id, kind));
        missing.map(move |(id, _)| EntryChange::Set(*id, kind))
    };
    let mut changes = of_kind(CgroupKind::ExemptPod).collect::<Vec<_>>();
    changes.extend(of_kind(CgroupKind::Pods));
    if obsolete == Obsolete::Remove {
        changes.extend(current.keys().filter(|id| !wanted.contains_key(id)).map(|id| EntryChange::Remove(*id)));
    }
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
    fn changed_kind_is_written_and_an_ended_pod_is_removed_last() {
        let current = BTreeMap::from([(1, 1), (7, 1), (8, 2), (9, 2)]);
        let expected = [EntryChange::Set(7, CgroupKind::ExemptPod), EntryChange::Remove(9)];
        assert_eq!(changes(&current, &BTreeMap::from(WANTED), Obsolete::Remove), expected);
    }

    #[test]
    fn obsolete_entry_is_kept_while_not_all_cgroups_are_known() {
        let current = BTreeMap::from([(1, 1), (7, 2), (8, 2), (9, 2)]);
        assert_eq!(changes(&current, &BTreeMap::from(WANTED), Obsolete::Keep), []);
    }
}
