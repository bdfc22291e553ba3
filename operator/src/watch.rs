//! Watches of whole kinds: each object becomes what is kept of it at once, so that no object as such stays in memory. One
//! that cannot be read is reported, and stops no other.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, ExponentialBackoff, watcher};
use kube::{Client, Resource, ResourceExt as _};
use podmeta_crds::metadatapolicy::MetadataPolicy;
use podmeta_crds::metadataprofile::MetadataProfile;
use podmeta_crds::{facts, objects, policy};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use crate::index::{Change, ProfileKey};
use crate::object::Object;
use crate::profile;
use crate::reconcile::{Told, Watched};
use crate::world::Input;

/// How long a watch that broke waits at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(4);
/// How long a watch goes on, in seconds. One whose connection is dead without a word is begun again five seconds after that:
/// until then what it would have told is not known here.
pub const LIFE: u32 = 60;

/// Namespaces.
pub async fn namespaces(client: Client, told: Sender<Told>) {
    let there = |namespace: &Namespace| Some(Change::Namespace(facts::namespace(namespace)).into());
    let gone = |name: String| Change::NamespaceGone(name).into();
    watch(Api::all(client), Config::default(), Watched::Namespaces, told, name, there, gone).await;
}

/// Nodes.
pub async fn nodes(client: Client, told: Sender<Told>) {
    let there = |node: &Node| Some(Change::Node(facts::node(node, Timestamp::now())).into());
    let gone = |name: String| Change::NodeGone(name).into();
    watch(Api::all(client), Config::default(), Watched::Nodes, told, name, there, gone).await;
}

/// Pods that are bound to a node and have not ended.
pub async fn pods(client: Client, told: Sender<Told>) {
    let config = Config::default().fields("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed");
    let uid = |metadata: &ObjectMeta| PodUid::try_from(metadata.uid.clone()?).ok();
    let there = |pod: &Pod| match facts::pod(pod) {
        Ok(facts) => Some(Change::Pod { facts: Box::new(facts), addresses: facts::pod_addresses(pod) }.into()),
        Err(errors) => {
            let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(pod = %pod.name_any(), namespace = ?pod.namespace(), %errors, "a pod is passed over, and is served nothing");
            None
        }
    };
    let gone = |uid: PodUid| Change::PodGone(uid).into();
    watch(Api::all(client), config, Watched::Pods, told, uid, there, gone).await;
}

/// MetadataPolicies. One that is not valid stays as it was: forgetting it would loosen what it tightens. If it was never
/// valid, the strictest there is holds in its place.
pub async fn policies(client: Client, told: Sender<Told>) {
    let valid = Mutex::new(HashSet::new());
    let known = || valid.lock().unwrap_or_else(PoisonError::into_inner);
    let there = |object: &DynamicObject| {
        let read = objects::read::<MetadataPolicy>(&value(object)).map_err(|error| vec![error]);
        let read = read.and_then(|policy| policy::validate(&policy));
        let name = object.name_any();
        match read {
            Ok(policy) => {
                known().insert(name);
                Some(Change::Policy(Box::new(policy)).into())
            }
            Err(errors) => {
                let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let known = known().contains(&name);
                tracing::error!(policy = name, %errors, known, "a MetadataPolicy is not valid: what it said before holds; if that is not known, nothing is allowed that a policy can forbid");
                (!known).then(|| Change::Policy(Box::new(Policy::strictest(name))).into())
            }
        }
    };
    let gone = |name: String| {
        known().remove(&name);
        Change::PolicyGone(name).into()
    };
    watch(all::<MetadataPolicy>(client), Config::default(), Watched::Policies, told, name, there, gone).await;
}

/// MetadataProfiles.
pub async fn profiles(client: Client, told: Sender<Told>) {
    let key = |metadata: &ObjectMeta| {
        Some(ProfileKey { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
    };
    let there = |object: &DynamicObject| {
        Some(Told::Input(Input::Profile(Box::new(profile::read(&object.metadata, &value(object))))))
    };
    let gone = |key: ProfileKey| Told::Input(Input::ProfileGone(key));
    watch(all::<MetadataProfile>(client), Config::default(), Watched::Profiles, told, key, there, gone).await;
}

impl From<Change> for Told {
    fn from(change: Change) -> Self {
        Self::Input(Input::Index(change))
    }
}

fn name(metadata: &ObjectMeta) -> Option<String> {
    metadata.name.clone()
}

/// Objects of our own kinds, read as whatever they hold, so that one that is wrong is one that can be reported.
fn all<K: Resource<DynamicType = ()>>(client: Client) -> Api<Object<DynamicObject>> {
    Api::all_with(client, &ApiResource::erase::<K>(&()))
}

fn value(object: &DynamicObject) -> serde_json::Value {
    let mut value = object.data.clone();
    if let (Some(map), Ok(metadata)) = (value.as_object_mut(), serde_json::to_value(&object.metadata)) {
        map.insert("metadata".to_owned(), metadata);
    }
    value
}

/// How long a watch that broke waits: not long, because after an outage every second is one in which pods are served what
/// is not so any more. The first of these is for a list that fails too, which is tried again as if it were the first time.
fn patience() -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(MOST).with_jitter();
    builder.without_max_times().into()
}

/// Watches for ever: tells what is there and what is gone. After the watch broke, what is not there any more is gone. What
/// cannot be read stays as it was.
async fn watch<K, Key>(
    api: Api<Object<K>>,
    config: Config,
    watched: Watched,
    told: Sender<Told>,
    key: impl Fn(&ObjectMeta) -> Option<Key>,
    there: impl Fn(&K) -> Option<Told>,
    gone: impl Fn(Key) -> Told,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    Key: Eq + std::hash::Hash + Clone,
{
    // Which are known, and whether they were there when everything was listed last.
    let mut known: HashMap<Key, bool> = HashMap::new();
    let stream = watcher(api, config.timeout(LIFE)).backoff(patience());
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let say = match event {
            Ok(Event::Init) => {
                known.values_mut().for_each(|there| *there = false);
                continue;
            }
            Ok(Event::Apply(Object::Whole(object)) | Event::InitApply(Object::Whole(object))) => {
                known.extend(key(object.meta()).map(|key| (key, true)));
                there(&object)
            }
            Ok(
                Event::Apply(Object::Unreadable { metadata, why })
                | Event::InitApply(Object::Unreadable { metadata, why }),
            ) => {
                let ObjectMeta { name, namespace, .. } = &*metadata;
                tracing::error!(
                    ?watched,
                    name,
                    namespace,
                    why,
                    "an object cannot be read, and is taken for what it was, or not to be there; correct the field"
                );
                if let Some(there) = key(&metadata).and_then(|key| known.get_mut(&key)) {
                    *there = true;
                }
                continue;
            }
            Ok(Event::Delete(object)) => {
                let key = key(object.meta());
                if let Some(key) = &key {
                    known.remove(key);
                }
                key.map(&gone)
            }
            Ok(Event::InitDone) => {
                let lost: Vec<Key> = known.extract_if(|_, there| !*there).map(|(key, _)| key).collect();
                for key in lost {
                    if told.send(gone(key)).await.is_err() {
                        return;
                    }
                }
                Some(Told::Complete(watched))
            }
            Err(error) => {
                tracing::warn!(%error, ?watched, "a watch broke, and is begun again; if it goes on, see that the API server answers and that the operator's ClusterRole is there");
                continue;
            }
        };
        if let Some(say) = say
            && told.send(say).await.is_err()
        {
            return;
        }
    }
}
