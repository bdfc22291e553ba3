//! The sandboxes whose details are known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::alias::SandboxId;
use crate::cri::SandboxDetails;

/// Maximum number of sandboxes. A node has some hundred. Those that ended stay until there are too many.
const MAX_SANDBOXES: usize = 1024;

/// Time after which incomplete details are read again. The container runtime can report the rest then.
const INCOMPLETE_DETAILS_TTL: Duration = Duration::from_secs(60);

/// Details of sandboxes and the time at which they were read, by the ID of the sandbox. A runtime gives each ID to one
/// sandbox only.
#[derive(Debug, Default)]
pub(super) struct KnownSandboxes(Mutex<HashMap<SandboxId, (Instant, Arc<SandboxDetails>)>>);

impl KnownSandboxes {
    /// Returns the details of a sandbox, or `None` if they must be read.
    pub(super) fn get(&self, id: &SandboxId, now: Instant) -> Option<Arc<SandboxDetails>> {
        let sandboxes = self.lock();
        let (read_at, details) = sandboxes.get(id)?;
        let is_valid = details.is_complete() || now.saturating_duration_since(*read_at) < INCOMPLETE_DETAILS_TTL;
        is_valid.then(|| Arc::clone(details))
    }

    /// Adds a sandbox. Removes all others if there are too many.
    pub(super) fn add(&self, id: SandboxId, details: SandboxDetails, now: Instant) -> Arc<SandboxDetails> {
        let details = Arc::new(details);
        let mut sandboxes = self.lock();
        if sandboxes.len() >= MAX_SANDBOXES {
            sandboxes.clear();
        }
        sandboxes.insert(id, (now, Arc::clone(&details)));
        details
    }

    pub(super) fn remove(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, (Instant, Arc<SandboxDetails>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_ids::UserIds;

    fn id(number: usize) -> SandboxId {
        SandboxId::try_from(format!("sandbox{number}").as_str()).unwrap()
    }

    fn details(number: usize) -> SandboxDetails {
        SandboxDetails {
            pod: Some(format!("uid-{number}").as_str().try_into().unwrap()),
            network: crate::cri::NetworkMode::Pod,
            pod_name: format!("shop/web-{number}"),
            network_namespace: Some("/run/netns/cni-1".into()),
            users: UserIds::OfNode,
        }
    }

    #[test]
    fn number_of_sandboxes_is_limited() {
        let (sandboxes, now) = (KnownSandboxes::default(), Instant::now());
        for number in 0..=MAX_SANDBOXES {
            sandboxes.add(id(number), details(number), now);
        }
        assert_eq!(sandboxes.get(&id(0), now), None);
        assert_eq!(sandboxes.get(&id(MAX_SANDBOXES), now).unwrap().pod_name, format!("shop/web-{MAX_SANDBOXES}"));
        sandboxes.remove(&id(MAX_SANDBOXES));
        assert_eq!(sandboxes.get(&id(MAX_SANDBOXES), now), None);
    }

    #[test]
    fn incomplete_details_are_kept_for_a_minute() {
        let (sandboxes, start) = (KnownSandboxes::default(), Instant::now());
        let is_known = |seconds| sandboxes.get(&id(0), start + Duration::from_secs(seconds)).is_some();
        sandboxes.add(id(0), details(0), start);
        assert!(is_known(100_000));
        for incomplete in [
            SandboxDetails { pod: None, ..details(0) },
            SandboxDetails { network_namespace: None, ..details(0) },
            SandboxDetails { users: UserIds::Unknown, ..details(0) },
        ] {
            let text = format!("{incomplete:?}");
            sandboxes.add(id(0), incomplete, start);
            assert!(is_known(59), "{text}");
            assert!(!is_known(60), "{text}");
        }
    }
}
