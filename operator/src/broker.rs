//! Gets what agents ask for a pod and cannot have by themselves: credentials of its role, its user data from a Secret, its
//! signed document. What a pod may have follows from what was compiled for it, never from what the agent says.

use base64::Engine as _;
use jiff::Timestamp;
use podmeta_agent_api::calls::{Credentials, DocumentRequest, Generation, PodInDialect, UserData};
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::credentials::{CredentialsFailure, from_secret};
use podmeta_metadata::profile::{KeyRef, MAX_USER_DATA_BYTES, ProfileRef};
use podmeta_metadata::role::Provider;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::workload::{UserData as Data, Workload};

use crate::index::Entry;
use crate::world::{NoSecret, World};

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pod has no such thing.
    #[error("the pod has no {0}")]
    None(&'static str),
    /// The API server says that its addresses are others.
    #[error("these are not the pod's addresses")]
    Address,
    /// Something is missing that its profile names.
    #[error("{0}")]
    Missing(String),
    /// The agent has a newer generation of the profile than this replica, or what that names has not been read here yet.
    #[error("the profile is newer than what is known here")]
    Behind,
}

fn served<'e>(entry: &'e Entry, what: &'static str) -> Result<&'e Workload, Refusal> {
    match &entry.item.outcome {
        Outcome::Served(workload) => Ok(workload),
        Outcome::Denied(_) | Outcome::Node(_) => Err(Refusal::None(what)),
    }
}

/// The credentials of a pod's role.
///
/// # Errors
/// If the pod has no role in that dialect. That there are no credentials is an answer, in the words that the pod gets.
pub fn credentials(world: &World, entry: &Entry, asked: &PodInDialect, now: Timestamp) -> Result<Credentials, Refusal> {
    let workload = served(entry, "role")?;
    let newer = |has: &Generation, known: &ProfileRef| has.uid != known.uid || has.generation > known.generation;
    if asked.profile.as_ref().zip(entry.profile()).is_some_and(|(has, known)| newer(has, known)) {
        return Err(Refusal::Behind);
    }
    let role = workload
        .part(asked.dialect)
        .and_then(|part| part.role.as_ref())
        .ok_or(Refusal::None("role in this dialect"))?;
    let failed =
        |code: &'static str, message| Credentials::Failed(CredentialsFailure { code: code.into(), message, at: now });
    let namespace = &workload.pod.namespace;
    Ok(match &role.provider {
        Provider::Secret { name } => match world.secret(namespace, name).map(|data| from_secret(data, now)) {
            Ok(Ok(credentials)) => Credentials::Given(credentials),
            Ok(Err(why)) => failed("Failed", format!("Secret {namespace}/{name}: {why}")),
            Err(NoSecret::Missing) => failed("Failed", format!("Secret {namespace}/{name} does not exist")),
            Err(NoSecret::Unread) => return Err(Refusal::Behind),
        },
        Provider::AwsWebIdentity { .. } | Provider::AwsAssumeRole { .. } | Provider::AliyunOidc { .. } => {
            let kind = role.provider.kind();
            let message = format!(
                "this version of podmeta cannot ask a cloud for credentials yet, as {kind} does; use a secret provider"
            );
            failed("AssumeRoleUnauthorizedAccess", message)
        }
    })
}

/// A pod's user data that is in a Secret.
///
/// # Errors
/// If its user data is in none or in another, or that is missing or too long.
pub fn user_data(world: &World, entry: &Entry, asked: &KeyRef) -> Result<UserData, Refusal> {
    let workload = served(entry, "user data")?;
    let Some(Data::Secret(key)) = &workload.instance.user_data else {
        return Err(Refusal::None("user data in a Secret"));
    };
    if key != asked {
        return Err(Refusal::Behind);
    }
    let namespace = &workload.pod.namespace;
    let data = match world.secret(namespace, &key.name) {
        Ok(data) => data.get(&key.key),
        Err(NoSecret::Missing) => None,
        Err(NoSecret::Unread) => return Err(Refusal::Behind),
    };
    match data {
        Some(data) if data.len() <= MAX_USER_DATA_BYTES => {
            let text = base64::engine::general_purpose::STANDARD.encode(data.as_slice());
            Ok(UserData { data: SecretString::new(text) })
        }
        Some(_) => {
            Err(Refusal::Missing(format!("Secret {namespace}/{} key {} is longer than 16 KiB", key.name, key.key)))
        }
        None => Err(Refusal::Missing(format!("Secret {namespace}/{} or its key {} does not exist", key.name, key.key))),
    }
}

/// The text of a pod's identity document, to be signed.
///
/// # Errors
/// If the pod has none in that dialect, or the addresses are not its own.
pub fn document(entry: &Entry, request: &DocumentRequest) -> Result<String, Refusal> {
    let workload = served(entry, "identity document")?;
    let link = &request.link;
    let named = link.ipv4.iter().copied().map(Into::into).chain(link.ipv6.iter().copied().map(Into::into));
    let named: std::collections::BTreeSet<std::net::IpAddr> = named.collect();
    // Before the API server has heard of any from the kubelet, the CNI's word holds.
    if !entry.item.addresses.is_empty() && !named.iter().all(|address| entry.item.addresses.contains(address)) {
        return Err(Refusal::Address);
    }
    let text = request.dialect.protocol().document(workload, link, request.audience.as_deref());
    text.ok_or(Refusal::None("identity document in this dialect"))
}
