//! Counts of what the link daemon repaired and made since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counters that the tasks of the daemon share.
#[derive(Debug, Default)]
pub struct Counters {
    rules: AtomicU64,
    tables: AtomicU64,
    programs: AtomicU64,
    links_made: AtomicU64,
    links_failed: AtomicU64,
    conflist_writes: AtomicU64,
}

/// Values of [`Counters`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterSnapshot {
    /// Routing rules of the guard that were missing and have been added.
    pub rules_repaired: u64,
    /// Tables of the guard that were missing or changed and have been written.
    pub tables_repaired: u64,
    /// Programs of the uplink guard that another program removed, replaced or preceded and that have been attached again.
    pub programs_repaired: u64,
    /// Links that the daemon made. Those of the CNI plugin are not counted.
    pub links_made: u64,
    /// Attempts of the daemon to make a link that failed.
    pub links_failed: u64,
    /// Writes of podmeta's CNI configuration.
    pub conflist_writes: u64,
}

/// Number of objects of the guards that were missing or changed and have been added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Routing rules.
    pub rules: usize,
    /// Tables of nftables.
    pub tables: usize,
}

impl Counters {
    /// Adds repairs of the guards.
    pub(crate) fn add_repairs(&self, repairs: Repairs) {
        self.rules.fetch_add(repairs.rules as u64, Ordering::Relaxed);
        self.tables.fetch_add(repairs.tables as u64, Ordering::Relaxed);
    }

    /// Adds programs of the uplink guard that were attached.
    pub(crate) fn add_programs(&self, programs: usize) {
        self.programs.fetch_add(programs as u64, Ordering::Relaxed);
    }

    /// Adds one link that was made.
    pub(crate) fn add_link_made(&self) {
        self.links_made.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one failed attempt to make a link.
    pub(crate) fn add_link_failed(&self) {
        self.links_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one write of the CNI configuration.
    pub(crate) fn add_conflist_write(&self) {
        self.conflist_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current values.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            rules_repaired: self.rules.load(Ordering::Relaxed),
            tables_repaired: self.tables.load(Ordering::Relaxed),
            programs_repaired: self.programs.load(Ordering::Relaxed),
            links_made: self.links_made.load(Ordering::Relaxed),
            links_failed: self.links_failed.load(Ordering::Relaxed),
            conflist_writes: self.conflist_writes.load(Ordering::Relaxed),
        }
    }
}
