//! Watches of whole kinds. Each object is converted into a [`StateUpdate`] immediately, so no full object stays in memory.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, ExponentialBackoff, watcher};
use kube::{Client, Resource, ResourceExt as _};
use podmeta_crds::field::FieldError;
use podmeta_crds::metadatapolicy::MetadataPolicy;
use podmeta_crds::metadataprofile::MetadataProfile;
use podmeta_crds::{facts, json, policy};
use podmeta_metadata::names::PodUid;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::events::format_chain;
use super::object::MaybeObject;
use crate::model::compiled_pod::ProfileKey;
use crate::model::node_guard::{GuardedCondition, NodeIncarnation};
use crate::model::profile;
use crate::model::update::{PolicyObject, StateUpdate, WatchedKind};
use crate::text::format_object;

/// The minimum and maximum delay before a failed watch is retried. The maximum is short: while a watch is down, agents
/// serve old data.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(4);

/// The duration after which the API server ends a watch, in seconds.
pub const WATCH_TIMEOUT_SECONDS: u32 = 60;

/// Watches namespaces. Returns when the receiver of updates is dropped.
pub async fn namespaces(client: Client, updates_tx: Sender<StateUpdate>) {
    let convert = Convert {
        key: name,
        set: |namespace: &Namespace| Some(StateUpdate::Namespace(facts::namespace(namespace))),
        deleted: StateUpdate::NamespaceDeleted,
    };
    run(WatchedKind::Namespaces, stream(Api::all(client), Config::default()), convert, updates_tx).await;
}

/// Watches nodes. Returns when the receiver of updates is dropped.
pub async fn nodes(client: Client, updates_tx: Sender<StateUpdate>) {
    let convert = Convert {
        key: name,
        set: |node: &Node| {
            Some(StateUpdate::Node {
                facts: facts::node(node, Timestamp::now()),
                incarnation: NodeIncarnation::of_node(node),
                guarded: GuardedCondition::of_node(node),
            })
        },
        deleted: StateUpdate::NodeDeleted,
    };
    run(WatchedKind::Nodes, stream(Api::all(client), Config::default()), convert, updates_tx).await;
}

/// Watches pods that are bound to a node and have not finished. Returns when the receiver of updates is dropped.
pub async fn pods(client: Client, updates_tx: Sender<StateUpdate>) {
    let config = Config::default().fields("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed");
    let convert = Convert {
        key: |metadata: &ObjectMeta| PodUid::try_from(metadata.uid.clone()?).ok(),
        set: pod_update,
        deleted: StateUpdate::PodDeleted,
    };
    run(WatchedKind::Pods, stream(Api::all(client), config), convert, updates_tx).await;
}

/// Watches `MetadataPolicy` objects. Returns when the receiver of updates is dropped.
pub async fn policies(client: Client, updates_tx: Sender<StateUpdate>) {
    let convert = Convert { key: name, set: policy_update, deleted: StateUpdate::PolicyDeleted };
    let stream = stream(api::<MetadataPolicy>(client), Config::default());
    run(WatchedKind::Policies, stream, convert, updates_tx).await;
}

