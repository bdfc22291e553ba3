//! What the operator said of the node's pods last, and what of it is served. It is saved in a file on the node, so that the
//! agent may start again while the operator is away.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use podmeta_agent_api::calls::{PodReport, ProfileGeneration, Report};
use podmeta_agent_api::{ResourceVersion, WatchChange, WatchEvent, WorkloadItem, WorkloadList};
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::Role;
use podmeta_metadata::workload::{Link, PodRef, Workload};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::broker::operator::{Operator, Saved};
use crate::edge::Edge;
use crate::keys::replace;

/// For how many seconds a pod counts as one that asks without a token: a day.
const LATELY: i64 = 24 * 3600;

/// The file that the state is saved in, by one task at a time.
#[derive(Clone, Debug)]
pub struct StateFile(Arc<Mutex<PathBuf>>);

/// What is saved.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Where the operator's changes go on.
    pub resource_version: Option<ResourceVersion>,
    /// The node's pods.
    pub items: Vec<WorkloadItem>,
    /// What else is kept of them.
    pub kept: Saved,
}

impl StateFile {
    /// The file in the agent's folder, which nobody else can read.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self(Arc::new(Mutex::new(folder.join("state.json"))))
    }

    /// What was saved; none if nothing was. A file that cannot be read is put aside: the operator says all of it again.
    ///
    /// # Errors
    /// If the file is there and cannot be opened.
    pub fn read(&self) -> Result<Option<State>> {
        let path = &*self.path();
        let text = match fs::read(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was saved cannot be read, as after an upgrade; the operator is asked for it");
                Ok(None)
            }
        }
    }

    /// Saves the state, as a whole.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec(state)?);
        replace(&self.path(), &text)
    }

    fn path(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pods of the node.
pub struct Node {
    pods: Mutex<Pods>,
    edge: Arc<Edge>,
    broker: Arc<Operator>,
    /// How often something changed.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pods {
    version: Option<ResourceVersion>,
    items: BTreeMap<PodUid, WorkloadItem>,
}

impl Node {
    /// A node whose pods are those that were saved.
    #[must_use]
    pub fn new(edge: Arc<Edge>, broker: Arc<Operator>, state: State) -> Arc<Self> {
        let items = state.items.into_iter().map(|item| (uid(&item).clone(), item)).collect();
        let pods = Pods { version: state.resource_version, items };
        let node = Self { pods: Mutex::new(pods), edge, broker, changes: watch::Sender::new(0) };
        node.publish(&node.pods());
        Arc::new(node)
    }

    /// Where the operator's changes go on; none if everything must be listed.
    #[must_use]
    pub fn version(&self) -> Option<ResourceVersion> {
        self.pods().version.clone()
    }

    /// Hears when something changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes in a list: the pods that are not on it are gone.
    pub fn list(&self, list: WorkloadList) {
        let items = list.items.into_iter().map(|item| (uid(&item).clone(), item)).collect();
        let mut pods = self.pods();
        let before = std::mem::replace(&mut pods.items, items);
        pods.version = Some(list.resource_version);
        self.forget(&before, &pods.items);
        self.publish(&pods);
    }

    /// Takes in changes.
    pub fn take(&self, events: Vec<WatchEvent>) {
        let mut pods = self.pods();
        let before = pods.items.clone();
        for WatchEvent { resource_version, change } in events {
            match change {
                WatchChange::Added { object } | WatchChange::Modified { object } => {
                    pods.items.insert(uid(&object).clone(), *object);
                }
                WatchChange::Deleted { uid } => drop(pods.items.remove(&uid)),
                WatchChange::Bookmark => {}
            }
            pods.version = Some(resource_version);
        }
        if before != pods.items {
            self.forget(&before, &pods.items);
            self.publish(&pods);
        }
    }

    /// Forgets where the operator's changes go on: everything is listed next. What is served stays.
    pub fn list_again(&self) {
        self.pods().version = None;
    }

    /// The UID of a pod by its namespace and name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PodUid> {
        let pods = self.pods();
        let found = pods.items.iter().find(|(_, item)| reference(item).to_string() == name);
        found.map(|(uid, _)| uid.clone())
    }

    /// What is saved.
    #[must_use]
    pub fn state(&self) -> State {
        let pods = self.pods();
        State {
            resource_version: pods.version.clone(),
            items: pods.items.values().cloned().collect(),
            kept: self.broker.saved(),
        }
    }

    /// What the leader is told, at a second.
    #[must_use]
    pub fn report(&self, now: i64) -> Report {
        let mut outcomes = self.broker.outcomes();
        let reported = |(uid, item): (&PodUid, &WorkloadItem)| {
            let Outcome::Served(workload) = &item.outcome else { return None };
            let profile = workload.profile.as_ref();
            let profile =
                profile.map(|profile| ProfileGeneration { uid: profile.uid.clone(), generation: profile.generation });
            let asked = self.edge.pod(uid).and_then(|pod| pod.tokenless());
            let tokenless = asked.is_some_and(|second| now - second < LATELY);
            let credentials = outcomes.remove(uid).unwrap_or_default();
            Some((uid.clone(), PodReport { profile, credentials, tokenless }))
        };
        Report { pods: self.pods().items.iter().filter_map(reported).collect() }
    }

    fn pods(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credentials are those of one role: with another role, or none, they are not served any more.
    fn forget(&self, before: &BTreeMap<PodUid, WorkloadItem>, now: &BTreeMap<PodUid, WorkloadItem>) {
        self.broker.retain(|uid| {
            now.get(uid).is_some_and(|now| before.get(uid).is_none_or(|before| roles(before) == roles(now)))
        });
    }

    fn publish(&self, pods: &Pods) {
        let view = |(uid, item): (&PodUid, &WorkloadItem)| {
            let view = item.outcome.clone().into_view(|| Link::from_addresses(uid, &item.addresses))?;
            Some((uid.clone(), view))
        };
        self.edge.publish(pods.items.iter().filter_map(view));
        self.changes.send_modify(|changes| *changes += 1);
    }
}

fn roles(item: &WorkloadItem) -> BTreeMap<Dialect, &Role> {
    item.outcome.workload().into_iter().flat_map(Workload::roles).collect()
}

fn reference(item: &WorkloadItem) -> &PodRef {
    item.outcome.pod()
}

fn uid(item: &WorkloadItem) -> &PodUid {
    &reference(item).uid
}
