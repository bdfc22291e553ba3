//! Compiles pods from shared and copied data of the index, so that the index is not locked. A panic while one pod is compiled
//! denies that pod only.

use std::any::Any;
use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use podmeta_agent_api::WorkloadItem;
use podmeta_metadata::compile::{Compiled, ConfigMapValues, DenialReason, Denied, Outcome, Settings};
use podmeta_metadata::facts::{Facts, NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::Profile;
use podmeta_metadata::workload::PodRef;

use super::{Index, NamespaceEntry};
use crate::model::compiled_pod::{CompiledPod, ProfileKey};

/// The number of pods from which compiling is split among processors. Below it, starting threads costs more.
const PARALLEL_THRESHOLD: usize = 64;

/// The reason of a pod whose compilation panicked.
const INTERNAL_ERROR: &str = "internal error: the pod could not be compiled; see the operator's log";

/// The function that compiles one pod. Tests replace it.
pub(super) type CompileFn = fn(&Facts, &[Arc<Profile>], &[Policy], &ConfigMapValues, &Settings) -> Compiled;

/// Compiled pods, by the UID of their object. `None`: agents do not get the pod.
pub type CompiledPods = Vec<(PodUid, Option<CompiledPod>)>;

/// The inputs of pods that are compiled together. Later changes of the index do not affect them.
#[derive(Debug)]
pub struct CompileBatch {
    compile_fn: CompileFn,
    settings: Settings,
    policies: Arc<Vec<Policy>>,
    jobs: Vec<CompileJob>,
}

/// The inputs of one pod.
#[derive(Debug)]
struct CompileJob {
    uid: PodUid,
    pod: Arc<PodFacts>,
    addresses: Vec<IpAddr>,
    /// `None` if agents do not get the pod: its namespace, whose labels policies select, or its node does not exist. Or it
    /// is a mirror pod with the UID of another pod.
    namespace: Option<Arc<NamespaceInputs>>,
    node: Option<Arc<NodeFacts>>,
}

/// The inputs that all pods of a namespace have in common.
#[derive(Debug)]
struct NamespaceInputs {
    facts: Arc<NamespaceFacts>,
    profiles: Vec<Arc<Profile>>,
    config_map_values: Arc<ConfigMapValues>,
}

impl Index {
    /// Removes up to `max_pods` of the pending pods and returns their inputs. The batch is empty if no pod is pending. The
    /// result of [`CompileBatch::compile`] takes effect with [`Index::apply_compiled`].
    #[must_use]
    pub fn take_batch(&mut self, max_pods: usize) -> CompileBatch {
        let mut namespaces: HashMap<&str, Option<Arc<NamespaceInputs>>> = HashMap::new();
        let mut jobs = Vec::new();
        for uid in self.pending_pods.take(max_pods) {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let inputs = || self.namespaces.get(&pod.facts.metadata.namespace)?.compile_inputs().map(Arc::new);
            let namespace = namespaces.entry(&pod.facts.metadata.namespace).or_insert_with(inputs).clone();
            let node = self.nodes.get(&pod.node).and_then(|node| node.facts.clone());
            let namespace = namespace.filter(|_| node.is_some() && self.has_own_uid(&uid));
            let (pod, addresses) = (Arc::clone(&pod.facts), pod.addresses.clone());
            jobs.push(CompileJob { uid, pod, addresses, namespace, node });
        }
        let (settings, policies) = (self.settings.clone(), Arc::clone(&self.policies));
        CompileBatch { compile_fn: self.compile_fn, settings, policies, jobs }
    }
}

impl NamespaceEntry {
    fn compile_inputs(&self) -> Option<NamespaceInputs> {
        Some(NamespaceInputs {
            facts: self.facts.clone()?,
            profiles: self.effective_profiles().into_iter().cloned().collect(),
            config_map_values: Arc::clone(&self.config_map_values),
        })
    }
}

impl CompileBatch {
    /// Returns the UIDs of the pod objects of the batch.
    pub fn pods(&self) -> impl Iterator<Item = &PodUid> {
        self.jobs.iter().map(|job| &job.uid)
    }

    /// Compiles pods in their order, on all processors. Each processor stops after a pod when `must_stop` returns true.
    #[must_use]
    pub fn compile(&self, must_stop: impl Fn() -> bool + Sync) -> CompiledPods {
        let next = AtomicUsize::new(0);
        let compile_jobs = || {
            let mut compiled = CompiledPods::new();
            while let Some(job) = self.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                compiled.push((job.uid.clone(), self.compile_pod(job)));
                if must_stop() {
                    break;
                }
            }
            compiled
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if self.jobs.len() < PARALLEL_THRESHOLD || processors == 1 {
            return compile_jobs();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..processors).map(|_| scope.spawn(compile_jobs)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
        })
    }

    /// Returns `None` if agents do not get the pod.
    fn compile_pod(&self, job: &CompileJob) -> Option<CompiledPod> {
        let namespace = job.namespace.as_ref()?;
        let node = job.node.as_deref().cloned();
        let facts = Facts { pod: (*job.pod).clone(), namespace: (*namespace.facts).clone(), node };
        let profiles = namespace.profiles.as_slice();
        let values = &namespace.config_map_values;
        let compile = || (self.compile_fn)(&facts, profiles, &self.policies, values, &self.settings);
        let Compiled { outcome, profile, findings } =
            catch_unwind(AssertUnwindSafe(compile)).unwrap_or_else(|panic| deny(&facts, profiles, panic.as_ref()));
        let host_network_profile = profile.filter(|_| facts.pod.spec.host_network).as_ref().map(ProfileKey::of);
        let item = WorkloadItem { outcome, addresses: job.addresses.clone() };
        Some(CompiledPod { item, host_network_profile, findings })
    }
}

/// Denies a pod whose compilation panicked, with a finding for each profile that matches it.
fn deny(facts: &Facts, profiles: &[Arc<Profile>], panic: &(dyn Any + Send)) -> Compiled {
    let metadata = &facts.pod.metadata;
    let error = panic.downcast_ref::<String>().map(String::as_str);
    let error = error.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    let uid = facts.pod.runtime_uid().clone();
    let pod = PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid };
    tracing::error!(%pod, error, "internal error: compiling a pod panicked; the pod is denied (403): report this bug");
    let matching = profiles.iter().filter(|profile| profile.matches(&facts.pod));
    let findings = matching.map(|profile| Finding {
        profile: Some(profile.object.clone()),
        field: "spec".to_owned(),
        reason: FindingReason::InternalError,
        message: format!("pod {}: {INTERNAL_ERROR}", metadata.name),
    });
    let findings = findings.collect();
    Compiled {
        outcome: Outcome::Denied(Denied { pod, reason: DenialReason::new(INTERNAL_ERROR) }),
        profile: None,
        findings,
    }
}