/// Watches `MetadataProfile` objects. Returns when the receiver of updates is dropped.
pub async fn profiles(client: Client, updates_tx: Sender<StateUpdate>) {
    let convert = Convert {
        key: |metadata: &ObjectMeta| {
            Some(ProfileKey { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
        },
        set: |object: &DynamicObject| {
            Some(StateUpdate::Profile(Box::new(profile::read(&object.metadata, &to_value(object)))))
        },
        deleted: StateUpdate::ProfileDeleted,
    };
    let stream = stream(api::<MetadataProfile>(client), Config::default());
    run(WatchedKind::Profiles, stream, convert, updates_tx).await;
}

fn name(metadata: &ObjectMeta) -> Option<String> {
    metadata.name.clone()
}

/// Converts a pod. An invalid one is deleted: agents must not serve it with its old facts.
fn pod_update(pod: &Pod) -> Option<StateUpdate> {
    match facts::pod(pod) {
        Ok(facts) => Some(StateUpdate::Pod { facts: Box::new(facts), addresses: facts::pod_addresses(pod) }),
        Err(errors) => {
            tracing::warn!(
                pod = %object_name(pod.meta()),
                error = join(&errors),
                "skipping pod: invalid object; agents do not serve it: correct the field"
            );
            PodUid::try_from(pod.metadata.uid.clone()?).ok().map(StateUpdate::PodDeleted)
        }
    }
}

fn policy_update(object: &DynamicObject) -> Option<StateUpdate> {
    let name = object.name_any();
    let spec = json::deserialize::<MetadataPolicy>(&to_value(object)).map_err(|error| vec![error]);
    let spec = spec.and_then(|policy| policy::validate(&policy));
    if let Err(errors) = &spec {
        tracing::error!(
            policy = name,
            error = join(errors),
            "MetadataPolicy is invalid; keeping the last valid spec, or the strictest policy if there is none: correct the field"
        );
    }
    Some(StateUpdate::Policy(Box::new(PolicyObject { name, spec })))
}

/// Returns the name of an object for the log.
fn object_name(metadata: &ObjectMeta) -> String {
    format_object(metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default())
}

fn join(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Returns an API of untyped objects, so that invalid ones can be reported.
fn api<K: Resource<DynamicType = ()>>(client: Client) -> Api<MaybeObject<DynamicObject>> {
    Api::all_with(client, &ApiResource::erase::<K>(&()))
}

/// Converts an object to JSON, with its metadata.
fn to_value(object: &DynamicObject) -> serde_json::Value {
    let mut value = object.data.clone();
    if let (Some(map), Ok(metadata)) = (value.as_object_mut(), serde_json::to_value(&object.metadata)) {
        map.insert("metadata".to_owned(), metadata);
    }
    value
}

/// Returns the events of a watch. The stream never ends: it retries with backoff and lists again after a 410.
pub(super) fn stream<K>(
    api: Api<MaybeObject<K>>,
    config: Config,
) -> impl Stream<Item = watcher::Result<Event<MaybeObject<K>>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let backoff = ExponentialBuilder::default().with_min_delay(MIN_RETRY_DELAY).with_max_delay(MAX_RETRY_DELAY);
    let backoff: ExponentialBackoff = backoff.with_jitter().without_max_times().into();
    watcher(api, config.timeout(WATCH_TIMEOUT_SECONDS)).backoff(backoff)
}

/// Converts objects of one kind into updates.
pub(super) struct Convert<KeyFn, SetFn, DeletedFn> {
    /// Returns the key of an object.
    pub(super) key: KeyFn,
    /// Converts an object that was added or modified. `None`: the object is skipped.
    pub(super) set: SetFn,
    /// Converts a deleted object.
    pub(super) deleted: DeletedFn,
}

/// Sends an update for each event, and [`StateUpdate::ListComplete`] after each list.
async fn run<K, Key>(
    kind: WatchedKind,
    stream: impl Stream<Item = watcher::Result<Event<MaybeObject<K>>>>,
    convert: Convert<
        impl Fn(&ObjectMeta) -> Option<Key>,
        impl Fn(&K) -> Option<StateUpdate>,
        impl Fn(Key) -> StateUpdate,
    >,
    updates_tx: Sender<StateUpdate>,
) where
    K: Resource,
    Key: Eq + Hash + Clone,
{
    let mut known = KnownObjects::new(kind);
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let is_list_complete = matches!(event, Ok(Event::InitDone));
        let list_complete = is_list_complete.then_some(StateUpdate::ListComplete(kind));
        for update in known.updates(event, &convert).into_iter().chain(list_complete) {
            if updates_tx.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// The objects of one watch. After a relist, objects that are not in the new list are deleted. An object that cannot be
/// read keeps its last readable state, except for a pod: agents must not serve it with old facts, so it is deleted.
pub(super) struct KnownObjects<Key> {
    kind: WatchedKind,
    /// The known objects, and whether each was in the current list.
    listed: HashMap<Key, bool>,
}

impl<Key: Eq + Hash + Clone> KnownObjects<Key> {
    pub(super) fn new(kind: WatchedKind) -> Self {
        Self { kind, listed: HashMap::new() }
    }

    /// Returns the updates of an event. Logs an error.
    pub(super) fn updates<K: Resource>(
        &mut self,
        event: watcher::Result<Event<MaybeObject<K>>>,
        convert: &Convert<
            impl Fn(&ObjectMeta) -> Option<Key>,
            impl Fn(&K) -> Option<StateUpdate>,
            impl Fn(Key) -> StateUpdate,
        >,
    ) -> Vec<StateUpdate> {
        match event {
            Ok(Event::Init) => {
                self.listed.values_mut().for_each(|listed| *listed = false);
                Vec::new()
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => self.apply(&object, convert).into_iter().collect(),
            Ok(Event::Delete(object)) => {
                let key = (convert.key)(object.meta());
                if let Some(key) = &key {
                    self.listed.remove(key);
                }
                key.map(&convert.deleted).into_iter().collect()
            }
            Ok(Event::InitDone) => {
                self.listed.extract_if(|_, listed| !*listed).map(|(key, _)| (convert.deleted)(key)).collect()
            }
            Err(error) => {
                tracing::warn!(object_kind = self.kind.object_kind(), error = %format_chain(&error), "watch failed; retrying: check the API server and the operator's roles");
                Vec::new()
            }
        }
    }

    fn apply<K: Resource>(
        &mut self,
        object: &MaybeObject<K>,
        convert: &Convert<
            impl Fn(&ObjectMeta) -> Option<Key>,
            impl Fn(&K) -> Option<StateUpdate>,
            impl Fn(Key) -> StateUpdate,
        >,
    ) -> Option<StateUpdate> {
        match object {
            MaybeObject::Readable(object) => {
                self.listed.extend((convert.key)(object.meta()).map(|key| (key, true)));
                (convert.set)(object)
            }
            MaybeObject::Unreadable { metadata, error } if self.kind == WatchedKind::Pods => {
                tracing::error!(
                    pod = %object_name(metadata),
                    error,
                    "skipping pod: the object cannot be read; agents do not serve it: correct the field"
                );
                let key = (convert.key)(metadata)?;
                self.listed.remove(&key);
                Some((convert.deleted)(key))
            }
            MaybeObject::Unreadable { metadata, error } => {
                // The error can contain values of a Secret.
                let error = if self.kind == WatchedKind::Secrets { "not a valid Secret" } else { error };
                tracing::error!(
                    object_kind = self.kind.object_kind(),
                    object = %object_name(metadata),
                    error,
                    "cannot read an object; keeping its last readable state: correct the field"
                );
                if let Some(listed) = (convert.key)(metadata).and_then(|key| self.listed.get_mut(&key)) {
                    *listed = true;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
