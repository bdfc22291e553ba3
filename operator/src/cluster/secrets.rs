//! Watches of the Secrets that profiles may use: one list and watch for each namespace, or one for the whole cluster. All
//! select by [`USABLE_BY_LABEL`].

mod budget;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, Config, Event};
use podmeta_metadata::credentials::{
    MAX_SECRET_BYTES, SecretData, SecretId, USABLE_BY_LABEL, USABLE_BY_PROFILES, is_usable,
};
use tokio::sync::mpsc::Sender;

use budget::SecretBudget;

use super::watch::{Convert, KnownObjects, stream};
use crate::model::update::{SecretScope, StateUpdate, WatchedKind};
use crate::text::format_object;

/// The number of Secrets in one page of a list. A Secret has up to 1 MiB, so a page stays under 32 MiB.
const PAGE_SIZE: u32 = 16;

/// Watches the Secrets of these scopes. Returns when the receiver of updates is dropped.
///
/// The list is complete once each scope is listed, or the API server has refused to list it. One namespace without a
/// Role must not delay all others.
pub async fn run(scopes: BTreeSet<SecretScope>, client: Client, updates_tx: Sender<StateUpdate>) {
    for scope in &scopes {
        if updates_tx.send(StateUpdate::SecretsUnread(scope.clone())).await.is_err() {
            return;
        }
    }
    let streams = scopes.iter().cloned().map(|scope| {
        let api = match &scope {
            SecretScope::Cluster => Api::all(client.clone()),
            SecretScope::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        };
        let config = Config::default().labels(&format!("{USABLE_BY_LABEL}={USABLE_BY_PROFILES}")).page_size(PAGE_SIZE);
        stream(api, config).map(move |event| (scope.clone(), event)).boxed()
    });
    let mut streams = select_all(streams);
    let convert = Convert { key, set: secret_update, deleted: |(namespace, name)| secret(namespace, name, None) };
    let mut known: HashMap<SecretScope, KnownObjects<SecretId>> = HashMap::new();
    let mut budget = SecretBudget::default();
    let mut pending = Some(scopes);
    loop {
        if pending.take_if(|scopes| scopes.is_empty()).is_some()
            && updates_tx.send(StateUpdate::ListComplete(WatchedKind::Secrets)).await.is_err()
        {
            return;
        }
        let Some((scope, event)) = streams.next().await else { return };
        let is_listed = matches!(event, Ok(Event::InitDone));
        if let Some(pending) = &mut pending
            && (is_listed || event.as_ref().is_err_and(is_refused))
        {
            pending.remove(&scope);
        }
        let listed = is_listed.then(|| StateUpdate::SecretsListed(scope.clone()));
        let known = known.entry(scope).or_insert_with(|| KnownObjects::new(WatchedKind::Secrets));
        let updates = known.updates(event, &convert).into_iter().flat_map(|update| match update {
            StateUpdate::Secret { namespace, name, data } => budget.updates(namespace, name, data),
            other => vec![other],
        });
        for update in updates.chain(listed) {
            if updates_tx.send(update).await.is_err() {
                return;
            }
        }
    }
}

fn key(metadata: &ObjectMeta) -> Option<SecretId> {
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

fn secret_update(object: &Secret) -> Option<StateUpdate> {
    let (namespace, name) = key(&object.metadata)?;
    let values = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    let data: SecretData = values.collect();
    let is_usable = object.metadata.labels.as_ref().is_some_and(|labels| is_usable(labels, &data));
    if !is_usable {
        tracing::warn!(
            secret = %format_object(Some(&namespace), &name),
            "ignoring a Secret that profiles may use: it has more than {MAX_SECRET_BYTES} bytes"
        );
    }
    Some(secret(namespace, name, is_usable.then_some(data)))
}

fn secret(namespace: String, name: String, data: Option<SecretData>) -> StateUpdate {
    StateUpdate::Secret { namespace, name, data }
}

/// Returns true if the API server is available, but does not return the list.
fn is_refused(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(_) | kube::Error::SerdeError(_)))
}
