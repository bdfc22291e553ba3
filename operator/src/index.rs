//! What is known of the cluster, and what follows from it for each pod. A change marks the pods that it can touch; they are
//! compiled together, once, however many changes there were. It knows nothing of the API server, of agents or of time.
//!
//! Compiling only reads the index, so that it may be done while others read it too: [`Index::compile`] says what follows,
//! and [`Index::take`] takes that in.

mod entry;
mod known;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use podmeta_agent_api::Item;
use podmeta_metadata::compile::{Compiled, Settings, compile};
use podmeta_metadata::facts::{Facts, NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::{KeyRef, Profile, UserDataSource};

pub use entry::{Change, Entry, ProfileKey, Update};
use known::{Bound, Namespace, Node, keep_times, selected};

/// From how many pods on compiling is shared among processors: below that, starting threads costs more.
const SHARED: usize = 64;

/// Everything that is known.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    pods: HashMap<PodUid, Bound>,
    namespaces: HashMap<String, Namespace>,
    nodes: HashMap<String, Node>,
    policies: Vec<Policy>,
    /// The pods that a profile serves, or that something was found with for it.
    concerned: HashMap<ProfileKey, BTreeSet<PodUid>>,
    dirty: BTreeSet<PodUid>,
    gone: Vec<Update>,
    /// The profiles that something else may be said of than when it was last asked.
    touched: BTreeSet<ProfileKey>,
}

impl Index {
    /// An index that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pods: HashMap::new(),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            policies: Vec::new(),
            concerned: HashMap::new(),
            dirty: BTreeSet::new(),
            gone: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Notes a change, and which pods it can touch. One that changes nothing touches none: heartbeats of nodes and most
    /// updates of pods are such.
    pub fn note(&mut self, change: Change) {
        match change {
            Change::Pod { facts, addresses } => self.pod(facts, addresses),
            Change::PodGone(uid) => self.pod_gone(&uid),
            Change::Namespace(facts) => self.namespace(&facts.metadata.name.clone(), Some(facts)),
            Change::NamespaceGone(name) => self.namespace(&name, None),
            Change::Node(facts) => self.node(&facts.metadata.name.clone(), Some(facts)),
            Change::NodeGone(name) => self.node(&name, None),
            Change::Profile(profile) => {
                self.profile(&profile.object.namespace.clone(), &profile.object.name.clone(), Some(*profile))
            }
            Change::ProfileGone { namespace, name } => self.profile(&namespace, &name, None),
            Change::Policy(policy) => self.policy(&policy.name.clone(), Some(*policy)),
            Change::PolicyGone(name) => self.policy(&name, None),
            Change::Source { namespace, key, value } => self.source(&namespace, key, value),
        }
    }

    /// What follows for the pods that were touched, `most` of them at a time, over all processors. To be taken in with
    /// [`Index::take`]; none are left when there are none of these.
    #[must_use]
    pub fn compile(&self, most: usize) -> Vec<(PodUid, Option<Entry>)> {
        let touched: Vec<&PodUid> = self.dirty.iter().take(most).collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let each = |uids: &[&PodUid]| -> Vec<_> { uids.iter().map(|uid| ((*uid).clone(), self.entry(uid))).collect() };
        if touched.len() < SHARED || processors == 1 {
            return each(&touched);
        }
        let share = touched.len().div_ceil(processors);
        std::thread::scope(|scope| {
            let each = &each;
            let shares: Vec<_> = touched.chunks(share).map(|share| scope.spawn(move || each(share))).collect();
            // A share that panicked stays dirty.
            shares.into_iter().filter_map(|share| share.join().ok()).flatten().collect()
        })
    }

    /// Takes in what was compiled, and says for which pods something changed.
    pub fn take(&mut self, compiled: Vec<(PodUid, Option<Entry>)>) -> Vec<Update> {
        let mut updates = std::mem::take(&mut self.gone);
        for (uid, entry) in compiled {
            self.dirty.remove(&uid);
            let Some(pod) = self.pods.get_mut(&uid) else { continue };
            if pod.entry.as_deref() == entry.as_ref() {
                continue;
            }
            let entry = entry.map(Arc::new);
            let before = std::mem::replace(&mut pod.entry, entry.clone());
            let node = pod.node.clone();
            self.concern(&uid, before.as_deref(), entry.as_deref());
            updates.push(Update { pod: uid, node, entry });
        }
        updates
    }

    /// What was compiled for a pod last, and the node that it is bound to.
    #[must_use]
    pub fn pod_on(&self, uid: &PodUid) -> Option<(&str, Option<&Arc<Entry>>)> {
        self.pods.get(uid).map(|pod| (pod.node.as_str(), pod.entry.as_ref()))
    }

    /// The pods that a profile serves, or that something was found with for it.
    pub fn concerned(&self, profile: &ProfileKey) -> impl Iterator<Item = (&PodUid, &str, &Arc<Entry>)> {
        let pods = self.concerned.get(profile).into_iter().flatten();
        pods.filter_map(|uid| {
            self.pods.get_key_value(uid).and_then(|(uid, pod)| Some((uid, &*pod.node, pod.entry.as_ref()?)))
        })
    }

    /// The profiles that something else may be said of than when this was last asked.
    pub fn touched(&mut self) -> BTreeSet<ProfileKey> {
        std::mem::take(&mut self.touched)
    }

