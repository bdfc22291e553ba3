//! The startup taint of new nodes: which nodes are ready to lose it. Pure: times are arguments.

use podmeta_metadata::node_guard::NodeGuardState;
use tokio::time::Instant;

use super::state::OperatorState;

/// The key of the taint. Administrators set it when a node registers. podmeta never adds it.
pub const STARTUP_TAINT: &str = "podmeta.dev/not-ready";

/// A node whose startup taint can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintedNode {
    /// The node's name.
    pub name: String,
    /// The UID of the object.
    pub uid: String,
    /// The indexes of the taints with the key in the node's list of taints, in ascending order. Each effect has its own taint.
    pub indexes: Vec<usize>,
}

impl OperatorState {
    /// Returns the nodes with the taint whose guards are in place, and whose link daemon has completed its first pass. Empty
    /// unless this replica is the leader.
    #[must_use]
    pub fn ready_tainted_nodes(&self, now: Instant) -> Vec<TaintedNode> {
        let nodes = self.node_guards.iter().filter_map(|(name, reported)| {
            let is_ready = match reported.if_recent(now)? {
                // The link daemon reports these states only after its first pass.
                NodeGuardState::InPlace | NodeGuardState::LinksMissing { .. } => true,
                NodeGuardState::GuardsMissing { .. } | NodeGuardState::Starting | NodeGuardState::Unknown => false,
            };
            let taints = &self.index.node_facts(name)?.spec.taints;
            let startup = taints.iter().enumerate().filter(|(_, taint)| taint.key == STARTUP_TAINT);
            let indexes = startup.map(|(index, _)| index).collect::<Vec<_>>();
            (is_ready && !indexes.is_empty()).then(|| TaintedNode {
                name: name.clone(),
                uid: self.node_uid(name),
                indexes,
            })
        });
        nodes.collect()
    }
}

#[cfg(test)]
mod tests {
    use podmeta_agent_api::calls::Report;
    use podmeta_metadata::compile::Settings;
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::node_guard::REPORT_EXPIRY;
    use crate::model::update::StateUpdate;
    use crate::reconcile::fixture::node_update;

    fn state_with_taints(taints: &[&str]) -> OperatorState {
        let mut state = OperatorState::new(Settings::default(), "e1".parse().unwrap());
        let taints = taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect::<Vec<_>>();
        let node = json!({"metadata": {"name": "n1"}, "spec": {"taints": taints, "unschedulable": true}});
        state.apply(node_update(&serde_json::from_value(node).unwrap()));
        state.apply(StateUpdate::Leadership(true));
        state
    }

    fn report(state: &mut OperatorState, guard: NodeGuardState, received: Instant) {
        let (recorded, _) = oneshot::channel();
        let report = Report { guard, ..Report::default() };
        state.apply(StateUpdate::Report { node: "n1".into(), report, received, recorded });
    }

    #[test]
    fn node_is_ready_when_its_guards_are_in_place_after_the_first_pass() {
        let mut state = state_with_taints(&["other", STARTUP_TAINT, "more", STARTUP_TAINT]);
        let now = Instant::now();
        assert_eq!(state.ready_tainted_nodes(now), [], "no report");
        let unlinked = NodeGuardState::LinksMissing { count: 1, pods: Vec::new() };
        let missing = NodeGuardState::GuardsMissing { message: "m".to_owned() };
        for (guard, is_ready) in [
            (NodeGuardState::InPlace, true),
            (unlinked, true),
            (missing, false),
            (NodeGuardState::Starting, false),
            (NodeGuardState::Unknown, false),
        ] {
            report(&mut state, guard.clone(), now);
            let ready = TaintedNode { name: "n1".to_owned(), uid: String::new(), indexes: vec![1, 3] };
            assert_eq!(state.ready_tainted_nodes(now), vec![ready; usize::from(is_ready)], "{guard:?}");
        }
        report(&mut state, NodeGuardState::InPlace, now);
        assert_eq!(state.ready_tainted_nodes(now + REPORT_EXPIRY), [], "the report is too old");
    }

    #[test]
    fn node_without_the_taint_is_not_changed() {
        let mut state = state_with_taints(&["other"]);
        report(&mut state, NodeGuardState::InPlace, Instant::now());
        assert_eq!(state.ready_tainted_nodes(Instant::now()), []);
    }
}
