//! Repairs the guards when another program removes or changes them. Runs in a thread of its own: nothing else of the
//! daemon delays a repair.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::uplink::{self, UplinkGuard};
use crate::checks::SharedChecks;
use crate::counters::{Counters, Repairs};
use crate::events::{self, Events};
use crate::findings::SharedFindings;
use crate::netns::Netns;

/// Interval of checks without an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval of checks. Many events in a short time start few checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Multicast group of changes of nftables. Source: `NFNLGRP_NFTABLES` in linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;

/// Multicast groups of changes of routing rules and routes. Source: `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_RULE`,
/// `RTNLGRP_IPV4_ROUTE` and `RTNLGRP_IPV6_ROUTE` in linux/rtnetlink.h.
const ROUTE_GROUPS: [u32; 4] = [8, 19, 7, 11];

/// Starts the thread that repairs the guards of a namespace. `pins` is the path of the uplink guard's pins, or `None` if that guard is
/// off. The receiver gets an error if the thread ends. The thread ends soon after the receiver was dropped.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub fn spawn(
    host: Netns,
    pins: Option<PathBuf>,
    counters: Arc<Counters>,
    findings: Arc<SharedFindings>,
    checks: Arc<SharedChecks>,
) -> io::Result<oneshot::Receiver<anyhow::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (error_tx, error_rx) = oneshot::channel();
    std::thread::Builder::new().name("guards".to_owned()).spawn(move || {
        let uplink_guard = pins.map(UplinkGuard::new);
        let is_stopped = || error_tx.is_closed();
        if let Err(error) = run(&runtime, &host, uplink_guard, &counters, &findings, &checks, is_stopped) {
            drop(error_tx.send(error));
        }
    })?;
    Ok(error_rx)
}

/// Checks the guards after each event, and at an interval, until `is_stopped` returns true.
fn run(
    runtime: &Runtime,
    host: &Netns,
    mut uplink_guard: Option<UplinkGuard>,
    counters: &Counters,
    findings: &SharedFindings,
    checks: &SharedChecks,
    is_stopped: impl Fn() -> bool,
) -> Result<()> {
    let tables = Events::of_netlink(host, NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])
        .context("cannot listen to changes of nftables")?;
    let routes = Events::of_netlink(host, NETLINK_ROUTE, &ROUTE_GROUPS)
        .context("cannot listen to changes of routing rules and routes")?;
    while !is_stopped() {
        let result = runtime.block_on(super::ensure(host));
        let message = |error: &anyhow::Error| {
            format!("{error:#}; pods can reach the node's metadata service if all guards are missing")
        };
        let checked = result.as_ref().map(|_| ()).map_err(message);
        findings.set(NodeFindingKind::Guards, checked.clone().err());
        checks.record_guards(checked, Instant::now());
        match result {
            Ok(repairs) if repairs == Repairs::default() => {}
            Ok(repairs) => {
                counters.add_repairs(repairs);
                tracing::warn!(
                    rules = repairs.rules,
                    tables = repairs.tables,
                    "guards were missing or changed; added them again: find the program that changes them if this repeats"
                );
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "cannot repair the guards; retrying"),
        }
        if let Some(guard) = &mut uplink_guard {
            let result = runtime.block_on(guard.ensure(host));
            findings.set(NodeFindingKind::UplinkGuard, result.as_ref().err().map(uplink::finding));
            match result {
                Ok(0) | Err(_) => {}
                Ok(programs) => {
                    counters.add_programs(programs);
                    tracing::warn!(programs, "programs of the uplink guard were missing; attached them");
                }
            }
        }
        std::thread::sleep(MIN_CHECK_INTERVAL);
        events::wait(&[&tables, &routes], CHECK_INTERVAL).context("cannot read the changes of the guards")?;
    }
    Ok(())
}
