//! Entries of exempt pods in the array of cgroups. A pod keeps its entry while it is exempt: the program finds it during each
//! update.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::libc;
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

    /// Writes new and changed entries, and then clears those of other pods. `None` in `cgroups` keeps the entry of a pod. At
    /// most [`MAX_EXEMPT_PODS`] cgroups are allowed. `write` sets an entry of the array of cgroups.
    ///
    /// Returns the failures of single entries. A pod whose cgroup was deleted has ended, and is no failure.
    pub(super) fn update(
        &mut self,
        cgroups: &BTreeMap<&PodUid, Option<PodCgroup>>,
        mut write: impl FnMut(u32, Option<BorrowedFd<'_>>) -> io::Result<()>,
    ) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        let inodes = cgroups.iter().map(|(uid, cgroup)| (*uid, cgroup.as_ref().map(|cgroup| cgroup.inode)));
        for planned in self.plan(&inodes.collect()) {
            let (entry, content, result) = match planned {
                Write::Clear(entry) => (entry, Entry::Empty, clear(entry, &mut write)),
                Write::Set(entry, uid) => {
                    let Some(Some(cgroup)) = cgroups.get(&uid) else { continue };
                    match write(entry, Some(cgroup.directory.as_fd())) {
                        Err(error) if is_deleted(&error) => (entry, Entry::Empty, clear(entry, &mut write)),
                        result => {
                            let message = format!("cannot write the cgroup of the pod with UID {uid}");
                            (entry, Entry::Pod { uid, inode: cgroup.inode }, result.context(message))
                        }
                    }
                }
            };
            match result {
                Ok(()) => self.set(entry, content),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Returns the writes for the inodes of exempt pods' cgroups. `None` keeps the entry of a pod. A pod without an entry gets
    /// an empty one, or else one of a pod that is not exempt now.
    fn plan(&self, inodes: &BTreeMap<&PodUid, Option<u64>>) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut missing = inodes.clone();
        let (mut empty, mut obsolete) = (VecDeque::new(), VecDeque::new());
        for (entry, content) in EXEMPT_ENTRIES.zip(&self.entries) {
            match content {
                Entry::Empty => empty.push_back(entry),
                Entry::Unknown => obsolete.push_back(entry),
                Entry::Pod { uid, inode } => match missing.remove(uid) {
                    Some(current) if current.is_none_or(|current| current == *inode) => {}
                    Some(_) => writes.push(Write::Set(entry, uid.clone())),
                    None => obsolete.push_back(entry),
                },
            }
        }
        for (uid, _) in missing.into_iter().filter(|(_, inode)| inode.is_some()) {
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

fn clear(entry: u32, write: &mut impl FnMut(u32, Option<BorrowedFd<'_>>) -> io::Result<()>) -> Result<()> {
    write(entry, None).with_context(|| format!("cannot clear entry {entry} of the cgroups"))
}

/// Returns true if an error of a cgroup's directory says that the cgroup does not exist or was deleted.
pub(super) fn is_deleted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
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

    fn cgroup(inode: u64) -> PodCgroup {
        PodCgroup { directory: File::open("/dev/null").unwrap().into(), inode }
    }

    /// Updates the entries. Returns the written entries, with true for the cgroup of a pod.
    fn update(entries: &mut ExemptEntries, pods: &[(PodUid, u64)]) -> Vec<(u32, bool)> {
        let (writes, errors) = update_with(entries, pods, |_| Ok(()));
        assert!(errors.is_empty(), "{errors:?}");
        writes
    }

    /// Updates the entries. Writes of a cgroup have the result of `write`.
    fn update_with(
        entries: &mut ExemptEntries,
        pods: &[(PodUid, u64)],
        write: impl Fn(u32) -> io::Result<()>,
    ) -> (Vec<(u32, bool)>, Vec<String>) {
        let cgroups = pods.iter().map(|(uid, inode)| (uid, Some(cgroup(*inode)))).collect();
        let mut writes = Vec::new();
        let errors = entries.update(&cgroups, |entry, cgroup| {
            writes.push((entry, cgroup.is_some()));
            cgroup.map_or(Ok(()), |_| write(entry))
        });
        (writes, errors.iter().map(|error| format!("{error:#}")).collect())
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

    #[test]
    fn deleted_cgroup_clears_its_entry_and_the_other_pods_are_written() {
        let start = EXEMPT_ENTRIES.start;
        for errno in [libc::ENOENT, libc::ENODEV] {
            let mut entries = ExemptEntries::new();
            update(&mut entries, &[]);
            let is_deleted = |entry| if entry == start { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) };
            let (writes, errors) = update_with(&mut entries, &pods(&[1, 2]), is_deleted);
            assert_eq!(writes, [(start, true), (start, false), (start + 1, true)]);
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(update(&mut entries, &pods(&[2, 3])), [(start, true)]);
        }
    }

    #[test]
    fn failure_of_one_entry_is_returned_after_the_other_writes_and_retried() {
        let start = EXEMPT_ENTRIES.start;
        let mut entries = ExemptEntries::new();
        update(&mut entries, &pods(&[0]));
        let fails = |entry| if entry == start + 1 { Err(io::Error::from_raw_os_error(libc::ENOMEM)) } else { Ok(()) };
        let (writes, errors) = update_with(&mut entries, &pods(&[1, 2]), fails);
        assert_eq!(writes, [(start + 1, true), (start + 2, true), (start, false)]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("uid-01"), "{errors:?}");
        assert_eq!(update(&mut entries, &pods(&[1, 2])), [(start, true)]);
    }

    #[test]
    fn pod_whose_cgroup_cannot_be_opened_keeps_its_entry() {
        let mut entries = ExemptEntries::new();
        update(&mut entries, &pods(&[1]));
        let (known, new) = (uid(1), uid(2));
        let cgroups = BTreeMap::from([(&known, None), (&new, None)]);
        let errors = entries.update(&cgroups, |entry, _| panic!("writes entry {entry}"));
        assert!(errors.is_empty(), "{errors:?}");
    }
}
