//! The capabilities of the link daemon's container in the chart. The kernel keeps capabilities for each thread.

use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

const CHART: &str = include_str!("../../../charts/podmeta/templates/link.yaml");

/// Limits the calling thread, and all threads that it starts later, to the capabilities of the daemon's container.
pub(crate) fn limit_thread() {
    let chart = chart_capabilities();
    for capability in CapabilitySet::all().iter().filter(|capability| !chart.contains(*capability)) {
        match remove_capability_from_bounding_set(capability) {
            // The kernel has no such capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => panic!("cannot drop a capability: {error}"),
        }
    }
    let sets = CapabilitySets { effective: chart, permitted: chart, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).unwrap();
}

/// Returns the capabilities that the chart adds. It drops all others.
fn chart_capabilities() -> CapabilitySet {
    let lines = || CHART.lines().map(str::trim);
    assert!(lines().any(|line| line == "drop: [ALL]"));
    let added = lines().find_map(|line| line.strip_prefix("add: [")?.strip_suffix(']')).unwrap();
    let named = |name| CapabilitySet::from_name(name).unwrap_or_else(|| panic!("unknown capability {name}"));
    added.split(", ").map(named).collect()
}

#[test]
fn limited_thread_and_its_threads_have_the_capabilities_of_the_chart() {
    let status = || {
        limit_thread();
        std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status")).join().unwrap().unwrap()
    };
    let status = std::thread::spawn(status).join().unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":\t")).unwrap();
        assert_eq!(u64::from_str_radix(line, 16).unwrap(), chart_capabilities().bits(), "{set}");
    }
}
