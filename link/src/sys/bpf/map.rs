//! Hash maps of BPF with keys of 8 bytes and values of 4 bytes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use super::layout::{BPF_MAP_TYPE_HASH, Command, MapCreate, MapElement, RawMapInfo};
use super::{address, bpf, info, number, owned};

/// Creates a hash map with keys of 8 bytes and values of 4 bytes.
///
/// # Errors
/// If the kernel rejects it, such as for a missing capability.
pub(crate) fn create(max_entries: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate { map_type: BPF_MAP_TYPE_HASH, key_size: 8, value_size: 4, max_entries };
    // SAFETY: the attributes contain no pointer.
    owned(unsafe { bpf(Command::MapCreate, &attributes) })
}

/// Sets an entry of a map that [`create`] returned.
///
/// # Errors
/// `E2BIG` if the map is full.
pub(crate) fn set(map: BorrowedFd<'_>, key: u64, value: u32) -> io::Result<()> {
    let attributes = element(map, address(&raw const key), address(&raw const value));
    // SAFETY: the kernel reads 8 bytes of the key and 4 bytes of the value. Both live until the call returns.
    unsafe { bpf(Command::MapUpdateElem, &attributes) }.map(drop)
}

/// Removes an entry of a map that [`create`] returned. Succeeds if there is none.
///
/// # Errors
/// If the descriptor is not such a map.
pub(crate) fn remove(map: BorrowedFd<'_>, key: u64) -> io::Result<()> {
    let attributes = element(map, address(&raw const key), 0);
    // SAFETY: the kernel reads 8 bytes of the key, which lives until the call returns.
    match unsafe { bpf(Command::MapDeleteElem, &attributes) } {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(drop),
    }
}

/// Returns all entries of a map that [`create`] returned. Entries that another process changes meanwhile can be missing.
///
/// # Errors
/// If the descriptor is not such a map, or another process changes it all the time.
pub(crate) fn entries(map: BorrowedFd<'_>) -> io::Result<BTreeMap<u64, u32>> {
    let max = info::<RawMapInfo>(map)?.max_entries;
    let (mut entries, mut previous) = (BTreeMap::new(), None::<u64>);
    // The kernel starts again if another process has removed the previous key.
    for _ in 0..=u64::from(max) * 2 {
        let mut key = 0_u64;
        let start = previous.as_ref().map_or(0, |previous| address(previous));
        let attributes = element(map, start, address(&raw mut key));
        // SAFETY: the kernel reads 8 bytes of the previous key, if any, and writes 8 bytes to `key`. Both live until the call
        // returns.
        match unsafe { bpf(Command::MapGetNextKey, &attributes) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
            result => drop(result?),
        }
        let mut value = 0_u32;
        let attributes = element(map, address(&raw const key), address(&raw mut value));
        // SAFETY: the kernel reads 8 bytes of the key and writes 4 bytes to `value`. Both live until the call returns.
        match unsafe { bpf(Command::MapLookupElem, &attributes) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => {
                result?;
                entries.insert(key, value);
            }
        }
        previous = Some(key);
    }
    Err(io::Error::other("the map changes all the time"))
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64) -> MapElement {
    MapElement { map_fd: number(map.as_raw_fd()), padding: 0, key, value, flags: 0 }
}

/// Returns the kernel ID of a map.
///
/// # Errors
/// If the kernel does not report it.
pub(crate) fn id(map: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info::<RawMapInfo>(map)?.id)
}
