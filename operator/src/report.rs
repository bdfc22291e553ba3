//! What the leader tells the cluster: the status of profiles, and events where it changed for the worse or the better.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PROGRAMMED};
use podmeta_crds::metadataprofile::{MetadataProfile, MetadataProfileStatus};
use podmeta_metadata::profile::ProfileRef;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::index::ProfileKey;
use crate::metrics::Metrics;
use crate::reconcile::Shared;
use crate::status;

/// How long changes are collected before they are said, so that a rollout of many pods is a few writes.
const COLLECT: Duration = Duration::from_millis(250);

/// How long a new leader waits for the reports of agents before it says of pods that their agents do not have them. They
/// report every 12 to 25 seconds.
const GRACE: Duration = Duration::from_secs(30);

/// How long agents may take to have a new pod of a profile that all of them have: pods come all the time, and each would be
/// two writes.
const MOMENT: Duration = Duration::from_secs(3);

/// How often every profile is looked at: that the keys of a Secret have expired no change tells.
const REVIEW: Duration = Duration::from_secs(300);

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The name that fields and events are written under.
pub const MANAGER: &str = "podmeta-operator";

/// Says what changed of profiles, as long as this replica is the leader.
pub async fn run(
    shared: Arc<Shared>,
    client: Client,
    recorder: Recorder,
    mut leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let leading = async {
        loop {
            tokio::select! {
                led = leads.wait_for(|leads| *leads) => if led.is_err() { return },
                () = say_nothing(&shared) => {}
            }
            shared.all_profiles_touched();
            tokio::select! {
                () = lead(&shared, &client, &recorder) => {}
                _ = leads.wait_for(|leads| !*leads) => tracing::info!("another replica leads now; this one writes no status"),
            }
            shared.forget_reports();
        }
    };
    stop.run_until_cancelled(leading).await;
}

/// Forgets what could be said, so that profiles that are gone are not remembered while another replica leads.
async fn say_nothing(shared: &Shared) {
    loop {
        shared.touched().await;
        drop(shared.take_touched());
    }
}

async fn lead(shared: &Shared, client: &Client, recorder: &Recorder) {
    let since = Instant::now();
    let mut pending = HashMap::new();
    tracing::info!("this replica leads: it writes status and events");
    let mut later = std::collections::BTreeSet::new();
    let mut reviewed = since;
    loop {
        let again = if later.is_empty() { REVIEW } else { Duration::from_secs(1) };
        // Nothing is lost if this ends early: what is touched stays so until it is taken.
        drop(tokio::time::timeout(again, shared.touched()).await);
        if reviewed.elapsed() >= REVIEW {
            reviewed = Instant::now();
            shared.all_profiles_touched();
        }
        tokio::time::sleep(COLLECT).await;
        let mut profiles = shared.take_touched();
        profiles.append(&mut later);
        for profile in profiles {
            let hold = Hold { all_reported: since.elapsed() > GRACE, pending: &mut pending };
            match say(shared, client, recorder, &profile, hold).await {
                Ok(Said::All) => drop(pending.remove(&profile)),
                Ok(Said::Later) => drop(later.insert(profile)),
                Err(error) => {
                    let ProfileKey { namespace, name } = &profile;
                    tracing::warn!(%namespace, %name, "the status of a MetadataProfile could not be written; it is tried again: {error:#}");
                    later.insert(profile);
                }
            }
        }
    }
}

/// Why a status may be held back for a moment.
struct Hold<'h> {
    /// Whether this leader has led for so long that all agents have reported.
    all_reported: bool,
    /// Since when a profile only waits for agents to take in new pods.
    pending: &'h mut HashMap<ProfileKey, Instant>,
}

enum Said {
    All,
    /// Agents have not reported yet.
    Later,
}

