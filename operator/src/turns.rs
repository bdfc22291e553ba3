//! Turns: of each who asks, one request at a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The turns of each, as long as somebody holds or waits for one.
#[derive(Debug)]
pub struct Turns<Who>(Mutex<HashMap<Who, Arc<tokio::sync::Mutex<()>>>>);

impl<Who> Default for Turns<Who> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Who: Clone + Eq + Hash> Turns<Who> {
    /// Where somebody's turns are waited for.
    pub fn of(&self, who: &Who) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(who.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_turns_of_its_own_and_nothing_is_kept_of_those_who_are_done() {
        let turns = Turns::default();
        let (one, again, other) = (turns.of(&"a"), turns.of(&"a"), turns.of(&"b"));
        let held = one.try_lock().unwrap();
        assert!(again.try_lock().is_err() && other.try_lock().is_ok());
        drop(held);
        drop((one, again, other));
        let _third = turns.of(&"c");
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
