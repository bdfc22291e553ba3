//! The command `cluster status`.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::datapath;
use crate::kubernetes::kubectl::Kubectl;
use crate::layout::ClusterName;
use crate::machine::processes::ClusterProcess;

/// Prints the cluster's services with their process IDs, its CNI plugin, its nodes and its pods.
///
/// # Errors
/// If the cluster does not exist, or its API server does not respond.
pub fn status(cluster: &ClusterName) -> Result<()> {
    let mut processes = ClusterProcess::all_of(cluster)?;
    ensure!(!processes.is_empty(), "cluster {cluster} does not exist: create it with `cluster up --name {cluster}`");
    processes.retain(|process| process.role().ends_with(&format!("/{}", process.program)));
    processes.sort_by(|left, right| left.role().cmp(right.role()));
    println!("{:<40} {:>8}", "SERVICE", "PID");
    for process in &processes {
        println!("{:<40} {:>8}", process.role(), process.pid);
    }
    let api_server = processes.iter().find(|process| process.program == "kube-apiserver");
    let api_server = api_server.context("the API server does not run: `cluster up` starts it")?;
    let program = fs::read_link(format!("/proc/{}/exe", api_server.pid))?;
    let kubectl = Kubectl::new(program.parent().context("the API server's program has no directory")?, cluster);
    let datapath = datapath::read(cluster)?.context("the CNI plugin of the cluster is unknown")?;
    println!("\ncni: {datapath}\n");
    println!("{}", kubectl.run(&["get", "nodes", "--output=wide"])?);
    println!("{}", kubectl.run(&["get", "pods", "--all-namespaces", "--output=wide"])?);
    let state = cluster.state_dir();
    let logs = state.join("logs");
    if fs::exists(&logs)? {
        println!("logs: {}", logs.display());
    }
    println!("kubeconfig: {}", state.join("kubeconfig").display());
    Ok(())
}