async fn say(shared: &Shared, client: &Client, recorder: &Recorder, key: &ProfileKey, hold: Hold<'_>) -> Result<Said> {
    let now = Timestamp::now();
    let Some((profile, previous, observed)) = shared.world().observe(key, now) else { return Ok(Said::All) };
    if observed.unreported && !hold.all_reported {
        return Ok(Said::Later);
    }
    let next = status::next(previous.as_ref(), &observed, now);
    if previous.as_ref() == Some(&next) {
        return Ok(Said::All);
    }
    let waits = status::only_waits(previous.as_ref(), &next);
    if waits && hold.pending.entry(key.clone()).or_insert_with(Instant::now).elapsed() < MOMENT {
        return Ok(Said::Later);
    }
    if !write(client, &profile, &next, &shared.metrics).await? {
        return Ok(Said::All);
    }
    shared.world_mut().said(&profile, next.clone());
    for event in events(previous.as_ref(), &next) {
        let reference = ObjectReference {
            api_version: Some(podmeta_crds::crd::API_VERSION.to_owned()),
            kind: Some(MetadataProfile::kind(&()).into_owned()),
            namespace: Some(profile.namespace.clone()),
            name: Some(profile.name.clone()),
            uid: Some(profile.uid.clone()),
            ..ObjectReference::default()
        };
        if let Ok(Err(error)) = tokio::time::timeout(ANSWER, recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, "an event could not be written");
        }
    }
    Ok(Said::All)
}

/// Whether the profile is still there. The UID makes the API server refuse a profile that only has the same name.
async fn write(
    client: &Client,
    profile: &ProfileRef,
    status: &MetadataProfileStatus,
    metrics: &Metrics,
) -> Result<bool> {
    let body = json!({
        "apiVersion": podmeta_crds::crd::API_VERSION,
        "kind": MetadataProfile::kind(&()),
        "metadata": {"name": profile.name, "namespace": profile.namespace, "uid": profile.uid},
        "status": status,
    });
    let api: Api<MetadataProfile> = Api::namespaced(client.clone(), &profile.namespace);
    let params = PatchParams::apply(MANAGER).force();
    metrics.status_written();
    let body = Patch::Apply(&body);
    let written = tokio::time::timeout(ANSWER, api.patch_status(&profile.name, &params, &body)).await;
    match written.context("the API server takes too long to answer")? {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("MetadataProfile {}/{}", profile.namespace, profile.name)),
    }
}

/// The events that a change of status is worth: a warning for what became wrong, in its own words, and a word when all
/// agents have it.
fn events(previous: Option<&MetadataProfileStatus>, next: &MetadataProfileStatus) -> Vec<Event> {
    let before = |kind: &str| previous.and_then(|status| status.conditions.iter().find(|before| before.type_ == kind));
    let changed = |condition: &&Condition| {
        before(&condition.type_)
            .is_none_or(|before| (&before.status, &before.reason) != (&condition.status, &condition.reason))
    };
    let worth = next.conditions.iter().filter(changed).filter_map(|condition| {
        let type_ = match (condition.type_.as_str(), condition.status.as_str()) {
            (ACCEPTED | CREDENTIALS_READY, "False") | (CONFLICTED, "True") => EventType::Warning,
            (PROGRAMMED, "True") if condition.reason != "NoPods" => EventType::Normal,
            _ => return None,
        };
        Some(Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(condition.message.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        })
    });
    worth.collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> MetadataProfileStatus {
        let condition = |(kind, status, reason): &(&str, &str, &str)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "why".to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        MetadataProfileStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() }
    }

    #[test]
    fn what_became_wrong_is_a_warning_once_and_what_stays_so_is_none() {
        let bad = status(&[
            (ACCEPTED, "False", "Invalid"),
            (CONFLICTED, "True", "Conflicted"),
            (PROGRAMMED, "False", "Pending"),
        ]);
        let said: Vec<_> = events(None, &bad).into_iter().map(|event| (event.type_, event.reason)).collect();
        assert_eq!(said, [(EventType::Warning, "Invalid".to_owned()), (EventType::Warning, "Conflicted".to_owned())]);
        assert!(events(Some(&bad), &bad).is_empty());
        let other = status(&[(ACCEPTED, "False", "PolicyForbids")]);
        assert_eq!(events(Some(&bad), &other)[0].reason, "PolicyForbids");
    }

    #[test]
    fn that_all_agents_have_it_is_worth_a_word_and_that_there_are_no_pods_is_not() {
        let programmed = status(&[(ACCEPTED, "True", "Accepted"), (PROGRAMMED, "True", "Programmed")]);
        let said = events(None, &programmed);
        assert_eq!((said.len(), said[0].type_), (1, EventType::Normal));
        assert!(events(None, &status(&[(PROGRAMMED, "True", "NoPods")])).is_empty());
    }
}
