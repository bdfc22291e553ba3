//! What is known of the cluster, and what follows from it for each pod. A change marks the pods that it can touch; they are
//! compiled together, once, however many changes there were. It knows nothing of the API server, of agents or of time.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use podmeta_metadata::compile::{Compiled, Settings, Sources, compile};
use podmeta_metadata::facts::{Facts, NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::{KeyRef, Profile, UserDataSource};

/// One object as it is now, or the name of one that is gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// A pod. One that is bound to no node is remembered only as not being there.
    Pod(Box<PodFacts>),
    /// A pod is gone.
    PodGone(PodUid),
    /// A namespace. Until it is known nothing is compiled for its pods: policies select by its labels.
    Namespace(NamespaceFacts),
    /// A namespace is gone.
    NamespaceGone(String),
    /// A node.
    Node(NodeFacts),
    /// A node is gone.
    NodeGone(String),
    /// A profile that is valid.
    Profile(Box<Profile>),
    /// A profile is gone.
    ProfileGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A policy that is valid.
    Policy(Box<Policy>),
    /// A policy is gone.
    PolicyGone(String),
    /// The value of a ConfigMap's key that a profile names; none if there is none.
    Source {
        /// The ConfigMap's namespace.
        namespace: String,
        /// Its name, and the key.
        key: KeyRef,
        /// The value.
        value: Option<Bytes>,
    },
}

/// What changed for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The pod.
    pub pod: PodUid,
    /// The node that it is or was bound to, whose agent is to be told.
    pub node: String,
    /// What follows for it now; none if nothing is to be served.
    pub compiled: Option<Arc<Compiled>>,
}

/// Everything that is known.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    pods: HashMap<PodUid, Bound>,
    namespaces: HashMap<String, Namespace>,
    nodes: HashMap<String, NodeFacts>,
    policies: Vec<Policy>,
    dirty: BTreeSet<PodUid>,
    gone: Vec<Update>,
}

/// A pod that is bound to a node, and what was compiled for it last.
#[derive(Debug)]
struct Bound {
    facts: PodFacts,
    node: String,
    compiled: Option<Arc<Compiled>>,
}

