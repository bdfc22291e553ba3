//! Watches of the Secrets and ConfigMaps that profiles refer to. Each is watched by its name while a profile refers to it.
//! The operator never lists Secrets or ConfigMaps.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, WatchEvent, WatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use podmeta_metadata::credentials::SecretData;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::events::format_chain;
use super::object::MaybeObject;
use crate::model::update::{ReferencedObject, References, StateUpdate, WatchedKind};
use crate::reconcile::SharedState;

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a watch without events. The API server ends a watch after at most five minutes, so a longer silence
/// means a dead connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The delay before a watch that ended or failed is started again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The watch of one object.
struct ObjectWatch {
    /// The keys of a ConfigMap that are read. Empty for a Secret.
    keys: BTreeSet<String>,
    task: JoinHandle<()>,
}

impl Drop for ObjectWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the objects that profiles refer to. Returns when the reconcile task ends.
pub async fn run(shared: Arc<SharedState>, client: Client, updates_tx: Sender<StateUpdate>) {
    let mut references_rx = shared.references();
    let mut watches: HashMap<ReferencedObject, ObjectWatch> = HashMap::new();
    let mut is_listed = false;
    loop {
        let Ok(references) =
            references_rx.wait_for(Option::is_some).await.map(|known| known.clone().unwrap_or_default())
        else {
            return;
        };
        if stop_unreferenced(&mut watches, &references, &updates_tx).await.is_err() {
            return;
        }
        let mut first_reads = Vec::new();
        for (object, keys) in references {
            if watches.contains_key(&object) {
                continue;
            }
            let (read_tx, read_rx) = oneshot::channel();
            let watch = watch_object(object.clone(), keys.clone(), client.clone(), updates_tx.clone(), read_tx);
            watches.insert(object, ObjectWatch { keys, task: tokio::spawn(watch) });
            first_reads.push(read_rx);
        }
        if !is_listed {
            for read in first_reads {
                // The task of a watch ends only with the operator.
                let _ended = read.await;
            }
            is_listed = true;
            if updates_tx.send(StateUpdate::ListComplete(WatchedKind::References)).await.is_err() {
                return;
            }
        }
        if references_rx.changed().await.is_err() {
            return;
        }
    }
}

/// Stops the watches that are not needed any more, or that read other keys, and drops what they have read. A watch has
/// ended before the drop is sent, so no update of it can follow.
async fn stop_unreferenced(
    watches: &mut HashMap<ReferencedObject, ObjectWatch>,
    references: &References,
    updates_tx: &Sender<StateUpdate>,
) -> Result<(), tokio::sync::mpsc::error::SendError<StateUpdate>> {
    let stopped: Vec<_> = watches.extract_if(|object, watch| references.get(object) != Some(&watch.keys)).collect();
    for (object, mut watch) in stopped {
        watch.task.abort();
        let _cancelled = (&mut watch.task).await;
        let needed = references.get(&object);
        let keys: BTreeSet<String> =
            watch.keys.iter().filter(|key| needed.is_none_or(|needed| !needed.contains(*key))).cloned().collect();
        if needed.is_none() || !keys.is_empty() {
            updates_tx.send(StateUpdate::ReferenceDropped { object, keys }).await?;
        }
    }
    Ok(())
}

async fn watch_object(
    object: ReferencedObject,
    keys: BTreeSet<String>,
    client: Client,
    updates_tx: Sender<StateUpdate>,
    read_tx: oneshot::Sender<()>,
) {
    match &object {
        ReferencedObject::Secret { namespace, name } => {
            let convert = |secret: Option<Secret>| StateUpdate::Secret {
                namespace: namespace.clone(),
                name: name.clone(),
                data: secret.map(secret_data),
            };
            let api = Api::namespaced(client, namespace);
            NamedWatch { api, kind: "Secret", namespace, name, convert, updates_tx: &updates_tx }.run(read_tx).await;
        }
        ReferencedObject::ConfigMap { namespace, name } => {
            let convert = |map: Option<ConfigMap>| StateUpdate::ConfigMap {
                namespace: namespace.clone(),
                name: name.clone(),
                values: map.map(|map| config_map_values(&map, &keys)).unwrap_or_default(),
            };
            let api = Api::namespaced(client, namespace);
            NamedWatch { api, kind: "ConfigMap", namespace, name, convert, updates_tx: &updates_tx }.run(read_tx).await;
        }
    }
}

