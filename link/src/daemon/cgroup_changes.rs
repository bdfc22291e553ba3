//! Runs a check after each new cgroup of a pod or a container.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::events::{self, Events};
use crate::guard::uplink::cgroups;

/// Interval of checks without an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval of checks. A pod that starts causes several events.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum number of lists of the cgroups for one set of watches. Pods can start all the time.
const MAX_LISTS: usize = 3;

/// Runs a check at the start, after each new cgroup of a pod or a container, and at an interval. Does not return.
///
/// The runtime reports a sandbox before it creates the first container. The cgroup of that container starts a check, so a new pod is
/// found before or shortly after its first process runs.
pub(super) async fn check_after_changes(cgroup_root: &Path, mut check: impl AsyncFnMut()) {
    loop {
        // Watches start before the check, so a cgroup that is created meanwhile is an event.
        let events = watch(cgroup_root);
        check().await;
        sleep(MIN_CHECK_INTERVAL).await;
        let waited = match events {
            Ok(events) => spawn_blocking(move || events::wait(&[&events], CHECK_INTERVAL)).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            tracing::error!(%error, "cannot watch the cgroups of pods, so new exempt pods are found late; retrying");
            sleep(CHECK_INTERVAL).await;
        }
    }
}

/// Watches the cgroups of pods for new entries. Lists them again: one that was created before its parent was watched has no watch.
fn watch(cgroup_root: &Path) -> io::Result<Events> {
    let mut directories = cgroups::pod_directories(cgroup_root);
    for _ in 1..MAX_LISTS {
        let events = Events::of_new_entries(&directories)?;
        let watched = directories.into_iter().collect::<BTreeSet<_>>();
        directories = cgroups::pod_directories(cgroup_root);
        if directories.iter().all(|directory| watched.contains(directory)) {
            return Ok(events);
        }
    }
    Events::of_new_entries(&directories)
}