    /// How many pods are known.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    fn entry(&self, uid: &PodUid) -> Option<Entry> {
        let pod = self.pods.get(uid)?;
        let namespace = self.namespaces.get(&pod.facts.metadata.namespace)?;
        let facts = Facts {
            pod: (*pod.facts).clone(),
            namespace: namespace.facts.clone()?,
            node: self.nodes.get(&pod.node).and_then(|node| node.facts.clone()),
        };
        let Compiled { outcome, findings } =
            compile(&facts, &namespace.profiles, &self.policies, &namespace.sources, &self.settings);
        Some(Entry { item: Item { outcome, addresses: pod.addresses.clone() }, findings })
    }

    fn concern(&mut self, pod: &PodUid, before: Option<&Entry>, after: Option<&Entry>) {
        let before = before.map(Entry::concerns).unwrap_or_default();
        let after = after.map(Entry::concerns).unwrap_or_default();
        for profile in before.difference(&after) {
            if let Some(pods) = self.concerned.get_mut(profile) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.concerned.remove(profile);
                }
            }
        }
        for profile in after.difference(&before) {
            self.concerned.entry(profile.clone()).or_default().insert(pod.clone());
        }
        self.touched.extend(before.into_iter().chain(after));
    }

    fn pod(&mut self, facts: Box<PodFacts>, addresses: Vec<IpAddr>) {
        let uid = facts.metadata.uid.clone();
        let Some(node) = facts.spec.node_name.clone() else { return self.pod_gone(&uid) };
        match self.pods.get_mut(&uid) {
            Some(known) if known.facts == facts && known.addresses == addresses => return,
            // A pod stays in its namespace and on its node.
            Some(known) => (known.facts, known.addresses) = (facts, addresses),
            None => {
                let namespace = facts.metadata.namespace.clone();
                self.namespaces.entry(namespace).or_default().pods.insert(uid.clone());
                self.nodes.entry(node.clone()).or_default().pods.insert(uid.clone());
                self.pods.insert(uid.clone(), Bound { facts, addresses, node, entry: None });
            }
        }
        self.dirty.insert(uid);
    }

    fn pod_gone(&mut self, uid: &PodUid) {
        self.dirty.remove(uid);
        let Some(Bound { facts, node, entry, .. }) = self.pods.remove(uid) else { return };
        if let Some(namespace) = self.namespaces.get_mut(&facts.metadata.namespace) {
            namespace.pods.remove(uid);
        }
        self.forget_if_empty(&facts.metadata.namespace);
        if let Some(bound) = self.nodes.get_mut(&node) {
            bound.pods.remove(uid);
        }
        self.forget_node_if_empty(&node);
        if let Some(entry) = entry {
            self.concern(uid, Some(&entry), None);
            self.gone.push(Update { pod: uid.clone(), node, entry: None });
        }
    }

    fn namespace(&mut self, name: &str, facts: Option<NamespaceFacts>) {
        let known = self.namespaces.entry(name.to_owned()).or_default();
        if known.facts != facts {
            known.facts = facts;
            self.dirty.extend(known.pods.iter().cloned());
        }
        self.forget_if_empty(name);
    }

    fn node(&mut self, name: &str, mut facts: Option<NodeFacts>) {
        let known = self.nodes.entry(name.to_owned()).or_default();
        if let (Some(known), Some(facts)) = (&known.facts, &mut facts) {
            keep_times(known, facts);
        }
        if known.facts != facts {
            known.facts = facts;
            self.dirty.extend(known.pods.iter().cloned());
        }
        self.forget_node_if_empty(name);
    }

    /// A profile touches the pods that it selects now and those that it selected before.
    fn profile(&mut self, namespace: &str, name: &str, new: Option<Profile>) {
        let known = self.namespaces.entry(namespace.to_owned()).or_default();
        let place = known.profiles.iter().position(|profile| profile.object.name == name);
        let old = place.map(|place| known.profiles.remove(place));
        if old != new {
            self.touched.insert(ProfileKey { namespace: namespace.to_owned(), name: name.to_owned() });
            self.dirty.extend(selected(&known.pods, &self.pods, &[old.as_ref(), new.as_ref()]));
        }
        known.profiles.extend(new);
        self.forget_if_empty(namespace);
    }

    /// A policy touches the pods of the namespaces that it holds for now and of those that it held for before.
    fn policy(&mut self, name: &str, new: Option<Policy>) {
        let place = self.policies.iter().position(|policy| policy.name == name);
        let old = place.map(|place| self.policies.remove(place));
        if old != new {
            let both = [&old, &new];
            let holds = |facts: &NamespaceFacts| {
                both.into_iter().flatten().any(|policy| policy.namespaces.matches(&facts.metadata.labels))
            };
            let held = self.namespaces.values().filter(|namespace| namespace.facts.as_ref().is_some_and(holds));
            self.dirty.extend(held.flat_map(|namespace| namespace.pods.iter().cloned()));
        }
        self.policies.extend(new);
        self.policies.sort_by(|one, other| one.name.cmp(&other.name)); // findings name the first of equals
    }

    /// A ConfigMap's value touches the pods of the profiles that name it.
    fn source(&mut self, namespace: &str, key: KeyRef, value: Option<Bytes>) {
        let known = self.namespaces.entry(namespace.to_owned()).or_default();
        let old = match value.clone() {
            Some(value) => known.sources.insert(key.clone(), value),
            None => known.sources.remove(&key),
        };
        if old != value {
            let names = |profile: &&Profile| matches!(&profile.user_data, Some(UserDataSource::ConfigMap(named)) if *named == key);
            let naming: Vec<_> = known.profiles.iter().filter(names).map(Some).collect();
            self.dirty.extend(selected(&known.pods, &self.pods, &naming));
        }
        self.forget_if_empty(namespace);
    }

    fn forget_if_empty(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some_and(|known| *known == Namespace::default()) {
            self.namespaces.remove(namespace);
        }
    }

    fn forget_node_if_empty(&mut self, node: &str) {
        if self.nodes.get(node).is_some_and(|known| *known == Node::default()) {
            self.nodes.remove(node);
        }
    }
}