fn secret_data(secret: Secret) -> SecretData {
    secret.data.into_iter().flatten().map(|(key, value)| (key, Zeroizing::new(value.0))).collect()
}

fn config_map_values(map: &ConfigMap, keys: &BTreeSet<String>) -> BTreeMap<String, Bytes> {
    let text = |key: &String| Some(Bytes::from(map.data.as_ref()?.get(key)?.clone()));
    let binary = |key: &String| Some(Bytes::from(map.binary_data.as_ref()?.get(key)?.0.clone()));
    keys.iter().filter_map(|key| Some((key.clone(), text(key).or_else(|| binary(key))?))).collect()
}

/// Reads one object, then watches it. Neither needs the permission to list.
struct NamedWatch<'w, K, F> {
    api: Api<MaybeObject<K>>,
    kind: &'static str,
    namespace: &'w str,
    name: &'w str,
    /// Converts the object, or `None` if it does not exist.
    convert: F,
    updates_tx: &'w Sender<StateUpdate>,
}

impl<K, F> NamedWatch<'_, K, F>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    F: Fn(Option<K>) -> StateUpdate,
{
    /// Watches until the receiver of updates is dropped. Completes `read_tx` when the object was read once, or cannot be
    /// read.
    async fn run(self, read_tx: oneshot::Sender<()>) {
        let Self { kind, namespace, name, .. } = self;
        let mut read_tx = Some(read_tx);
        while !self.updates_tx.is_closed() {
            if let Err(error) = self.read_and_watch(&mut read_tx).await {
                tracing::warn!(kind, namespace, name, error = %format_chain(&error), "cannot read an object that a profile refers to; retrying");
                // The API server is available. One object that it does not return must not delay all others.
                if matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_)) {
                    complete(&mut read_tx);
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Returns when the watch ends or a request times out.
    async fn read_and_watch(&self, read_tx: &mut Option<oneshot::Sender<()>>) -> Result<(), kube::Error> {
        let Ok(object) = tokio::time::timeout(API_TIMEOUT, self.api.get_opt(self.name)).await else {
            self.log_timeout();
            return Ok(());
        };
        let object = object?;
        // An object that does not exist yet is watched from any version that the API server has.
        let version = object.as_ref().and_then(ResourceExt::resource_version).unwrap_or_else(|| "0".to_owned());
        self.send(object).await;
        complete(read_tx);
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.name)).disable_bookmarks();
        let Ok(stream) = tokio::time::timeout(API_TIMEOUT, self.api.watch(&params, &version)).await else {
            self.log_timeout();
            return Ok(());
        };
        let mut stream = std::pin::pin!(stream?);
        while let Ok(Some(event)) = tokio::time::timeout(IDLE_TIMEOUT, stream.next()).await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.send(Some(object)).await,
                WatchEvent::Deleted(_) => self.send(None).await,
                WatchEvent::Bookmark(_) => {}
                // The version expired: read the object again.
                WatchEvent::Error(_) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn send(&self, object: Option<MaybeObject<K>>) {
        let object = match object {
            Some(MaybeObject::Readable(object)) => Some(object),
            // The error is not logged: it can contain values of the Secret.
            Some(MaybeObject::Unreadable { .. }) => {
                let Self { kind, namespace, name, .. } = self;
                tracing::error!(
                    kind,
                    namespace,
                    name,
                    "cannot parse an object that a profile refers to; keeping its last readable data"
                );
                return;
            }
            None => None,
        };
        // The caller checks whether the receiver is dropped.
        let _closed = self.updates_tx.send((self.convert)(object)).await;
    }

    fn log_timeout(&self) {
        let Self { kind, namespace, name, .. } = self;
        tracing::warn!(kind, namespace, name, "cannot read an object that a profile refers to: timeout; retrying");
    }
}

fn complete(read_tx: &mut Option<oneshot::Sender<()>>) {
    if let Some(read_tx) = read_tx.take() {
        // The receiver waits only until all objects were read once.
        let _dropped = read_tx.send(());
    }
}
