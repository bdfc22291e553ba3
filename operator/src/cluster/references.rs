//! Watches of the ConfigMaps that profiles refer to. Each is watched by its name while a profile refers to it. The operator
//! never lists ConfigMaps.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::events::format_chain;
use super::object::MaybeObject;
use crate::model::update::{ConfigMapRef, References, StateUpdate, WatchedKind};
use crate::reconcile::SharedState;

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a watch without events. The API server ends a watch after at most five minutes, so a longer silence
/// means a dead connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The delay before a watch that ended or failed is started again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The watch of one ConfigMap.
struct ObjectWatch {
    /// The keys that are read.
    keys: BTreeSet<String>,
    task: JoinHandle<()>,
}

impl Drop for ObjectWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the ConfigMaps that profiles refer to. Returns when the reconcile task ends.
pub async fn run(shared: Arc<SharedState>, client: Client, updates_tx: Sender<StateUpdate>) {
    let mut references_rx = shared.references();
    let mut watches: HashMap<ConfigMapRef, ObjectWatch> = HashMap::new();
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
            let watch = NamedWatch {
                api: Api::namespaced(client.clone(), &object.namespace),
                object: object.clone(),
                keys: keys.clone(),
                updates_tx: updates_tx.clone(),
            };
            watches.insert(object, ObjectWatch { keys, task: tokio::spawn(watch.run(read_tx)) });
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
    watches: &mut HashMap<ConfigMapRef, ObjectWatch>,
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

fn config_map_values(map: &ConfigMap, keys: &BTreeSet<String>) -> BTreeMap<String, Bytes> {
    let text = |key: &String| Some(Bytes::from(map.data.as_ref()?.get(key)?.clone()));
    let binary = |key: &String| Some(Bytes::from(map.binary_data.as_ref()?.get(key)?.0.clone()));
    keys.iter().filter_map(|key| Some((key.clone(), text(key).or_else(|| binary(key))?))).collect()
}

/// Reads one ConfigMap, then watches it. Neither needs the permission to list.
struct NamedWatch {
    api: Api<MaybeObject<ConfigMap>>,
    object: ConfigMapRef,
    keys: BTreeSet<String>,
    updates_tx: Sender<StateUpdate>,
}

impl NamedWatch {
    /// Watches until the receiver of updates is dropped. Completes `read_tx` when the object was read once, or cannot be
    /// read.
    async fn run(self, read_tx: oneshot::Sender<()>) {
        let mut read_tx = Some(read_tx);
        while !self.updates_tx.is_closed() {
            if let Err(error) = self.read_and_watch(&mut read_tx).await {
                tracing::warn!(config_map = %self.object, error = %format_chain(&error), "cannot read a ConfigMap that a profile refers to; retrying");
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
        let Ok(object) = tokio::time::timeout(API_TIMEOUT, self.api.get_opt(&self.object.name)).await else {
            self.log_timeout();
            return Ok(());
        };
        let object = object?;
        // An object that does not exist yet is watched from any version that the API server has.
        let version = object.as_ref().and_then(ResourceExt::resource_version).unwrap_or_else(|| "0".to_owned());
        self.send(object).await;
        complete(read_tx);
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.object.name)).disable_bookmarks();
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

    async fn send(&self, object: Option<MaybeObject<ConfigMap>>) {
        let object = match object {
            Some(MaybeObject::Readable(object)) => Some(object),
            Some(MaybeObject::Unreadable { error, .. }) => {
                tracing::error!(
                    config_map = %self.object,
                    error,
                    "cannot parse a ConfigMap that a profile refers to; keeping its last readable data: correct the ConfigMap"
                );
                return;
            }
            None => None,
        };
        let values = object.map(|map| config_map_values(&map, &self.keys)).unwrap_or_default();
        let ConfigMapRef { namespace, name } = &self.object;
        let update = StateUpdate::ConfigMap { namespace: namespace.clone(), name: name.clone(), values };
        // The caller checks whether the receiver is dropped.
        let _closed = self.updates_tx.send(update).await;
    }

    fn log_timeout(&self) {
        tracing::warn!(config_map = %self.object, "cannot read a ConfigMap that a profile refers to: timeout; retrying");
    }
}

fn complete(read_tx: &mut Option<oneshot::Sender<()>>) {
    if let Some(read_tx) = read_tx.take() {
        // The receiver waits only until all objects were read once.
        let _dropped = read_tx.send(());
    }
}
