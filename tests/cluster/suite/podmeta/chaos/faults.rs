//! Runs the faults of a plan. The other modules of this directory cause the faults of one group each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use podmeta_cluster::fault_plan::{FaultKind, PlannedFault};

use super::super::node_network::NodeNetwork;
use super::clock::ClockOffset;
use super::run_directory;
use crate::kit::{AGENT_COMMAND, LINK_COMMAND, Podmeta, TestNode, eventually};

/// Timeout until a fault has started. An earlier fault can delay it: an agent cannot be killed before it runs again.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout until a fault has ended. Other faults can delay it.
const END_TIMEOUT: Duration = Duration::from_secs(90);

/// A node whose parts fail.
pub(super) struct FaultyNode<'n> {
    pub(super) podmeta: &'n Podmeta,
    pub(super) node: &'n TestNode,
    /// The CNI configuration of the network plugin.
    pub(super) network: NodeNetwork<'n>,
    /// Limit of inodes in `/run` without faults.
    pub(super) run_inodes: String,
    /// Programs that faults keep stopped.
    pub(super) stopped: RefCell<Vec<&'static str>>,
    /// End of the last fault that stopped containerd.
    pub(super) containerd_released: Cell<Option<Instant>>,
    /// True while a fault keeps `/run` full.
    pub(super) is_run_full: Cell<bool>,
}

impl<'n> FaultyNode<'n> {
    /// Reads what the ends of faults restore.
    pub(super) async fn new(podmeta: &'n Podmeta, node: &'n TestNode) -> Result<Self> {
        let (network, run_inodes) = (NodeNetwork::read(node).await?, run_directory::inodes(node).await?);
        Ok(Self {
            podmeta,
            node,
            network,
            run_inodes,
            stopped: RefCell::default(),
            containerd_released: Cell::default(),
            is_run_full: Cell::default(),
        })
    }
}

/// A cluster whose parts fail.
pub(super) struct FaultyCluster<'n> {
    pub(super) podmeta: &'n Podmeta,
    pub(super) nodes: Vec<FaultyNode<'n>>,
}

/// The faults that happened.
#[derive(Debug, Default)]
pub(super) struct FaultCounts {
    /// Number of faults by kind.
    pub(super) injected: BTreeMap<FaultKind, u64>,
    /// Errors of the faults that did not happen.
    pub(super) failed: Vec<String>,
}

impl<'n> FaultyCluster<'n> {
    pub(super) fn new(podmeta: &'n Podmeta, nodes: Vec<FaultyNode<'n>>) -> Self {
        Self { podmeta, nodes }
    }

    /// Causes all faults of a plan at their times. Returns when all have ended.
    ///
    /// # Errors
    /// If the end of a fault failed. All others have ended then too.
    pub(super) async fn run(&self, plan: &[PlannedFault]) -> Result<FaultCounts> {
        let started = Instant::now();
        let faults = join_all(plan.iter().map(async |fault| {
            tokio::time::sleep_until((started + fault.start).into()).await;
            let caused = self.cause(fault).await;
            tokio::time::sleep(fault.duration).await;
            let ended = if caused.is_ok() || !matches!(fault.kind, FaultKind::StopKubelet | FaultKind::StopContainerd) {
                eventually(END_TIMEOUT, "the fault has ended", async || self.end(fault).await).await
            } else {
                Ok(())
            };
            (fault.kind, caused, ended.with_context(|| format!("cannot end the fault: {}", fault.kind)))
        }))
        .await;
        let mut counts = FaultCounts::default();
        for (kind, caused, ended) in faults {
            ended?;
            match caused {
                Ok(()) => *counts.injected.entry(kind).or_default() += 1,
                Err(error) => counts.failed.push(format!("{kind}: {error:#}")),
            }
        }
        Ok(counts)
    }

    /// Starts a fault. Tries again while an earlier fault prevents it.
    async fn cause(&self, fault: &PlannedFault) -> Result<()> {
        let caused = eventually(START_TIMEOUT, "the fault has started", async || self.start(fault).await).await;
        let result = caused.as_ref().map_or_else(|error| format!("did not start: {error:#}"), |()| String::new());
        println!(
            "{:>4.0} s: {} on node {} {result}",
            fault.start.as_secs_f64(),
            fault.kind,
            self.node(fault)?.node.name
        );
        caused
    }

    fn node(&self, fault: &PlannedFault) -> Result<&FaultyNode<'n>> {
        self.nodes.get(fault.node).context("the plan has more nodes than the cluster")
    }

    async fn start(&self, fault: &PlannedFault) -> Result<()> {
        let node = self.node(fault)?;
        match fault.kind {
            FaultKind::KillAgent => node.kill(AGENT_COMMAND).await,
            FaultKind::KillLinkDaemon => node.kill(LINK_COMMAND).await,
            FaultKind::KillOperators => self.kill_operators().await,
            FaultKind::StopKubelet => node.stop("kubelet").await,
            FaultKind::StopContainerd => node.stop_containerd().await,
            FaultKind::StopApiServer => self.podmeta.cluster.stop_api_server().await,
            FaultKind::FlushNftables => node.flush_nftables().await,
            FaultKind::FlushRoutingRules => node.flush_routing_rules().await,
            FaultKind::FlushAllRules => node.flush_all_rules().await,
            FaultKind::DeletePodmetaConflist => node.delete_podmeta_conflist().await,
            FaultKind::OverwritePodmetaConflist => node.overwrite_podmeta_conflist().await,
            FaultKind::RewriteNetworkConflist => node.rewrite_network_conflist().await,
            FaultKind::BreakNetworkConflist => node.break_network_conflist().await,
            FaultKind::FillRun => node.fill_run().await,
            FaultKind::SetClockForward => node.set_clock(ClockOffset::Forward).await,
            FaultKind::SetClockBack => node.set_clock(ClockOffset::Back).await,
        }
    }

    async fn end(&self, fault: &PlannedFault) -> Result<()> {
        let node = self.node(fault)?;
        match fault.kind {
            FaultKind::StopKubelet => node.release("kubelet"),
            FaultKind::StopContainerd => node.release("containerd"),
            FaultKind::StopApiServer => self.podmeta.cluster.start_only_api_server().await,
            FaultKind::FlushNftables | FaultKind::FlushAllRules => node.restart_nftables_programs().await,
            FaultKind::BreakNetworkConflist => node.restore_network_conflist().await,
            FaultKind::FillRun => node.empty_run().await,
            FaultKind::SetClockForward | FaultKind::SetClockBack => node.set_clock(ClockOffset::None).await,
            FaultKind::KillAgent
            | FaultKind::KillLinkDaemon
            | FaultKind::KillOperators
            | FaultKind::FlushRoutingRules
            | FaultKind::DeletePodmetaConflist
            | FaultKind::OverwritePodmetaConflist
            | FaultKind::RewriteNetworkConflist => Ok(()),
        }
    }
}

impl FaultCounts {
    /// Checks that each kind of fault happened.
    ///
    /// # Errors
    /// If a kind never happened. The message contains the errors of the faults that did not start.
    pub(super) fn check_all_kinds(&self) -> Result<()> {
        for kind in FaultKind::ALL {
            ensure!(self.injected.contains_key(&kind), "{kind}: this fault never happened: {:?}", self.failed);
        }
        Ok(())
    }
}
