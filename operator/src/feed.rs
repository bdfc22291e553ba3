//! What each node's agent is told, in order. Only what is now is kept, with the version in which it came to be, so an agent
//! that was away for a while gets each pod once, however often it changed.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use podmeta_agent_api::{Change, Epoch, Event, List, ResourceVersion};
use podmeta_metadata::names::PodUid;
use serde::{Serialize, Serializer};

use crate::index::{Entry, Update};

/// How many deletions of a node are remembered. An agent that missed more lists again, which is about as much to send.
const MAX_DELETIONS: usize = 256;

/// The changes of one epoch.
#[derive(Debug)]
pub struct Feed {
    epoch: Epoch,
    number: u64,
    nodes: HashMap<String, Node>,
    /// The number of the change with which a node was forgotten last.
    forgotten: u64,
}

/// An agent asked for changes that are not known here any more, or never were: it must list again (410).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old, or of another operator: list again")]
pub struct Gone;

#[derive(Debug, Default)]
struct Node {
    pods: HashMap<PodUid, Served>,
    /// The pods that went last, with the number of that change.
    deletions: VecDeque<(u64, PodUid)>,
    /// The number of the last deletion that was forgotten.
    forgotten: u64,
}

#[derive(Debug)]
struct Served {
    /// The number of the change with which the pod came.
    added: u64,
    /// The number of its last change.
    modified: u64,
    entry: Arc<Entry>,
}

/// What an agent is told of one pod: shared with what is known here, not copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent(Arc<Entry>);

impl Serialize for Sent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.item.serialize(serializer)
    }
}

impl Feed {
    /// A feed without changes.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, number: 0, nodes: HashMap::new(), forgotten: 0 }
    }

    /// Takes in what changed, and says which nodes' agents are to be told. What only a profile's author should know is not
    /// for agents.
    pub fn take(&mut self, updates: Vec<Update>) -> Vec<String> {
        let mut told = Vec::new();
        for Update { pod, node, entry } in updates {
            let new = || Node { forgotten: self.forgotten, ..Node::default() };
            let known = self.nodes.entry(node.clone()).or_insert_with(new);
            if known.take(self.number + 1, pod, entry) {
                self.number += 1;
                told.push(node);
            }
        }
        told.sort_unstable();
        told.dedup();
        told
    }

    /// Whether a node's agent is told of any pod.
    #[must_use]
    pub fn has_pods(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| !node.pods.is_empty())
    }

    /// Forgets a node that is gone. An agent on a new node of its name lists again.
    pub fn forget(&mut self, node: &str) {
        if self.nodes.remove(node).is_some() {
            self.number += 1;
            self.forgotten = self.number;
        }
    }

    /// Everything that a node's agent serves now.
    #[must_use]
    pub fn list(&self, node: &str) -> List<Sent> {
        let pods = self.nodes.get(node).into_iter().flat_map(|node| node.pods.values());
        let items = pods.map(Served::sent).collect();
        List { resource_version: self.version(self.number), items }
    }

    /// What changed for a node since a version, in order, `most` changes at a time, and a bookmark if these are all and that
    /// is not where the changes end.
    ///
    /// # Errors
    /// If that version is of another epoch, of the future, or before a deletion that was forgotten.
    pub fn since(&self, node: &str, version: &ResourceVersion, most: usize) -> Result<Vec<Event<Sent>>, Gone> {
        if version.epoch != self.epoch || version.number > self.number {
            return Err(Gone);
        }
        let mut changes = match self.nodes.get(node) {
            Some(known) if version.number < known.forgotten => return Err(Gone),
            Some(known) => known.since(version.number),
            None if version.number < self.forgotten => return Err(Gone),
            None => Vec::new(),
        };
        changes.sort_unstable_by_key(|(number, _)| *number);
        let all = changes.len() <= most;
        changes.truncate(most);
        let last = changes.last().map_or(version.number, |(number, _)| *number);
        let event = |(number, changed): (u64, Changed<'_>)| Event {
            resource_version: self.version(number),
            change: changed.change(version.number),
        };
        let mut events: Vec<Event<Sent>> = changes.into_iter().map(event).collect();
        if all && last < self.number {
            events.push(Event { resource_version: self.version(self.number), change: Change::Bookmark });
        }
        Ok(events)
    }

    fn version(&self, number: u64) -> ResourceVersion {
        ResourceVersion { epoch: self.epoch.clone(), number }
    }
}

impl Node {
    /// Whether anything is else for the agent.
    fn take(&mut self, number: u64, pod: PodUid, entry: Option<Arc<Entry>>) -> bool {
        match (self.pods.get_mut(&pod), entry) {
            (Some(served), Some(entry)) => {
                let same = served.entry.item == entry.item;
                if !same {
                    served.modified = number;
                }
                served.entry = entry;
                !same
            }
            (None, Some(entry)) => {
                self.pods.insert(pod, Served { added: number, modified: number, entry });
                true
            }
            (Some(_), None) => {
                self.pods.remove(&pod);
                self.deletions.push_back((number, pod));
                if self.deletions.len() > MAX_DELETIONS
                    && let Some((forgotten, _)) = self.deletions.pop_front()
                {
                    self.forgotten = forgotten;
                }
                true
            }
            (None, None) => false,
        }
    }

    fn since(&self, number: u64) -> Vec<(u64, Changed<'_>)> {
        let changed = self.pods.values().filter(|served| served.modified > number);
        let changed = changed.map(|served| (served.modified, Changed::Served(served)));
        let deleted = self.deletions.iter().filter(|(when, _)| *when > number);
        changed.chain(deleted.map(|(when, uid)| (*when, Changed::Deleted(uid)))).collect()
    }
}

/// What changed, before it is copied.
enum Changed<'f> {
    Served(&'f Served),
    Deleted(&'f PodUid),
}

impl Changed<'_> {
    /// The change for an agent that knows what was until a number.
    fn change(&self, until: u64) -> Change<Sent> {
        match self {
            Self::Served(served) if served.added > until => Change::Added { object: Box::new(served.sent()) },
            Self::Served(served) => Change::Modified { object: Box::new(served.sent()) },
            Self::Deleted(uid) => Change::Deleted { uid: (*uid).clone() },
        }
    }
}

impl Served {
    fn sent(&self) -> Sent {
        Sent(Arc::clone(&self.entry))
    }
}
