//! Locks by key: one request at a time for each node or address.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// One lock for each key. A lock is kept while it is held or waited for.
#[derive(Debug)]
pub struct KeyedLocks<Key>(Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>);

impl<Key> Default for KeyedLocks<Key> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Key: Clone + Eq + Hash> KeyedLocks<Key> {
    /// Returns the lock of a key.
    pub fn get(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_separate_locks_and_unused_locks_are_dropped() {
        let locks = KeyedLocks::default();
        let (one, again, other) = (locks.get(&"a"), locks.get(&"a"), locks.get(&"b"));
        let held = one.try_lock().unwrap();
        assert!(again.try_lock().is_err() && other.try_lock().is_ok());
        drop(held);
        drop((one, again, other));
        let _third = locks.get(&"c");
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
