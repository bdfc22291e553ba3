//! Entries of exempt pods in the array of cgroups. A pod keeps its entry while it is exempt: the program finds it during each
//! update.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use podmeta_metadata::names::PodUid;

use super::cgroups::MAX_EXEMPT_PODS;
use super::program::EXEMPT_ENTRIES;

/// The cgroup of a pod.
#[derive(Debug)]
pub(super) struct PodCgroup {
    /// The open directory.
    pub(super) directory: OwnedFd,
    /// Inode of the directory. A cgroup that was created again has another one.
    pub(super) inode: u64,
}

/// Content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// This process has not written the entry yet.
    Unknown,
    Empty,
    Pod {
        uid: PodUid,
        inode: u64,
    },
}

/// A planned write of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Write {
    /// Sets the entry with this number to the cgroup of a pod.
    Set(u32, PodUid),
    /// Empties the entry with this number.
    Clear(u32),
}

/// The entries as this process wrote them last.
#[derive(Debug)]
pub(super) struct ExemptEntries {
    /// Contents in the order of [`EXEMPT_ENTRIES`].
    entries: [Entry; MAX_EXEMPT_PODS],
}

impl ExemptEntries {
    pub(super) const fn new() -> Self {
        Self { entries: [const { Entry::Unknown }; MAX_EXEMPT_PODS] }
    }

    /// Writes new and changed entries, and then clears those of other pods. `write` sets an entry of the array of cgroups. At
    /// most [`MAX_EXEMPT_PODS`] cgroups are allowed.
    pub(super) fn update(
        &mut self,
        cgroups: &BTreeMap<&PodUid, PodCgroup>,
        mut write: impl FnMut(u32, Option<BorrowedFd<'_>>) -> io::Result<()>,
    ) -> Result<()> {
        let inodes = cgroups.iter().map(|(uid, cgroup)| (*uid, cgroup.inode)).collect();
        for planned in self.plan(&inodes) {
            match planned {
                Write::Set(entry, uid) => {
                    let Some(cgroup) = cgroups.get(&uid) else { continue };
                    write(entry, Some(cgroup.directory.as_fd()))
                        .with_context(|| format!("cannot write the cgroup of the pod with UID {uid}"))?;
                    self.set(entry, Entry::Pod { uid, inode: cgroup.inode });
                }
                Write::Clear(entry) => {
                    write(entry, None).with_context(|| format!("cannot clear entry {entry} of the cgroups"))?;
                    self.set(entry, Entry::Empty);
                }
            }
        }
        Ok(())
    }

    /// Returns the writes for the inodes of exempt pods' cgroups. A pod without an entry gets an empty one, or else one of a
    /// pod that is not exempt now.
    fn plan(&self, inodes: &BTreeMap<&PodUid, u64>) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut missing = inodes.clone();
        let (mut empty, mut obsolete) = (VecDeque::new(), VecDeque::new());
        for (entry, content) in EXEMPT_ENTRIES.zip(&self.entries) {
            match content {
                Entry::Empty => empty.push_back(entry),
                Entry::Unknown => obsolete.push_back(entry),
                Entry::Pod { uid, inode } => match missing.remove(uid) {
                    Some(current) if current == *inode => {}
                    Some(_) => writes.push(Write::Set(entry, uid.clone())),
                    None => obsolete.push_back(entry),
                },
            }
        }
        for uid in missing.into_keys() {
            let entry = empty.pop_front().or_else(|| obsolete.pop_front());
            writes.extend(entry.map(|entry| Write::Set(entry, uid.clone())));
        }
        writes.extend(obsolete.into_iter().map(Write::Clear));
        writes
    }

    fn set(&mut self, entry: u32, content: Entry) {
        if let Some((_, known)) = EXEMPT_ENTRIES.zip(&mut self.entries).find(|(number, _)| *number == entry) {
            *known = content;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn uid(n: usize) -> PodUid {
        PodUid::try_from(format!("uid-{n:02}")).unwrap()
    }

    /// Returns the UID of each pod with its inode, which is `n` plus 100.
    fn pods(numbers: &[usize]) -> Vec<(PodUid, u64)> {
        numbers.iter().map(|n| (uid(*n), *n as u64 + 100)).collect()
    }

    /// Updates the entries. Returns the written entries, with true for the cgroup of a pod.
    fn update(entries: &mut ExemptEntries, pods: &[(PodUid, u64)]) -> Vec<(u32, bool)> {
        let cgroup = |inode| PodCgroup { directory: File::open("/dev/null").unwrap().into(), inode };
        let cgroups = pods.iter().map(|(uid, inode)| (uid, cgroup(*inode))).collect();
        let mut writes = Vec::new();
        let result = entries.update(&cgroups, |entry, cgroup| {
            writes.push((entry, cgroup.is_some()));
            Ok(())
        });
        result.unwrap();
        writes
    }

    #[test]
    fn first_update_writes_all_entries() {
        let mut entries = ExemptEntries::new();
        let writes = update(&mut entries, &pods(&[1, 2]));
        let expected = EXEMPT_ENTRIES.map(|entry| (entry, entry < EXEMPT_ENTRIES.start + 2));
        assert_eq!(writes, expected.collect::<Vec<_>>());
    }

    #[test]
    fn other_order_of_pods_writes_no_entry() {
        let mut entries = ExemptEntries::new();
        update(&mut entries, &pods(&[1, 2, 3]));
        update(&mut entries, &pods(&[0, 1, 2, 3]));
        for order in [[3, 1, 0, 2], [0, 1, 2, 3], [2, 3, 1, 0]] {
            assert_eq!(update(&mut entries, &pods(&order)), [], "{order:?}");
        }
    }

    #[test]
    fn new_pod_does_not_move_another_and_an_ended_pod_is_cleared_last() {
        let start = EXEMPT_ENTRIES.start;
        let mut entries = ExemptEntries::new();
        update(&mut entries, &pods(&[1, 2, 3]));
        assert_eq!(update(&mut entries, &pods(&[0, 2, 3])), [(start + 3, true), (start, false)]);
        assert_eq!(update(&mut entries, &pods(&[0, 2, 3, 4])), [(start, true)]);
    }

    #[test]
    fn cgroup_that_was_created_again_is_written_to_the_same_entry() {
        let mut entries = ExemptEntries::new();
        update(&mut entries, &pods(&[1, 2]));
        let again = [(uid(1), 101), (uid(2), 202)];
        assert_eq!(update(&mut entries, &again), [(EXEMPT_ENTRIES.start + 1, true)]);
        assert_eq!(update(&mut entries, &again), []);
    }

    #[test]
    fn new_pod_replaces_an_ended_one_in_full_entries() {
        let mut entries = ExemptEntries::new();
        let all = (0..MAX_EXEMPT_PODS).collect::<Vec<_>>();
        update(&mut entries, &pods(&all));
        let next = (1..=MAX_EXEMPT_PODS).collect::<Vec<_>>();
        assert_eq!(update(&mut entries, &pods(&next)), [(EXEMPT_ENTRIES.start, true)]);
    }
}
