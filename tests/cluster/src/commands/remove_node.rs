//! The command `cluster remove-node`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{lock, up};
use crate::kubernetes::kubectl::Kubectl;
use crate::layout::{ClusterName, MachineName, NodeId};
use crate::machine::processes::{ClusterProcess, poll_until};
use crate::machine::{RunningMachine, cgroups};
use crate::prerequisites;
use crate::programs::KUBERNETES_MODULE;

/// Timeout until the kernel has ended the processes of the node's pods.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Deletes the last node: its Node object and pods, its processes, and its files. The routes to its pods stay on the other nodes.
///
/// # Errors
/// If it is not the last node or does not run, or something cannot be removed.
pub fn remove_node(cluster: &ClusterName, node: NodeId) -> Result<()> {
    prerequisites::require_root()?;
    let _lock = lock::acquire()?;
    let last = NodeId::first(up::existing_nodes(cluster)).last();
    ensure!(
        last == Some(node),
        "only the last node of cluster {cluster} can be removed: the names of nodes have no gaps"
    );
    let name = MachineName::Node(node);
    let machine = RunningMachine::find(cluster, name)?;
    let machine = machine.with_context(|| format!("node {node} of cluster {cluster} does not run"))?;
    // The kernel kills every process of the machine with its init, including pods.
    let processes = || -> Result<Vec<ClusterProcess>> {
        let prefix = format!("{name}/");
        Ok(ClusterProcess::all_of(cluster)?.into_iter().filter(|process| process.role().starts_with(&prefix)).collect())
    };
    let init = processes()?.into_iter().find(|process| process.pid == machine.init());
    init.with_context(|| format!("node {node} has no init process"))?.kill()?;
    let have_ended = poll_until(EXIT_TIMEOUT, || processes().is_ok_and(|left| left.is_empty()));
    ensure!(have_ended, "processes of node {node} do not end: {:?}", processes()?);
    up::delete_node_and_pods(&Kubectl::new(&KUBERNETES_MODULE.build()?, cluster), &node.name(cluster))?;
    cgroups::remove_machine(cluster, name)?;
    let state = machine.state_dir();
    fs::remove_dir_all(&state).with_context(|| format!("cannot remove {}", state.display()))?;
    println!("node {node} of cluster {cluster} is deleted");
    Ok(())
}
