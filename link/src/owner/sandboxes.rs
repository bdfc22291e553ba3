//! The sandboxes whose details are known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::alias::SandboxId;
use crate::cri::SandboxDetails;

/// Maximum number of sandboxes. A node has some hundred. Those that ended stay until there are too many.
const MAX_SANDBOXES: usize = 1024;

/// Details of sandboxes by their ID. A runtime gives each ID to one sandbox only.
#[derive(Debug, Default)]
pub(super) struct KnownSandboxes(Mutex<HashMap<SandboxId, Arc<SandboxDetails>>>);

impl KnownSandboxes {
    pub(super) fn get(&self, id: &SandboxId) -> Option<Arc<SandboxDetails>> {
        self.lock().get(id).cloned()
    }

    /// Adds a sandbox. Removes all others if there are too many.
    pub(super) fn add(&self, id: SandboxId, details: SandboxDetails) -> Arc<SandboxDetails> {
        let details = Arc::new(details);
        let mut sandboxes = self.lock();
        if sandboxes.len() >= MAX_SANDBOXES {
            sandboxes.clear();
        }
        sandboxes.insert(id, Arc::clone(&details));
        details
    }

    pub(super) fn remove(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<SandboxDetails>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_ids::UserIds;

    #[test]
    fn number_of_sandboxes_is_limited() {
        let sandboxes = KnownSandboxes::default();
        let id = |number: usize| SandboxId::try_from(format!("sandbox{number}").as_str()).unwrap();
        for number in 0..=MAX_SANDBOXES {
            let details = SandboxDetails {
                pod: None,
                pod_name: format!("shop/web-{number}"),
                network_namespace: None,
                users: UserIds::OfNode,
            };
            sandboxes.add(id(number), details);
        }
        assert_eq!(sandboxes.get(&id(0)), None);
        assert_eq!(sandboxes.get(&id(MAX_SANDBOXES)).unwrap().pod_name, format!("shop/web-{MAX_SANDBOXES}"));
        sandboxes.remove(&id(MAX_SANDBOXES));
        assert_eq!(sandboxes.get(&id(MAX_SANDBOXES)), None);
    }
}
