//! Attaches the program to new interfaces, and again where another program removed it. Runs in a thread of its own, so that the
//! other guards do not wait: a node can have a thousand interfaces.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netlink_sys::protocols::NETLINK_ROUTE;
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{UplinkGuard, finding};
use crate::checks::SharedChecks;
use crate::counters::Counters;
use crate::events::{self, Events};
use crate::findings::SharedFindings;
use crate::netns::Netns;

/// Interval of checks without an event. The removal of a program is no event.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval of checks. Each pod that starts or ends causes several events.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Multicast group of changes of interfaces. Source: `RTNLGRP_LINK` in linux/rtnetlink.h.
const RTNLGRP_LINK: u32 = 1;

/// Starts the thread that repairs the guard of a namespace, with the pins at a path. The receiver gets an error if the thread ends. The
/// thread ends soon after the receiver was dropped.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub fn spawn(
    host: Netns,
    pins: PathBuf,
    counters: Arc<Counters>,
    findings: Arc<SharedFindings>,
    checks: Arc<SharedChecks>,
) -> io::Result<oneshot::Receiver<anyhow::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (error_tx, error_rx) = oneshot::channel();
    std::thread::Builder::new().name("uplink-guard".to_owned()).spawn(move || {
        let is_stopped = || error_tx.is_closed();
        if let Err(error) = run(&runtime, &host, UplinkGuard::new(pins), &counters, &findings, &checks, is_stopped) {
            drop(error_tx.send(error));
        }
    })?;
    Ok(error_rx)
}

/// Checks the guard after each event, and at an interval, until `is_stopped` returns true.
fn run(
    runtime: &Runtime,
    host: &Netns,
    mut guard: UplinkGuard,
    counters: &Counters,
    findings: &SharedFindings,
    checks: &SharedChecks,
    is_stopped: impl Fn() -> bool,
) -> Result<()> {
    let interfaces =
        Events::of_netlink(host, NETLINK_ROUTE, &[RTNLGRP_LINK]).context("cannot listen to changes of interfaces")?;
    while !is_stopped() {
        let result = runtime.block_on(guard.ensure(host));
        let message = result.as_ref().err().map(finding);
        findings.set(NodeFindingKind::UplinkGuard, message.clone());
        checks.record_uplink_programs(message.map_or(Ok(()), Err), Instant::now());
        let attached = result.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot repair the uplink guard; retrying");
            error.attached
        });
        if attached.new > 0 {
            tracing::debug!(interfaces = attached.new, "attached programs of the uplink guard to new interfaces");
        }
        if attached.repaired > 0 {
            counters.add_programs(attached.repaired);
            tracing::warn!(
                programs = attached.repaired,
                "programs of the uplink guard were missing or not the first ones; attached them again: find the program that removes \
                 or precedes them if this repeats"
            );
        }
        std::thread::sleep(MIN_CHECK_INTERVAL);
        events::wait(&[&interfaces], CHECK_INTERVAL).context("cannot read the changes of interfaces")?;
    }
    Ok(())
}
