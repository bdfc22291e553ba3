//! Compiles pods of the index. A panic while one pod is compiled denies that pod only.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use podmeta_agent_api::WorkloadItem;
use podmeta_metadata::compile::{Compiled, DenialReason, Denied, Outcome, Settings, Sources};
use podmeta_metadata::facts::Facts;
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::Profile;
use podmeta_metadata::workload::PodRef;

use super::{Index, NamespaceEntry};
use crate::model::compiled_pod::CompiledPod;

/// The number of pods from which compiling is split among processors. Below it, starting threads costs more.
const PARALLEL_THRESHOLD: usize = 64;

/// The reason of a pod whose compilation panicked.
const INTERNAL_ERROR: &str = "internal error: the pod could not be compiled; see the operator's log";

/// The function that compiles one pod. Tests replace it.
pub(super) type CompileFn = fn(&Facts, &[&Profile], &[Policy], &Sources, &Settings) -> Compiled;

/// Compiled pods, by the UID of their object. `None`: agents do not get the pod.
pub type CompiledPods = Vec<(PodUid, Option<CompiledPod>)>;

impl Index {
    /// Compiles up to `max_pods` of the pods that changes have affected, on all processors. The result is empty if no pod
    /// is left. It takes effect with [`Index::apply_compiled`].
    #[must_use]
    pub fn compile(&self, max_pods: usize) -> CompiledPods {
        let pending: Vec<&PodUid> = self.pending_pods.iter().take(max_pods).collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let compile_all =
            |uids: &[&PodUid]| -> Vec<_> { uids.iter().map(|uid| ((*uid).clone(), self.compile_pod(uid))).collect() };
        if pending.len() < PARALLEL_THRESHOLD || processors == 1 {
            return compile_all(&pending);
        }
        let chunk_size = pending.len().div_ceil(processors);
        std::thread::scope(|scope| {
            let compile_all = &compile_all;
            let threads: Vec<_> =
                pending.chunks(chunk_size).map(|chunk| scope.spawn(move || compile_all(chunk))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
        })
    }

    /// Returns `None` if the pod is unknown, its namespace is not known yet (policies select by its labels), or it is a mirror
    /// pod with the UID of another pod.
    fn compile_pod(&self, uid: &PodUid) -> Option<CompiledPod> {
        let pod = self.pods.get(uid).filter(|_| self.has_own_uid(uid))?;
        let namespace: &NamespaceEntry = self.namespaces.get(&pod.facts.metadata.namespace)?;
        let facts = Facts {
            pod: (*pod.facts).clone(),
            namespace: namespace.facts.clone()?,
            node: self.nodes.get(&pod.node).and_then(|node| node.facts.clone()),
        };
        let profiles = namespace.effective_profiles();
        let compile =
            || (self.compile_fn)(&facts, &profiles, &self.policies, &namespace.config_map_values, &self.settings);
        let Compiled { outcome, findings } =
            catch_unwind(AssertUnwindSafe(compile)).unwrap_or_else(|panic| deny(&facts, &profiles, panic.as_ref()));
        Some(CompiledPod { item: WorkloadItem { outcome, addresses: pod.addresses.clone() }, findings })
    }
}

/// Denies a pod whose compilation panicked, with a finding for each profile that matches it.
fn deny(facts: &Facts, profiles: &[&Profile], panic: &(dyn Any + Send)) -> Compiled {
    let metadata = &facts.pod.metadata;
    let error = panic.downcast_ref::<String>().map(String::as_str);
    let error = error.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    tracing::error!(
        namespace = metadata.namespace,
        pod = metadata.name,
        error,
        "internal error: compiling a pod panicked; the pod is denied"
    );
    let uid = facts.pod.runtime_uid().clone();
    let pod = PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid };
    let matching = profiles.iter().filter(|profile| profile.matches(&facts.pod));
    let findings = matching.map(|profile| Finding {
        profile: Some(profile.object.clone()),
        field: "spec".to_owned(),
        reason: FindingReason::InternalError,
        message: format!("pod {}: {INTERNAL_ERROR}", metadata.name),
    });
    let findings = findings.collect();
    Compiled {
        outcome: Outcome::Denied(Denied { pod, reason: DenialReason::without_profile(INTERNAL_ERROR) }),
        findings,
    }
}
