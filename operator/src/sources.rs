//! Secrets and ConfigMaps that profiles name, each watched by its name from when a profile names it until none does. They
//! are never listed: the operator reads the objects that it was told to read.

use std::collections::{BTreeSet, HashMap};
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
use podmeta_metadata::profile::KeyRef;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::index::Change;
use crate::object::Object;
use crate::reconcile::{Shared, Told, Watched};
use crate::world::{Input, Source};

/// How long the API server may take to answer, and a watch may say nothing.
const ANSWER: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(300);

/// How long after a watch broke it is begun again.
const AGAIN: Duration = Duration::from_secs(2);

/// A source that is watched, for these of its keys.
struct Watching {
    keys: BTreeSet<String>,
    task: AbortHandle,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches what profiles name, for ever.
pub async fn run(shared: Arc<Shared>, client: Client, told: Sender<Told>) {
    let mut wanted = shared.sources();
    let mut watching: HashMap<Source, Watching> = HashMap::new();
    let mut all_known = false;
    loop {
        let Ok(sources) = wanted.wait_for(Option::is_some).await.map(|sources| sources.clone().unwrap_or_default())
        else {
            return;
        };
        // Whoever watches for other keys, or for none, is stopped before what it told is forgotten.
        watching.retain(|source, watching| {
            let keys = sources.get(source);
            let same = keys == Some(&watching.keys);
            if !same {
                watching.task.abort();
                let fallen = watching.keys.iter().filter(|key| keys.is_none_or(|keys| !keys.contains(*key)));
                shared.world_mut().forget(source, &fallen.cloned().collect());
            }
            same
        });
        let mut new = Vec::new();
        for (source, keys) in sources {
            if watching.contains_key(&source) {
                continue;
            }
            let (known, is_known) = oneshot::channel();
            let task = tokio::spawn(watch(source.clone(), keys.clone(), client.clone(), told.clone(), known));
            watching.insert(source, Watching { keys, task: task.abort_handle() });
            new.push(is_known);
        }
        if !all_known {
            for known in new {
                drop(known.await);
            }
            all_known = true;
            if told.send(Told::Complete(Watched::Sources)).await.is_err() {
                return;
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn watch(source: Source, keys: BTreeSet<String>, client: Client, told: Sender<Told>, known: oneshot::Sender<()>) {
    match &source {
        Source::Secret { namespace, name } => {
            let say = |secret: Option<Secret>| {
                let data = secret.map(secret_data);
                vec![Input::Secret { namespace: namespace.clone(), name: name.clone(), data }]
            };
            by_name(Api::namespaced(client, namespace), name, say, &told, known).await;
        }
        Source::ConfigMap { namespace, name } => {
            let say = |map: Option<ConfigMap>| {
                let value = |key: &String| map.as_ref().and_then(|map| config_value(map, key));
                let change = |key: &String| Change::Source {
                    namespace: namespace.clone(),
                    key: KeyRef { name: name.clone(), key: key.clone() },
                    value: value(key),
                };
                keys.iter().map(|key| Input::Index(change(key))).collect()
            };
            by_name(Api::namespaced(client, namespace), name, say, &told, known).await;
        }
    }
}

fn secret_data(secret: Secret) -> SecretData {
    secret.data.into_iter().flatten().map(|(key, value)| (key, Zeroizing::new(value.0))).collect()
}

fn config_value(map: &ConfigMap, key: &str) -> Option<Bytes> {
    let text = map.data.as_ref().and_then(|data| data.get(key)).map(|text| Bytes::from(text.clone()));
    text.or_else(|| map.binary_data.as_ref().and_then(|data| data.get(key)).map(|bytes| Bytes::from(bytes.0.clone())))
}

/// Gets one object, then watches it from there: neither needs the permission to list.
async fn by_name<K>(
    api: Api<Object<K>>,
    name: &str,
    say: impl Fn(Option<K>) -> Vec<Input>,
    told: &Sender<Told>,
    known: oneshot::Sender<()>,
) where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut known = Some(known);
    loop {
        if let Err(error) = once(&api, name, &say, told, &mut known).await {
            tracing::warn!(%error, name, "a Secret or ConfigMap that a profile names cannot be read; it is tried again");
            // The API server has answered: one object that it does not give must not hold up all others.
            if matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
                && let Some(known) = known.take()
            {
                let _nobody_waits = known.send(());
            }
        }
        if told.is_closed() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn once<K>(
    api: &Api<Object<K>>,
    name: &str,
    say: impl Fn(Option<K>) -> Vec<Input>,
    told: &Sender<Told>,
    known: &mut Option<oneshot::Sender<()>>,
) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let tell = async |object: Option<Object<K>>| {
        let object = match object {
            Some(Object::Whole(object)) => Some(object),
            // Why is not said: it may quote what is secret.
            Some(Object::Unreadable { .. }) => {
                tracing::error!(
                    name,
                    "a Secret or ConfigMap that a profile names holds what cannot be read; what it held before holds"
                );
                return;
            }
            None => None,
        };
        for input in say(object) {
            drop(told.send(Told::Input(input)).await);
        }
    };
    let Ok(object) = tokio::time::timeout(ANSWER, api.get_opt(name)).await else { return Ok(()) };
    let object = object?;
    // An object that is not there yet is watched from any version that the API server still has.
    let version = object.as_ref().and_then(ResourceExt::resource_version).unwrap_or_else(|| "0".to_owned());
    tell(object).await;
    if let Some(known) = known.take() {
        let _nobody_waits = known.send(());
    }
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).disable_bookmarks();
    let Ok(stream) = tokio::time::timeout(ANSWER, api.watch(&params, &version)).await else { return Ok(()) };
    let mut stream = std::pin::pin!(stream?);
    // The API server ends a watch after five minutes at most; one that says nothing for longer has lost its connection.
    while let Ok(Some(event)) = tokio::time::timeout(SILENCE, stream.next()).await {
        match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => tell(Some(object)).await,
            WatchEvent::Deleted(_) => tell(None).await,
            WatchEvent::Bookmark(_) => {}
            // The version is too old: everything is read again.
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}
