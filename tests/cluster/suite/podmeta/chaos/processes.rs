//! Faults of processes. The kubelet restarts podmeta's processes. This module restarts the programs of the node, as systemd does on
//! real nodes.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{Either, select};

use super::faults::{FaultyCluster, FaultyNode};
use crate::kit::OPERATOR_COMMAND;

/// Interval of checks for ended programs.
const SUPERVISION_INTERVAL: Duration = Duration::from_secs(1);

impl FaultyNode<'_> {
    /// Kills the processes of one of podmeta's programs. Fails if none runs.
    pub(super) async fn kill(&self, command: &str) -> Result<()> {
        let processes = self.podmeta.processes(&self.node.name, command).await?;
        ensure!(!processes.is_empty(), "no process {command}runs on node {}", self.node.name);
        self.node.sh(&format!("kill -9 {}", processes.join(" "))).await.map(drop)
    }

    /// Kills a program of the node. It stays stopped until [`FaultyNode::release`], unless this fails.
    pub(super) async fn stop(&self, program: &'static str) -> Result<()> {
        self.stopped.borrow_mut().push(program);
        let killed = self.node.kill(program).await;
        if killed.is_err() {
            self.remove_stopped(program)?;
        }
        killed
    }

    /// Kills containerd, as [`FaultyNode::stop`]. Fails while `/run` is full: see [`FaultyNode::fill_run`].
    pub(super) async fn stop_containerd(&self) -> Result<()> {
        ensure!(!self.is_run_full.get(), "/run is full");
        self.stop("containerd").await
    }

    /// Allows a program to start again.
    pub(super) fn release(&self, program: &'static str) -> Result<()> {
        if program == "containerd" {
            self.containerd_released.set(Some(Instant::now()));
        }
        self.remove_stopped(program)
    }

    fn remove_stopped(&self, program: &str) -> Result<()> {
        let mut stopped = self.stopped.borrow_mut();
        let index = stopped.iter().position(|other| *other == program).context("the program was not stopped")?;
        stopped.swap_remove(index);
        Ok(())
    }

    /// Restarts the programs that add nftables rules only when they start.
    pub(super) async fn restart_nftables_programs(&self) -> Result<()> {
        for program in self.node.programs().iter().filter(|program| ["kube-proxy", "cluster"].contains(program)) {
            self.node.kill(program).await?;
        }
        Ok(())
    }

    /// Starts the programs of the node that have ended, unless a fault keeps them stopped. A program can end because another one
    /// does not run, or because it cannot create files.
    async fn start_ended_programs(&self) {
        for program in self.node.programs() {
            let is_stopped = self.stopped.borrow().contains(program);
            if !is_stopped && let Err(error) = self.node.start(program).await {
                println!("cannot start {program} on node {}: {error:#}; retrying", self.node.name);
            }
        }
    }
}

impl FaultyCluster<'_> {
    /// Waits for `body`, and starts ended programs of the nodes meanwhile.
    pub(super) async fn supervise_until<T>(&self, body: impl Future<Output = T>) -> T {
        let supervise = async {
            loop {
                for node in &self.nodes {
                    node.start_ended_programs().await;
                }
                tokio::time::sleep(SUPERVISION_INTERVAL).await;
            }
        };
        match select(pin!(body), pin!(supervise)).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => never,
        }
    }

    /// Kills the operators of all nodes. Fails if none runs.
    pub(super) async fn kill_operators(&self) -> Result<()> {
        let mut killed = 0;
        for node in &self.nodes {
            killed += usize::from(node.kill(OPERATOR_COMMAND).await.is_ok());
        }
        ensure!(killed > 0, "no operator runs");
        Ok(())
    }
}
