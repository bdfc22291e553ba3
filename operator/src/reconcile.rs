//! Keeps the world as the cluster is: one task takes in what watches tell, compiles what it touches, and wakes the streams
//! of the agents that are to be told. Everybody else only reads.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};

use crate::index::ProfileKey;
use crate::metrics::Metrics;
use crate::world::{Input, Sources, World};

/// How many changes are taken in before pods are compiled.
const MANY: usize = 4096;

/// How many pods are compiled at a time. Agents are told of these before the next are.
const PODS: usize = 1024;

/// The world, and who waits for it to change.
#[derive(Debug)]
pub struct Shared {
    world: RwLock<World>,
    /// By node, when its agent was last to be told of something.
    streams: Mutex<HashMap<String, watch::Sender<Instant>>>,
    touched: Notify,
    /// What profiles name, once all profiles are known.
    sources: watch::Sender<Option<Sources>>,
    /// Whether the world has everything that there was when this process began.
    synced: watch::Sender<bool>,
    /// The operator's counts.
    pub metrics: Metrics,
}

impl Shared {
    /// A world that nobody has told anything yet.
    #[must_use]
    pub fn new(world: World, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            world: RwLock::new(world),
            streams: Mutex::default(),
            touched: Notify::new(),
            sources: watch::Sender::new(None),
            synced: watch::Sender::new(false),
            metrics,
        })
    }

    /// The world. Never held while anything is waited for.
    pub fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, to be changed.
    pub fn world_mut(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the world has everything that there was when this process began.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Hears when a node's agent is to be told of something.
    #[must_use]
    pub fn changes(&self, node: &str) -> watch::Receiver<Instant> {
        let mut streams = self.streams();
        let sender = streams.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(Instant::now()));
        sender.subscribe()
    }

    /// Waits until something else may be said of a profile.
    pub async fn touched(&self) {
        self.touched.notified().await;
    }

    /// The profiles that something else may be said of.
    #[must_use]
    pub fn take_touched(&self) -> BTreeSet<ProfileKey> {
        self.world_mut().touched()
    }

    /// Something may be said of every profile: this replica leads, and has not said anything yet.
    pub fn all_profiles_touched(&self) {
        self.world_mut().touch_all();
        self.touched.notify_one();
    }

    /// Takes in what a node's agent reports, if this replica leads: whether it does.
    pub fn report(&self, leads: &watch::Receiver<bool>, node: &str, report: podmeta_agent_api::calls::Report) -> bool {
        let mut world = self.world_mut();
        // Asked while the world is held: nothing is taken in after the reports were forgotten.
        let leads = *leads.borrow();
        let new = leads && world.report(node, report);
        drop(world);
        if new {
            self.touched.notify_one();
        }
        leads
    }

    /// Forgets what agents reported, now that another replica leads: that one is told other things from here on.
    pub fn forget_reports(&self) {
        self.world_mut().forget_reports();
    }

    /// What profiles name, once all profiles are known.
    #[must_use]
    pub fn sources(&self) -> watch::Receiver<Option<Sources>> {
        self.sources.subscribe()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Instant>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, nodes: &[String]) {
        let mut streams = self.streams();
        streams.retain(|_, sender| sender.receiver_count() > 0);
        for node in nodes {
            if let Some(sender) = streams.get(node) {
                sender.send_replace(Instant::now());
            }
        }
    }
}

/// What a watch says.
#[derive(Debug)]
pub enum Told {
    /// Something is so now.
    Input(Input),
    /// One of the watches has told everything that there was when it began.
    Complete(Watched),
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// Namespaces.
    Namespaces,
    /// Nodes.
    Nodes,
    /// Pods that are bound to a node.
    Pods,
    /// MetadataPolicies.
    Policies,
    /// MetadataProfiles.
    Profiles,
    /// The Secrets and ConfigMaps that those name.
    Sources,
}

impl Watched {
    /// All that must be known before agents are told anything: half a picture would take pods away from them.
    const ALL: [Self; 6] = [Self::Namespaces, Self::Nodes, Self::Pods, Self::Policies, Self::Profiles, Self::Sources];
}

/// Takes in what watches tell, until all of them have ended.
pub async fn run(shared: Arc<Shared>, mut told: mpsc::Receiver<Told>) {
    let mut batch = Vec::new();
    let mut missing = BTreeSet::from(Watched::ALL);
    while told.recv_many(&mut batch, MANY).await > 0 {
        let shared = Arc::clone(&shared);
        let told = std::mem::take(&mut batch);
        for told in &told {
            if let Told::Complete(watched) = told {
                missing.remove(watched);
            }
        }
        let still = missing.clone();
        // Compiling many pods takes long enough to be in the way of the tasks of this thread.
        if let Err(error) = tokio::task::spawn_blocking(move || work(&shared, told, &still)).await {
            tracing::error!(%error, "changes were lost, by a mistake of podmeta's; the operator ends, to begin anew");
            return;
        }
    }
}

fn work(shared: &Shared, told: Vec<Told>, missing: &BTreeSet<Watched>) {
    {
        let mut world = shared.world_mut();
        for told in told {
            if let Told::Input(input) = told {
                world.note(input);
            }
        }
    }
    if !missing.contains(&Watched::Profiles) {
        let sources = shared.world().sources();
        shared.sources.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&sources);
            *known = Some(sources);
            changed
        });
    }
    if !missing.is_empty() {
        return;
    }
    loop {
        let started = Instant::now();
        let compiled = shared.world().compile(PODS);
        let none_left = compiled.is_empty();
        let pods = compiled.len();
        let (nodes, changed) = shared.world_mut().take(compiled);
        if pods > 0 {
            shared.metrics.compiled(pods, changed, started.elapsed());
        }
        shared.wake(&nodes);
        if none_left {
            break;
        }
    }
    let (pods, known) = shared.world().counts();
    shared.metrics.known(pods, known);
    shared.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    shared.touched.notify_one();
}

#[cfg(test)]
mod tests {
    use podmeta_agent_api::calls::Report;
    use podmeta_metadata::compile::Settings;

    use super::*;

    #[test]
    fn what_agents_report_to_the_leader_stays_until_it_leads_no_more() {
        let world = World::new(Settings::default(), "e1".parse().unwrap());
        let shared = Shared::new(world, Metrics::default());
        let (leads, leading) = watch::channel(false);
        assert!(!shared.report(&leading, "n1", Report::default()));
        let new = || shared.world_mut().report("n1", Report::default());
        leads.send_replace(true);
        assert!(shared.report(&leading, "n1", Report::default()));
        shared.all_profiles_touched();
        assert!(!new(), "a report that came before the leader's first word is forgotten");
        shared.forget_reports();
        assert!(new());
    }
}
