//! Leader election with a Lease. Only the leader writes status, conditions and their events. Every replica serves agents.
//!
//! The rules are those of client-go. A replica acquires a Lease whose holder has not renewed it for its whole duration,
//! measured with the replica's own clock. A leader that cannot renew the Lease in time stops before another can start.
//!
//! No maintained crate fits kube 5 (checked in November 2026). kube-leader-election 0.44 needs kube 4, kubert 0.25 needs
//! kube 1.1, and kube-coordinate 2.0.0-rc.0 needs kube 2. A second kube would double the client and its TLS. The leader
//! also publishes its address in the Lease, which these crates do not do.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::ApiTimeout;
use crate::cluster::events::format_chain;
use crate::model::update::StateUpdate;
use crate::text::format_object;

/// The time after its last renewal at which a Lease expires.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// The time after its last renewal at which a leader stops leading. It must be shorter than [`LEASE_DURATION`].
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The timeout of reading and writing the Lease.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// The interval at which the leader renews the Lease and other replicas read it.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// The annotation with the address at which agents reach the leader, `ADDRESS:PORT`.
const ADDRESS_ANNOTATION: &str = "podmeta.dev/address";

/// Acquires and renews the Lease for one replica.
pub struct LeaderElector {
    api: Api<Lease>,
    name: String,
    /// The namespace and name of the Lease, for the log.
    lease: String,
    /// The replica's pod name.
    identity: String,
    /// The address at which agents reach this replica, `ADDRESS:PORT`.
    address: String,
}

/// The current leader, as this replica knows it.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// True if this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
    /// The address of the leader, or `None` if it is not known.
    pub address: watch::Receiver<Option<String>>,
}

/// A resource version of the Lease, and when this replica saw it first.
struct ObservedLease {
    version: Option<String>,
    since: Instant,
}

impl LeaderElector {
    /// Creates an elector for a Lease in the operator's namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, address: String) -> Self {
        let (api, lease) = (Api::namespaced(client, namespace), format_object(Some(namespace), name));
        Self { api, name: name.to_owned(), lease, identity, address }
    }

    /// Returns the leadership and a future that acquires and renews the Lease until `stop` is cancelled. Then it releases
    /// the Lease.
    pub fn run(self, stop: CancellationToken) -> (Leadership, impl Future<Output = ()>) {
        let (is_leader_tx, is_leader) = watch::channel(false);
        let (address_tx, address) = watch::channel(None);
        let run = async move {
            let mut observed: Option<ObservedLease> = None;
            let mut renewed = Instant::now();
            let publish = |is_leader: bool, address: Option<String>| {
                is_leader_tx.send_if_modified(|known| std::mem::replace(known, is_leader) != is_leader);
                address_tx.send_if_modified(|known| std::mem::replace(known, address.clone()) != address);
            };
            loop {
                let started = Instant::now();
                let result = tokio::time::timeout(API_TIMEOUT, self.acquire_or_renew(&mut observed)).await;
                match result.unwrap_or(Err(ApiTimeout.into())) {
                    Ok(LeaseState::Held) => {
                        // The Lease counts from the request, not from the response.
                        renewed = started;
                        publish(true, Some(self.address.clone()));
                    }
                    Ok(LeaseState::HeldByOther(address)) => publish(false, address),
                    Err(error) => {
                        tracing::warn!(lease = %self.lease, error = %format_chain(&error), "cannot read or renew the Lease; retrying");
                        if renewed.elapsed() > RENEW_DEADLINE {
                            publish(false, None);
                        }
                    }
                }
                if stop.run_until_cancelled(tokio::time::sleep(RENEW_INTERVAL)).await.is_none() {
                    break;
                }
            }
            let was_leader = is_leader_tx.send_replace(false);
            if was_leader {
                match tokio::time::timeout(API_TIMEOUT, self.release()).await.unwrap_or(Err(ApiTimeout.into())) {
                    Ok(()) => tracing::info!(lease = %self.lease, "released the Lease"),
                    Err(error) => {
                        tracing::warn!(lease = %self.lease, error = %format_chain(&error), "cannot release the Lease; it expires by itself");
                    }
                }
            }
        };
        (Leadership { is_leader, address }, run)
    }

    async fn acquire_or_renew(&self, observed: &mut Option<ObservedLease>) -> Result<LeaseState, LeaseError> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let mut lease =
                Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: None };
            self.set_holder(&mut lease, Timestamp::now());
            return to_state(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if observed.as_ref().is_none_or(|observed| observed.version != version) {
            *observed = Some(ObservedLease { version, since: Instant::now() });
        }
        let unchanged = observed.as_ref().map_or(Duration::ZERO, |observed| observed.since.elapsed());
        if !can_acquire(lease.spec.as_ref(), &self.identity, unchanged) {
            let annotations = lease.metadata.annotations.unwrap_or_default();
            return Ok(LeaseState::HeldByOther(annotations.get(ADDRESS_ANNOTATION).cloned()));
        }
        self.set_holder(&mut lease, Timestamp::now());
        to_state(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn set_holder(&self, lease: &mut Lease, now: Timestamp) {
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |transitions| transitions + 1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(MicroTime(now));
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(ADDRESS_ANNOTATION.to_owned(), self.address.clone());
    }

    async fn release(&self) -> Result<(), LeaseError> {
        let mut lease = self.api.get(&self.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// Sends each change of the leadership to the reconcile task. Returns when the elector or the reconcile task ends.
pub async fn forward_leadership(mut is_leader_rx: watch::Receiver<bool>, updates_tx: mpsc::Sender<StateUpdate>) {
    let mut sent = false;
    while is_leader_rx.changed().await.is_ok() {
        let is_leader = *is_leader_rx.borrow_and_update();
        // The channel keeps only the last value. An unchanged value means that two changes were merged.
        let missed = (is_leader == sent).then_some(!is_leader);
        for is_leader in missed.into_iter().chain([is_leader]) {
            if updates_tx.send(StateUpdate::Leadership(is_leader)).await.is_err() {
                return;
            }
        }
        sent = is_leader;
    }
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Timeout(#[from] ApiTimeout),
}

#[derive(Debug, PartialEq, Eq)]
enum LeaseState {
    Held,
    /// With the address of the leader, if it is known.
    HeldByOther(Option<String>),
}

/// Returns the state after the Lease was written. 409: another replica wrote it first.
fn to_state(written: Result<Lease, kube::Error>) -> Result<LeaseState, LeaseError> {
    match written {
        Ok(_) => Ok(LeaseState::Held),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(LeaseState::HeldByOther(None)),
        Err(error) => Err(error.into()),
    }
}

/// Returns true if a replica may hold the Lease: it already holds it, the Lease has no holder, or it has expired. `unchanged` is
/// the time for which this replica has seen the same resource version.
fn can_acquire(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> bool {
    let Some(holder) = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty())
    else {
        return true;
    };
    let seconds = lease.and_then(|lease| lease.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    holder == identity || unchanged > seconds.map_or(LEASE_DURATION, Duration::from_secs)
}