#[derive(Debug, Default, PartialEq)]
struct Namespace {
    /// None as long as only objects in it are known.
    facts: Option<NamespaceFacts>,
    profiles: Vec<Profile>,
    sources: Sources,
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
            dirty: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    /// Notes a change, and which pods it can touch. One that changes nothing touches none: heartbeats of nodes and most
    /// updates of pods are such.
    pub fn note(&mut self, change: Change) {
        match change {
            Change::Pod(facts) => self.pod(*facts),
            Change::PodGone(uid) => self.pod_gone(&uid),
            Change::Namespace(facts) => {
                let name = facts.metadata.name.clone();
                let namespace = self.namespaces.entry(name.clone()).or_default();
                if namespace.facts.as_ref() != Some(&facts) {
                    namespace.facts = Some(facts);
                    self.mark(|pod| pod.facts.metadata.namespace == name);
                }
            }
            Change::NamespaceGone(name) => {
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.facts = None;
                }
                self.forget_if_empty(&name);
                self.mark(|pod| pod.facts.metadata.namespace == name);
            }
            Change::Node(facts) => {
                let name = facts.metadata.name.clone();
                if self.nodes.get(&name) != Some(&facts) {
                    self.nodes.insert(name.clone(), facts);
                    self.mark(|pod| pod.node == name);
                }
            }
            Change::NodeGone(name) => {
                self.nodes.remove(&name);
                self.mark(|pod| pod.node == name);
            }
            Change::Profile(profile) => {
                self.profile(&profile.object.namespace.clone(), &profile.object.name.clone(), Some(*profile))
            }
            Change::ProfileGone { namespace, name } => self.profile(&namespace, &name, None),
            Change::Policy(policy) => self.policy(&policy.name.clone(), Some(*policy)),
            Change::PolicyGone(name) => self.policy(&name, None),
            Change::Source { namespace, key, value } => self.source(&namespace, key, value),
        }
    }

    /// Compiles every pod that was touched since the last time, and says for which of them something changed.
    pub fn compile(&mut self) -> Vec<Update> {
        let mut updates = std::mem::take(&mut self.gone);
        for uid in std::mem::take(&mut self.dirty) {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let compiled = self.compiled(pod).map(Arc::new);
            let Some(pod) = self.pods.get_mut(&uid) else { continue };
            if pod.compiled != compiled {
                pod.compiled = compiled.clone();
                updates.push(Update { pod: uid, node: pod.node.clone(), compiled });
            }
        }
        updates
    }

    /// What was compiled for a pod last.
    #[must_use]
    pub fn compiled_for(&self, uid: &PodUid) -> Option<&Arc<Compiled>> {
        self.pods.get(uid)?.compiled.as_ref()
    }

    fn compiled(&self, pod: &Bound) -> Option<Compiled> {
        let namespace = self.namespaces.get(&pod.facts.metadata.namespace)?;
        let facts = Facts {
            pod: pod.facts.clone(),
            namespace: namespace.facts.clone()?,
            node: self.nodes.get(&pod.node).cloned(),
        };
        Some(compile(&facts, &namespace.profiles, &self.policies, &namespace.sources, &self.settings))
    }

    fn pod(&mut self, facts: PodFacts) {
        let uid = facts.metadata.uid.clone();
        let Some(node) = facts.spec.node_name.clone() else { return self.pod_gone(&uid) };
        match self.pods.get_mut(&uid) {
            Some(known) if known.facts == facts => return,
            Some(known) => known.facts = facts,
            None => drop(self.pods.insert(uid.clone(), Bound { facts, node, compiled: None })),
        }
        self.dirty.insert(uid);
    }

    fn pod_gone(&mut self, uid: &PodUid) {
        self.dirty.remove(uid);
        if let Some(Bound { node, compiled: Some(_), .. }) = self.pods.remove(uid) {
            self.gone.push(Update { pod: uid.clone(), node, compiled: None });
        }
    }

    /// A profile touches the pods that it selects now and those that it selected before.
    fn profile(&mut self, namespace: &str, name: &str, new: Option<Profile>) {
        let profiles = &mut self.namespaces.entry(namespace.to_owned()).or_default().profiles;
        let place = profiles.iter().position(|profile| profile.object.name == name);
        let old = place.map(|place| profiles.remove(place));
        if old != new {
            let both = [&old, &new];
            let touches = |pod: &Bound| both.into_iter().flatten().any(|profile| profile.matches(&pod.facts));
            let touched = self.pods.iter().filter(|(_, pod)| touches(pod)).map(|(uid, _)| uid.clone());
            self.dirty.extend(touched.collect::<Vec<_>>());
        }
        if let (Some(profile), Some(known)) = (new, self.namespaces.get_mut(namespace)) {
            known.profiles.push(profile);
        }
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
            let held = self.namespaces.iter().filter(|(_, namespace)| namespace.facts.as_ref().is_some_and(holds));
            let held: BTreeSet<String> = held.map(|(name, _)| name.clone()).collect();
            self.mark(|pod| held.contains(&pod.facts.metadata.namespace));
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
        if old == value {
            return;
        }
        let names =
            |profile: &&Profile| matches!(&profile.user_data, Some(UserDataSource::ConfigMap(named)) if *named == key);
        let naming: Vec<Profile> = known.profiles.iter().filter(names).cloned().collect();
        self.mark(|pod| naming.iter().any(|profile| profile.matches(&pod.facts)));
        self.forget_if_empty(namespace);
    }

    /// Objects of a namespace may go after it, and come before it.
    fn forget_if_empty(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(|known| *known == Namespace::default()) {
            self.namespaces.remove(name);
        }
    }

    fn mark(&mut self, touched: impl Fn(&Bound) -> bool) {
        let touched = self.pods.iter().filter(|(_, pod)| touched(pod)).map(|(uid, _)| uid.clone());
        self.dirty.extend(touched);
    }
}
