//! Everything that the operator knows, in one place: the index of pods, what agents are told, the profiles as objects,
//! Secrets that profiles name, and what agents report. It knows no API server, no socket and no time.

mod known;
mod observe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use podmeta_agent_api::Epoch;
use podmeta_agent_api::calls::Report;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::{KeyRef, ProfileRef, UserDataSource};

use crate::feed::Feed;
use crate::index::{Change, Entry, Index, ProfileKey, Update};
use crate::profile::ProfileObject;
use known::Known;

/// One object as it is now, or the name of one that is gone.
#[derive(Debug)]
pub enum Input {
    /// What pods are compiled of.
    Index(Change),
    /// A profile, valid or not.
    Profile(Box<ProfileObject>),
    /// A profile is gone.
    ProfileGone(ProfileKey),
    /// A Secret that a profile names; none if there is no such Secret.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its data.
        data: Option<SecretData>,
    },
}

/// An object in a namespace that a profile names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A Secret.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A ConfigMap.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What profiles name, and of ConfigMaps which keys.
pub type Sources = BTreeMap<Source, BTreeSet<String>>;

/// Everything.
#[derive(Debug)]
pub struct World {
    index: Index,
    feed: Feed,
    profiles: HashMap<ProfileKey, Known>,
    /// By namespace and name. None: it is known that there is none.
    secrets: HashMap<(String, String), Option<SecretData>>,
    /// By node.
    reports: HashMap<String, Report>,
    /// Nodes that are gone, and whose pods are not.
    gone: BTreeSet<String>,
    /// The profiles that something else may be said of than when it was last asked.
    touched: BTreeSet<ProfileKey>,
}

/// Why there is no data of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSecret {
    /// The API server has not been heard of it yet.
    Unread,
    /// There is no such Secret.
    Missing,
}

impl World {
    /// A world of which nothing is known yet. Its agents are told of changes by `epoch`.
    #[must_use]
    pub fn new(settings: Settings, epoch: Epoch) -> Self {
        Self {
            index: Index::new(settings),
            feed: Feed::new(epoch),
            profiles: HashMap::new(),
            secrets: HashMap::new(),
            reports: HashMap::new(),
            gone: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Notes what is so now.
    pub fn note(&mut self, input: Input) {
        match input {
            Input::Index(change) => {
                match &change {
                    Change::Node(node) => drop(self.gone.remove(&node.metadata.name)),
                    Change::NodeGone(name) => drop(self.gone.insert(name.clone())),
                    _ => {}
                }
                self.index.note(change);
            }
            Input::Profile(object) => self.profile(*object),
            Input::ProfileGone(key) => {
                self.profiles.remove(&key);
                let ProfileKey { namespace, name } = key;
                self.index.note(Change::ProfileGone { namespace, name });
            }
            Input::Secret { namespace, name, data } => {
                let naming = self
                    .profiles
                    .iter()
                    .filter(|(key, known)| key.namespace == namespace && known.secrets().any(|secret| secret == name));
                self.touched.extend(naming.map(|(key, _)| key.clone()));
                self.secrets.insert((namespace, name), data);
            }
        }
    }

    /// What follows for the pods that were touched; see [`Index::compile`].
    #[must_use]
    pub fn compile(&self, most: usize) -> Vec<(PodUid, Option<Entry>)> {
        self.index.compile(most)
    }

    /// Takes in what was compiled, and says which nodes' agents are to be told, and how many pods changed.
    pub fn take(&mut self, compiled: Vec<(PodUid, Option<Entry>)>) -> (Vec<String>, usize) {
        let updates: Vec<Update> = self.index.take(compiled);
        let changed = updates.len();
        let told = self.feed.take(updates);
        // Pods may go after their node.
        let (feed, reports) = (&mut self.feed, &mut self.reports);
        self.gone.retain(|node| {
            let has_pods = feed.has_pods(node);
            if !has_pods {
                feed.forget(node);
                reports.remove(node);
            }
            has_pods
        });
        (told, changed)
    }

    /// Whether a pod is bound to a node.
    #[must_use]
    pub fn is_on(&self, node: &str, uid: &PodUid) -> bool {
        self.index.pod_on(uid).is_some_and(|(bound, _)| bound == node)
    }

    /// Forgets what agents reported.
    pub fn forget_reports(&mut self) {
        self.reports.clear();
    }

    /// What agents are told.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// How many pods and profiles are known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.index.pods(), self.profiles.len())
    }

    /// What is served to a pod, if it is bound to this node.
    #[must_use]
    pub fn pod_on(&self, node: &str, uid: &PodUid) -> Option<&Entry> {
        let (bound, entry) = self.index.pod_on(uid)?;
        entry.filter(|_| bound == node).map(AsRef::as_ref)
    }

    /// The data of a Secret that a profile names.
    ///
    /// # Errors
    /// If there is none, or that is not known.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<&SecretData, NoSecret> {
        let read = self.secrets.get(&(namespace.to_owned(), name.to_owned())).ok_or(NoSecret::Unread)?;
        read.as_ref().ok_or(NoSecret::Missing)
    }

