//! Pods on the host network.

use super::*;

#[test]
fn pod_on_the_host_network_of_a_node_that_does_not_redirect_it_is_excluded_in_each_mode() {
    let node_mode =
        Policy { name: "p".into(), allowed_host_network: Some([HostNetwork::Node].into()), ..Policy::default() };
    for (mode, policy) in [("Deny", None), ("Pod", None), ("Node", None), ("Node", Some(node_mode))] {
        let mut state = new_state();
        state.apply(StateUpdate::Leadership(true));
        if let Some(policy) = policy {
            apply(&mut state, StateUpdate::Policy(Box::new(PolicyObject { name: "p".into(), spec: Ok(policy) })));
        }
        let web = profile("web", 1, &format!(", hostNetwork: {mode}"));
        let reference = web.reference.clone();
        apply(&mut state, StateUpdate::Profile(Box::new(web)));
        let addresses = vec!["10.0.0.8".parse().unwrap()];
        let mut facts = Box::new(new_pod_facts());
        (facts.metadata.uid, facts.metadata.name) = ("u2".try_into().unwrap(), "host".into());
        facts.spec.host_network = true;
        state.take_changed_profiles();
        apply(&mut state, StateUpdate::Pod { facts, addresses });
        assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]), "{mode}");
        let mut both = report_of(&reference, 1);
        both.pods.insert("u2".try_into().unwrap(), both.pods[&uid()].clone());
        report(&mut state, "n1", both);
        let observed = observe_web(&state);
        assert_eq!(observed.host_network_pods, ["host"], "{mode}");
        assert_eq!(observed.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["web"], "{mode}");
        apply(&mut state, StateUpdate::PodDeleted("u2".try_into().unwrap()));
        assert_eq!(state.take_changed_profiles(), BTreeSet::from([key("web")]), "{mode}");
        assert!(observe_web(&state).host_network_pods.is_empty(), "{mode}");
    }
}

#[test]
fn pod_on_the_host_network_counts_only_for_the_profile_that_applies() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("low", 1, ", priority: -1"))));
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    let mut facts = Box::new(new_pod_facts());
    facts.spec.host_network = true;
    apply(&mut state, StateUpdate::PodDeleted(uid()));
    apply(&mut state, StateUpdate::Pod { facts, addresses: Vec::new() });
    let excluded = |state: &OperatorState, name: &str| {
        state.observe(&key(name), Timestamp::UNIX_EPOCH).unwrap().2.host_network_pods
    };
    assert_eq!((excluded(&state, "web"), excluded(&state, "low")), (vec!["web".to_owned()], Vec::new()));
    apply(&mut state, StateUpdate::ProfileDeleted(key("web")));
    assert_eq!(excluded(&state, "low"), ["web"]);
}

#[test]
fn pod_on_the_host_network_of_a_node_that_redirects_it_is_programmed_only_with_the_mode_pod() {
    for (mode, served) in [("Deny", false), ("Pod", true)] {
        let mut state = new_state();
        state.apply(StateUpdate::Leadership(true));
        apply(&mut state, StateUpdate::PodDeleted(uid()));
        let web = profile("web", 1, &format!(", hostNetwork: {mode}"));
        let reference = web.reference.clone();
        apply(&mut state, StateUpdate::Profile(Box::new(web)));
        let mut facts = Box::new(new_pod_facts());
        facts.spec.host_network = true;
        apply(&mut state, StateUpdate::Pod { facts, addresses: Vec::new() });
        let report_with = |state: &mut OperatorState, host_pods, findings| {
            let mut of_node = Report { host_pods, findings, ..report_of(&reference, 1) };
            of_node.pods.get_mut(&uid()).unwrap().linked = Some(false);
            state.take_changed_profiles();
            report(state, "n1", of_node);
        };
        report_with(&mut state, false, NodeFindings::new());
        assert_eq!(observe_web(&state).host_network_pods, ["web"], "{mode}");
        report_with(&mut state, true, NodeFindings::new());
        assert!(state.take_changed_profiles().contains(&key("web")), "{mode}");
        let observed = observe_web(&state);
        assert!(observed.host_network_pods.is_empty(), "{mode}");
        assert_eq!(observed.pods.len(), usize::from(served), "{mode}");
        assert!(observed.pods.iter().all(|pod| pod.is_programmed), "{mode}");
        let failed = NodeFindings::from([(NodeFindingKind::HostPods, "m".to_owned())]);
        report_with(&mut state, true, failed);
        assert!(state.take_changed_profiles().contains(&key("web")), "{mode}");
        assert_eq!(observe_web(&state).host_network_pods, ["web"], "{mode}");
    }
}
