//! Computes data that an agent cannot compute itself: the credentials of a pod's role, user data from a Secret, and the text of
//! the identity document. The compiled pod decides what the pod may get. The agent's request does not.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use jiff::Timestamp;
use podmeta_agent_api::calls::{
    CredentialsRequest, CredentialsResponse, DocumentRequest, ProfileGeneration, UserDataResponse,
};
use podmeta_metadata::credentials::{Credentials, CredentialsFailure, FailureCause, SecretData, from_role_secret};
use podmeta_metadata::profile::{KeyRef, ProfileRef};
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::user_data;
use podmeta_metadata::workload::{UserData, Workload};

use crate::cluster::cluster_id::ClusterId;
use crate::credentials::request::{RoleRequest, resolve};
use crate::model::compiled_pod::CompiledPod;
use crate::model::index::SecretUnavailable;
use crate::model::state::OperatorState;

/// Reason why an agent's request for a pod's data is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The pod has no such role, user data or document.
    #[error("the pod has no {0}")]
    NotConfigured(&'static str),
    /// The API server has other addresses for the pod.
    #[error("the addresses are not those of the pod")]
    Address,
    /// Something that the profile refers to does not exist or is invalid.
    #[error("{0}")]
    Unavailable(String),
    /// The agent has a newer generation of the profile than this replica, or an object that the profile refers to was not
    /// read yet.
    #[error("this replica has not read that generation of the profile, or an object that it refers to, yet")]
    Behind,
}

/// The source of the credentials of a pod's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleSource {
    /// A Secret, or an invalid role. The response is complete.
    Ready(CredentialsResponse),
    /// A cloud, which must be called without the lock of the state.
    Cloud(Box<RoleRequest>),
}

/// Returns the credentials of a role from a Secret, or the request to a cloud for another role. A role that cannot be resolved
/// is a failed response, not an error. `cluster` is the ID of the cluster in external IDs.
///
/// # Errors
/// If the pod has no role in that dialect, or this replica is behind.
pub fn role_source(
    state: &OperatorState,
    pod: &CompiledPod,
    node: &str,
    request: &CredentialsRequest,
    cluster: &ClusterId,
    now: Timestamp,
) -> Result<RoleSource, BrokerError> {
    let workload = workload(pod, "role")?;
    if request.profile.as_ref().zip(pod.profile()).is_some_and(|(requested, known)| is_newer(requested, known)) {
        return Err(BrokerError::Behind);
    }
    let role = workload.role(request.dialect).ok_or(BrokerError::NotConfigured("role in this dialect"))?;
    let namespace = &workload.pod.namespace;
    match role.provider.secret_name() {
        Some(name) => {
            let credentials = from_role_secret(namespace, name, secret(state, namespace, name)?, now);
            Ok(RoleSource::Ready(to_response(credentials)))
        }
        None => match resolve(workload, request.dialect, node, cluster) {
            Ok(Some(request)) => Ok(RoleSource::Cloud(Box::new(request))),
            Ok(None) => Err(BrokerError::NotConfigured("profile of the role")),
            Err(error) => {
                let kind = role.provider.kind();
                let failure = CredentialsFailure::not_called(kind, error.to_string(), FailureCause::PolicyForbids, now);
                Ok(RoleSource::Ready(CredentialsResponse::Failed(failure)))
            }
        },
    }
}

/// Converts the result of a provider.
#[must_use]
pub fn to_response(credentials: Result<Credentials, CredentialsFailure>) -> CredentialsResponse {
    match credentials {
        Ok(credentials) => CredentialsResponse::Issued(credentials),
        Err(failure) => CredentialsResponse::Failed(failure),
    }
}

/// Returns a pod's user data from a Secret.
///
/// # Errors
/// If the pod has no user data in a Secret, or the value does not exist or is too long. [`BrokerError::Behind`] if the
/// agent requests another key than this replica knows.
pub fn user_data(
    state: &OperatorState,
    pod: &CompiledPod,
    requested: &KeyRef,
) -> Result<UserDataResponse, BrokerError> {
    let workload = workload(pod, "user data")?;
    let Some(UserData::Secret(key)) = &workload.instance.user_data else {
        return Err(BrokerError::NotConfigured("user data in a Secret"));
    };
    if key != requested {
        return Err(BrokerError::Behind);
    }
    let namespace = &workload.pod.namespace;
    let data = secret(state, namespace, &key.name)?;
    let data = user_data::from_secret(namespace, key, data).map_err(BrokerError::Unavailable)?;
    let text = base64::engine::general_purpose::STANDARD.encode(data);
    Ok(UserDataResponse { data: SecretString::new(text) })
}

/// Returns the text of a pod's identity document, to be signed.
///
/// # Errors
/// If the pod has no document in that dialect, or the addresses are not those of the pod.
pub fn document(pod: &CompiledPod, request: &DocumentRequest) -> Result<String, BrokerError> {
    let workload = workload(pod, "identity document")?;
    let link = &request.link;
    let requested = link.ipv4.iter().copied().map(IpAddr::from).chain(link.ipv6.iter().copied().map(IpAddr::from));
    let requested: BTreeSet<IpAddr> = requested.collect();
    // Until the kubelet has reported the addresses, the result of the CNI plugin is trusted.
    let known = &pod.item.addresses;
    if !known.is_empty() && !requested.iter().all(|address| known.contains(address)) {
        return Err(BrokerError::Address);
    }
    let text = request.dialect.protocol().document(workload, link, request.audience.as_deref());
    text.ok_or(BrokerError::NotConfigured("identity document in this dialect"))
}

fn workload<'p>(pod: &'p CompiledPod, what: &'static str) -> Result<&'p Workload, BrokerError> {
    pod.item.outcome.workload().ok_or(BrokerError::NotConfigured(what))
}

fn is_newer(requested: &ProfileGeneration, known: &ProfileRef) -> bool {
    requested.uid != known.uid || requested.generation > known.generation
}

/// Returns `None` if profiles cannot use the Secret.
fn secret<'s>(state: &'s OperatorState, namespace: &str, name: &str) -> Result<Option<&'s SecretData>, BrokerError> {
    match state.index().secret(namespace, name) {
        Ok(data) => Ok(Some(data)),
        Err(SecretUnavailable::NotUsable) => Ok(None),
        Err(SecretUnavailable::Unread) => Err(BrokerError::Behind),
    }
}