    /// Every Secret and ConfigMap that profiles name.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut sources = Sources::new();
        for (ProfileKey { namespace, .. }, known) in &self.profiles {
            for name in known.secrets() {
                let source = Source::Secret { namespace: namespace.clone(), name: name.to_owned() };
                sources.entry(source).or_default();
            }
            if let Some(UserDataSource::ConfigMap(key)) = known.profile().and_then(|profile| profile.user_data.as_ref())
            {
                let source = Source::ConfigMap { namespace: namespace.clone(), name: key.name.clone() };
                sources.entry(source).or_default().insert(key.key.clone());
            }
        }
        sources
    }

    /// Forgets a source, or those keys of it, that no profile names any more.
    pub fn forget(&mut self, source: &Source, keys: &BTreeSet<String>) {
        match source {
            Source::Secret { namespace, name } => drop(self.secrets.remove(&(namespace.clone(), name.clone()))),
            Source::ConfigMap { namespace, name } => {
                for key in keys {
                    let key = KeyRef { name: name.clone(), key: key.clone() };
                    self.index.note(Change::Source { namespace: namespace.clone(), key, value: None });
                }
            }
        }
    }

    /// Takes in what a node's agent reports. Whether anything is new.
    pub fn report(&mut self, node: &str, report: Report) -> bool {
        let before = self.reports.get(node);
        if before == Some(&report) {
            return false;
        }
        let changed = |uid: &PodUid| before.and_then(|before| before.pods.get(uid)) != report.pods.get(uid);
        let uids = report.pods.keys().chain(before.into_iter().flat_map(|before| before.pods.keys()));
        let profiles = uids.filter(|uid| changed(uid)).filter_map(|uid| self.pod_on(node, uid)?.profile());
        let profiles: Vec<_> = profiles.map(ProfileKey::of).collect();
        self.touched.extend(profiles);
        self.reports.insert(node.to_owned(), report);
        true
    }

    /// The profiles that something else may be said of than when this was last asked.
    pub fn touched(&mut self) -> BTreeSet<ProfileKey> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.index.touched());
        touched
    }

    /// Something else may be said of every profile.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.profiles.keys().cloned());
    }

    /// Notes what was said of a profile, so that it is not said again before the API server's echo is here.
    pub fn said(&mut self, profile: &ProfileRef, status: MetadataProfileStatus) {
        if let Some(known) = self.profiles.get_mut(&ProfileKey::of(profile))
            && known.reference.uid == profile.uid
        {
            known.status = Some(status);
        }
    }

    fn profile(&mut self, object: ProfileObject) {
        let key = ProfileKey::of(&object.reference);
        let before = self.profiles.remove(&key).filter(|before| before.reference.uid == object.reference.uid);
        let unchanged = before
            .as_ref()
            .is_some_and(|before| before.reference == object.reference && before.status == object.status);
        if !unchanged {
            self.touched.insert(key.clone());
        }
        let known = Known::next(before, object);
        self.index.note(match known.profile() {
            Some(profile) => Change::Profile(Box::new(profile.clone())),
            None => Change::ProfileGone { namespace: key.namespace.clone(), name: key.name.clone() },
        });
        self.profiles.insert(key, known);
    }
}
