//! Writes the status of profiles, and an event when a condition changes. Only the leader runs it.

mod changes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::{Client, Resource as _};
use podmeta_crds::metadataprofile::{MetadataProfile, MetadataProfileStatus};
use podmeta_metadata::profile::ProfileRef;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{ApiTimeout, FIELD_MANAGER, events};
use crate::model::compiled_pod::ProfileKey;
use crate::model::status;
use crate::model::update::StateUpdate;
use crate::reconcile::SharedState;

/// The delay between a change and its status write, so that a rollout of many pods causes few writes.
const COLLECT_INTERVAL: Duration = Duration::from_millis(250);

/// The time after the start of its term in which a leader does not write the status of a profile with pods whose agents have not
/// reported yet. Agents report every 12 to 25 seconds.
const NEW_LEADER_GRACE: Duration = Duration::from_secs(30);

/// The time that an agent has to receive a new pod before the profile becomes pending. Without it, each new pod would
/// cause two writes.
const PENDING_GRACE: Duration = Duration::from_secs(3);

/// The delay before a profile is checked again if the write of its status failed or was postponed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The interval at which all profiles are checked. Credentials in Secrets expire without an event.
const RESYNC_INTERVAL: Duration = Duration::from_secs(300);

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The status writer.
pub struct StatusWriter {
    shared: Arc<SharedState>,
    updates_tx: mpsc::Sender<StateUpdate>,
    client: Client,
    recorder: Recorder,
}

/// The result of checking one profile.
#[derive(Debug, PartialEq, Eq)]
enum ProfileCheck {
    /// The status is up to date, or the profile was deleted.
    UpToDate,
    /// The status changed, and is not written yet.
    Waiting,
}

/// State of one term as leader.
struct Term {
    started: Instant,
    /// Time of the last check of all profiles.
    resynced: Instant,
    /// The profiles whose write failed or was postponed.
    retry: BTreeSet<ProfileKey>,
    /// Time since which the only unwritten change of a profile is that new pods are pending.
    pending_since: HashMap<ProfileKey, Instant>,
    /// One receiver for each written status. It completes when the state holds the status.
    applied: Vec<oneshot::Receiver<()>>,
}

impl Term {
    fn new() -> Self {
        let now = Instant::now();
        let (retry, pending_since, applied) = (BTreeSet::new(), HashMap::new(), Vec::new());
        Self { started: now, resynced: now, retry, pending_since, applied }
    }
}

impl StatusWriter {
    /// Creates a status writer.
    #[must_use]
    pub fn new(
        shared: Arc<SharedState>,
        updates_tx: mpsc::Sender<StateUpdate>,
        client: Client,
        recorder: Recorder,
    ) -> Self {
        Self { shared, updates_tx, client, recorder }
    }

    /// Writes status while this replica is the leader. Returns when `stop` is cancelled or the elector ends.
    pub async fn run(self, mut is_leader: watch::Receiver<bool>, stop: CancellationToken) {
        let run = async {
            while is_leader.wait_for(|is_leader| *is_leader).await.is_ok() {
                tracing::info!("became the leader; writing status and events");
                tokio::select! {
                    () = self.lead() => {}
                    _ = is_leader.wait_for(|is_leader| !*is_leader) => {}
                }
                tracing::info!("stopped being the leader; writing no status");
            }
        };
        stop.run_until_cancelled(run).await;
    }

    /// Writes status during one term as leader. Never returns.
    async fn lead(&self) {
        let mut term = Term::new();
        loop {
            let timeout = if term.retry.is_empty() { RESYNC_INTERVAL } else { RETRY_DELAY };
            // The timeout is not an error: it ends the wait, so that profiles are checked without a change.
            let _timeout = tokio::time::timeout(timeout, self.shared.status_queue().added()).await;
            tokio::time::sleep(COLLECT_INTERVAL).await;
            self.check_changed(&mut term).await;
        }
    }

    /// Checks the profiles in the queue and those to retry, and all profiles once in each [`RESYNC_INTERVAL`]. Returns when the
    /// state holds the written statuses.
    async fn check_changed(&self, term: &mut Term) {
        let mut profiles = self.shared.status_queue().take();
        profiles.append(&mut term.retry);
        if term.resynced.elapsed() >= RESYNC_INTERVAL {
            term.resynced = Instant::now();
            profiles.extend(self.shared.read().index().profile_keys());
        }
        for profile in profiles {
            match self.write_if_changed(&profile, term).await {
                Ok(ProfileCheck::UpToDate) => drop(term.pending_since.remove(&profile)),
                Ok(ProfileCheck::Waiting) => drop(term.retry.insert(profile)),
                Err(error) => {
                    tracing::warn!(
                        %profile,
                        error = format!("{error:#}"),
                        "cannot write the status of a MetadataProfile; retrying"
                    );
                    term.retry.insert(profile);
                }
            }
        }
        // Wait until the state holds the written statuses. Otherwise the same statuses would be written again.
        for applied in term.applied.drain(..) {
            let _stopped = applied.await;
        }
    }

    /// Writes the status of a profile if it changed.
    async fn write_if_changed(&self, key: &ProfileKey, term: &mut Term) -> Result<ProfileCheck> {
        let now = Timestamp::now();
        let Some((profile, previous, observed)) = self.shared.read().observe(key, now) else {
            return Ok(ProfileCheck::UpToDate);
        };
        if observed.has_unreported_nodes && term.started.elapsed() <= NEW_LEADER_GRACE {
            return Ok(ProfileCheck::Waiting);
        }
        let next = status::next(previous.as_ref(), &observed, now);
        if previous.as_ref() == Some(&next) {
            return Ok(ProfileCheck::UpToDate);
        }
        if status::is_only_pending(previous.as_ref(), &next)
            && term.pending_since.entry(key.clone()).or_insert_with(Instant::now).elapsed() < PENDING_GRACE
        {
            return Ok(ProfileCheck::Waiting);
        }
        if self.write(&profile, &next).await? {
            let (applied_tx, applied) = oneshot::channel();
            let update =
                StateUpdate::StatusWritten { profile: profile.clone(), status: next.clone(), applied: applied_tx };
            self.updates_tx.send(update).await.context("the reconcile task has ended")?;
            term.applied.push(applied);
            self.publish_events(&profile, previous.as_ref(), &next).await;
        }
        Ok(ProfileCheck::UpToDate)
    }

    /// Writes a status. Returns false if the profile was deleted: the UID makes the API server reject (409) another
    /// profile with the same name.
    async fn write(&self, profile: &ProfileRef, status: &MetadataProfileStatus) -> Result<bool> {
        let body = json!({
            "apiVersion": podmeta_crds::crd::API_VERSION,
            "kind": MetadataProfile::kind(&()),
            "metadata": {"name": profile.name, "namespace": profile.namespace, "uid": profile.uid},
            "status": status,
        });
        let api: Api<MetadataProfile> = Api::namespaced(self.client.clone(), &profile.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.shared.metrics.count_status_write();
        let body = Patch::Apply(&body);
        let written = tokio::time::timeout(API_TIMEOUT, api.patch_status(&profile.name, &params, &body)).await;
        match written.map_err(|_| ApiTimeout)? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn publish_events(
        &self,
        profile: &ProfileRef,
        previous: Option<&MetadataProfileStatus>,
        next: &MetadataProfileStatus,
    ) {
        let object = events::profile_reference(&profile.namespace, &profile.name, &profile.uid);
        for event in changes::events(previous, next) {
            events::publish(&self.recorder, event, &object).await;
        }
    }
}
