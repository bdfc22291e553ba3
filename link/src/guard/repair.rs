//! Repairs routing rules and nftables table when another program removes or changes them. Runs in a thread of its own: nothing
//! else of the daemon delays a repair.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::checks::SharedChecks;
use crate::counters::{Counters, Repairs};
use crate::events::{self, Events};
use crate::findings::SharedFindings;
use crate::netns::Netns;

/// Interval of checks without an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval of checks. Many events in a short time start few checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Time and number of repairs above which another program removes the guards all the time. They are then not in place between
/// two checks.
const REPAIR_WINDOW: Duration = Duration::from_secs(30);
const MAX_REPAIRS: usize = 5;

/// Multicast group of changes of nftables. Source: `NFNLGRP_NFTABLES` in linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;

/// Multicast groups of changes of routing rules. Source: `RTNLGRP_IPV4_RULE` and `RTNLGRP_IPV6_RULE` in linux/rtnetlink.h.
const RULE_GROUPS: [u32; 2] = [8, 19];

/// Starts the thread that repairs the guards of a namespace. The receiver gets an error if the thread ends. The thread ends
/// soon after the receiver was dropped.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub fn spawn(
    host: Netns,
    counters: Arc<Counters>,
    findings: Arc<SharedFindings>,
    checks: Arc<SharedChecks>,
) -> io::Result<oneshot::Receiver<anyhow::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (error_tx, error_rx) = oneshot::channel();
    std::thread::Builder::new().name("guards".to_owned()).spawn(move || {
        let is_stopped = || error_tx.is_closed();
        if let Err(error) = run(&runtime, &host, &counters, &findings, &checks, is_stopped) {
            drop(error_tx.send(error));
        }
    })?;
    Ok(error_rx)
}

/// The times of the last repairs.
#[derive(Debug, Default)]
struct RepairHistory(VecDeque<Instant>);

impl RepairHistory {
    /// Records a check.
    ///
    /// # Errors
    /// If guards were repaired too often.
    fn record(&mut self, was_repaired: bool, now: Instant) -> Result<(), String> {
        self.0.extend(was_repaired.then_some(now));
        self.0.retain(|time| now.duration_since(*time) < REPAIR_WINDOW);
        if self.0.len() > MAX_REPAIRS {
            let (repairs, seconds) = (self.0.len(), REPAIR_WINDOW.as_secs());
            return Err(format!(
                "another program removes the guards: they were repaired {repairs} times within {seconds} seconds"
            ));
        }
        Ok(())
    }
}

/// Checks the guards after each event, and at an interval, until `is_stopped` returns true.
fn run(
    runtime: &Runtime,
    host: &Netns,
    counters: &Counters,
    findings: &SharedFindings,
    checks: &SharedChecks,
    is_stopped: impl Fn() -> bool,
) -> Result<()> {
    let tables = Events::of_netlink(host, NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])
        .context("cannot listen to changes of nftables")?;
    let rules =
        Events::of_netlink(host, NETLINK_ROUTE, &RULE_GROUPS).context("cannot listen to changes of routing rules")?;
    let mut history = RepairHistory::default();
    while !is_stopped() {
        let result = runtime.block_on(super::ensure(host));
        let message = |error: &anyhow::Error| {
            format!("{error:#}; pods can reach the node's metadata service if all guards are missing")
        };
        let now = Instant::now();
        let checked = match &result {
            Ok(repairs) => history.record(*repairs != Repairs::default(), now),
            Err(error) => Err(message(error)),
        };
        findings.set(NodeFindingKind::Guards, checked.clone().err());
        checks.record_guards(checked, now);
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
        std::thread::sleep(MIN_CHECK_INTERVAL);
        events::wait(&[&tables, &rules], CHECK_INTERVAL).context("cannot read the changes of the guards")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_that_are_repaired_too_often_are_an_error_until_that_ends() {
        let (mut history, start) = (RepairHistory::default(), Instant::now());
        let second = |second| start + Duration::from_secs(second);
        for time in [0, 5, 10, 15, 20] {
            assert_eq!(history.record(true, second(time)), Ok(()));
        }
        assert_eq!(history.record(false, second(24)), Ok(()), "five repairs");
        let error = history.record(true, second(25)).unwrap_err();
        assert_eq!(error, "another program removes the guards: they were repaired 6 times within 30 seconds");
        assert!(history.record(false, second(29)).is_err());
        assert_eq!(history.record(false, second(30)), Ok(()));
        assert_eq!(history.record(true, second(36)), Ok(()), "the first two do not count");
    }
}
