//! Which replica leads: the one that holds a Lease. Only the leader writes status and events; every replica serves agents.
//!
//! The rules are those of client-go: a Lease whose holder has not renewed it for its whole duration, by the watcher's own
//! clock, may be taken; a leader that could not renew it in time stops leading before another may start.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a Lease holds that is not renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader that cannot renew it goes on.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Where the leader answers agents.
const ADDRESS: &str = "podmeta.dev/address";

/// One replica as a candidate.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    /// Which replica: its pod's name.
    identity: String,
    /// Where agents reach it, `ADDRESS:PORT`.
    address: String,
}

/// Who leads, as this replica sees it.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// Whether this replica does.
    pub leads: watch::Receiver<bool>,
    /// Where the leader answers agents, if one leads.
    pub address: watch::Receiver<Option<String>>,
}

/// What is known of a Lease that somebody else holds.
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Candidate {
    /// A candidate for a Lease of the operator's namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, address: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, address }
    }

    /// Stands for the Lease until it is stopped, and gives it up then.
    pub fn run(self, stop: CancellationToken) -> (Leadership, impl Future<Output = ()>) {
        let (leads, leading) = watch::channel(false);
        let (leader, address) = watch::channel(None);
        let leadership = Leadership { leads: leading, address };
        let run = async move {
            let mut seen: Option<Seen> = None;
            let mut renewed = Instant::now();
            loop {
                let asked = Instant::now();
                let looked = tokio::time::timeout(ANSWER, self.look(&mut seen)).await;
                match looked.unwrap_or(Err(Error::TooLong)) {
                    Ok(Look::Mine) => {
                        // The Lease holds from when it was asked for, not from when the answer came.
                        renewed = asked;
                        leads.send_if_modified(|leads| !std::mem::replace(leads, true));
                        leader.send_if_modified(|known| {
                            known.replace(self.address.clone()).as_ref() != Some(&self.address)
                        });
                    }
                    Ok(Look::Theirs(address)) => {
                        leads.send_if_modified(|leads| std::mem::replace(leads, false));
                        leader.send_if_modified(|known| std::mem::replace(known, address.clone()) != address);
                    }
                    Err(error) => {
                        tracing::warn!(%error, lease = %self.name, "the Lease could not be renewed or looked at; it is tried again");
                        if renewed.elapsed() > DEADLINE {
                            leads.send_if_modified(|leads| std::mem::replace(leads, false));
                            leader.send_if_modified(|known| known.take().is_some());
                        }
                    }
                }
                if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                    break;
                }
            }
            if leads.send_if_modified(|leads| std::mem::replace(leads, false))
                && let Ok(Err(error)) = tokio::time::timeout(ANSWER, self.give_up()).await
            {
                tracing::info!(%error, "the Lease could not be given up; it ends by itself");
            }
        };
        (leadership, run)
    }

    async fn look(&self, seen: &mut Option<Seen>) -> Result<Look, Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let mut lease =
                Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: None };
            self.hold(&mut lease, Timestamp::now());
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if seen.as_ref().is_none_or(|seen| seen.version != version) {
            *seen = Some(Seen { version, at: Instant::now() });
        }
        let unchanged = seen.as_ref().map_or(Duration::ZERO, |seen| seen.at.elapsed());
        if !may_hold(lease.spec.as_ref(), &self.identity, unchanged) {
            let annotations = lease.metadata.annotations.unwrap_or_default();
            return Ok(Look::Theirs(annotations.get(ADDRESS).cloned()));
        }
        self.hold(&mut lease, Timestamp::now());
        taken(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn hold(&self, lease: &mut Lease, now: Timestamp) {
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |transitions| transitions + 1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(MicroTime(now));
        lease.metadata.annotations.get_or_insert_default().insert(ADDRESS.to_owned(), self.address.clone());
    }

    async fn give_up(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(&self.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("the API server takes too long to answer")]
    TooLong,
}

enum Look {
    Mine,
    Theirs(Option<String>),
}

/// Whether writing the Lease made it ours: somebody else may have been first.
fn taken(written: Result<Lease, kube::Error>) -> Result<Look, Error> {
    match written {
        Ok(_) => Ok(Look::Mine),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Theirs(None)),
        Err(error) => Err(error.into()),
    }
}

/// Whether a Lease may be held by a candidate: it holds it already, nobody does, or its holder has let it end. `unchanged`
/// is for how long this replica has seen it as it is.
fn may_hold(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> bool {
    let Some(holder) = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty())
    else {
        return true;
    };
    let seconds = lease.and_then(|lease| lease.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    holder == identity || unchanged > seconds.map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
    }

    #[test]
    fn a_lease_is_taken_that_nobody_holds_or_whose_holder_let_it_end() {
        for (lease, unchanged, expected) in [
            (None, 0, true),
            (Some(LeaseSpec::default()), 0, true),
            (Some(held_by("")), 0, true),
            (Some(held_by("me")), 0, true),
            (Some(held_by("other")), 15, false),
            (Some(held_by("other")), 16, true),
        ] {
            assert_eq!(
                may_hold(lease.as_ref(), "me", Duration::from_secs(unchanged)),
                expected,
                "{lease:?} {unchanged}"
            );
        }
    }
}
