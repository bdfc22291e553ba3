//! Plan of a chaos test: which fault starts when, where, and for how long. Pure: a seed always gives the same plan.

use std::fmt;
use std::time::Duration;

/// Target interval between the starts of two faults. Faults overlap, because some last longer.
const START_INTERVAL: Duration = Duration::from_secs(4);

/// Range of the duration of a fault that has an end.
const MIN_FAULT_DURATION: Duration = Duration::from_secs(2);
const MAX_FAULT_DURATION: Duration = Duration::from_secs(8);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Kills the node agent.
    KillAgent,
    /// Kills the link daemon.
    KillLinkDaemon,
    /// Kills all operators of the cluster.
    KillOperators,
    /// Kills the kubelet, and starts it at the end.
    StopKubelet,
    /// Kills the container runtime, and starts it at the end.
    StopContainerd,
    /// Stops the API server, and starts it at the end.
    StopApiServer,
    /// Deletes all nftables rules of the node.
    FlushNftables,
    /// Replaces all routing rules of the node, IPv4 and IPv6, with the kernel's defaults.
    FlushRoutingRules,
    /// Deletes all nftables rules and replaces all routing rules of the node, at the same time.
    FlushAllRules,
    /// Deletes podmeta's CNI configuration.
    DeletePodmetaConflist,
    /// Overwrites podmeta's CNI configuration with that of the network plugin.
    OverwritePodmetaConflist,
    /// Replaces the CNI configuration of the network plugin with an equivalent one.
    RewriteNetworkConflist,
    /// Makes the CNI configuration of the network plugin invalid, and restores it at the end.
    BreakNetworkConflist,
    /// Leaves no free inode in `/run` of the node until the end: no file can be created.
    FillRun,
    /// Sets the clock of podmeta's processes on the node forward until the end.
    SetClockForward,
    /// Sets the clock of podmeta's processes on the node back until the end.
    SetClockBack,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::KillAgent,
        Self::KillLinkDaemon,
        Self::KillOperators,
        Self::StopKubelet,
        Self::StopContainerd,
        Self::StopApiServer,
        Self::FlushNftables,
        Self::FlushRoutingRules,
        Self::FlushAllRules,
        Self::DeletePodmetaConflist,
        Self::OverwritePodmetaConflist,
        Self::RewriteNetworkConflist,
        Self::BreakNetworkConflist,
        Self::FillRun,
        Self::SetClockForward,
        Self::SetClockBack,
    ];

    /// True if the fault has an end. The others only have a start, and other programs repair them.
    #[must_use]
    pub fn lasts(self) -> bool {
        match self {
            Self::StopKubelet
            | Self::StopContainerd
            | Self::StopApiServer
            | Self::BreakNetworkConflist
            | Self::FillRun
            | Self::SetClockForward
            | Self::SetClockBack => true,
            Self::KillAgent
            | Self::KillLinkDaemon
            | Self::KillOperators
            | Self::FlushNftables
            | Self::FlushRoutingRules
            | Self::FlushAllRules
            | Self::DeletePodmetaConflist
            | Self::OverwritePodmetaConflist
            | Self::RewriteNetworkConflist => false,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::KillAgent => "agent killed",
            Self::KillLinkDaemon => "link daemon killed",
            Self::KillOperators => "operators killed",
            Self::StopKubelet => "kubelet stopped",
            Self::StopContainerd => "containerd stopped",
            Self::StopApiServer => "API server stopped",
            Self::FlushNftables => "nftables flushed",
            Self::FlushRoutingRules => "routing rules flushed",
            Self::FlushAllRules => "nftables and routing rules flushed",
            Self::DeletePodmetaConflist => "podmeta's CNI configuration deleted",
            Self::OverwritePodmetaConflist => "podmeta's CNI configuration overwritten",
            Self::RewriteNetworkConflist => "network plugin's CNI configuration rewritten",
            Self::BreakNetworkConflist => "network plugin's CNI configuration invalid",
            Self::FillRun => "/run full",
            Self::SetClockForward => "clock forward",
            Self::SetClockBack => "clock back",
        })
    }
}

/// A fault of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Number of the node, from 0. Faults of the whole cluster do not use it.
    pub node: usize,
    /// Start, from the start of the plan.
    pub start: Duration,
    /// Duration. Zero if the fault has only a start.
    pub duration: Duration,
}

/// Returns the faults of a seed in the order of their starts. All end within `duration`. Each kind occurs: the plan consists
/// of rounds, and each round is a permutation of all kinds.
#[must_use]
pub fn plan(seed: u64, duration: Duration, nodes: usize) -> Vec<PlannedFault> {
    let mut random = SplitMix64(seed);
    let kinds = FaultKind::ALL.len();
    let faults = usize::try_from(duration.as_millis() / START_INTERVAL.as_millis()).unwrap_or(usize::MAX).max(kinds);
    let interval = duration / u32::try_from(faults).unwrap_or(u32::MAX);
    let rounds = (0..faults.div_ceil(kinds)).flat_map(|_| random.permutation()).take(faults).collect::<Vec<_>>();
    let faults = (0_u32..).zip(rounds).map(|(number, kind)| {
        let start = interval * number + random.duration(Duration::ZERO, interval);
        let length = random.duration(MIN_FAULT_DURATION, MAX_FAULT_DURATION);
        PlannedFault {
            kind,
            node: random.below(nodes),
            start,
            duration: if kind.lasts() { length.min(duration.saturating_sub(start)) } else { Duration::ZERO },
        }
    });
    faults.collect()
}

/// A generator of pseudorandom numbers whose sequence does not depend on the version of a library.
/// Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014).
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`, or 0 if the limit is 0. Small limits only: the remainder is not uniform for large ones.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }

    /// Returns a duration in whole milliseconds, at least `min` and below `max`.
    fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        let range = usize::try_from(max.saturating_sub(min).as_millis()).unwrap_or(usize::MAX);
        min + Duration::from_millis(u64::try_from(self.below(range)).unwrap_or_default())
    }

    /// Returns all kinds in a random order (Fisher and Yates).
    fn permutation(&mut self) -> [FaultKind; FaultKind::ALL.len()] {
        let mut kinds = FaultKind::ALL;
        for last in (1..kinds.len()).rev() {
            kinds.swap(last, self.below(last + 1));
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn plan_depends_only_on_the_seed() {
        assert_eq!(plan(1, TWO_MINUTES, 2), plan(1, TWO_MINUTES, 2));
        assert_ne!(plan(1, TWO_MINUTES, 2), plan(2, TWO_MINUTES, 2));
    }

    #[test]
    fn seed_gives_the_same_numbers_in_every_version() {
        // The first numbers of the reference implementation for seed 0.
        let mut random = SplitMix64(0);
        assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn each_kind_occurs_in_a_plan_of_any_duration() {
        for seconds in [5, 60, 120, 600] {
            for seed in 0..20 {
                let kinds = plan(seed, Duration::from_secs(seconds), 2).iter().map(|fault| fault.kind).collect();
                assert_eq!(BTreeSet::from(FaultKind::ALL), kinds, "seed {seed}, {seconds} s");
            }
        }
    }

    #[test]
    fn faults_are_sorted_and_end_within_the_plan() {
        for seed in 0..20 {
            let faults = plan(seed, TWO_MINUTES, 2);
            assert!(faults.is_sorted_by_key(|fault| fault.start), "seed {seed}");
            assert!(faults.iter().all(|fault| fault.start + fault.duration <= TWO_MINUTES), "seed {seed}");
            assert!(faults.iter().all(|fault| fault.kind.lasts() || fault.duration.is_zero()), "seed {seed}");
        }
    }

    #[test]
    fn faults_overlap_and_hit_every_node() {
        let faults = plan(7, TWO_MINUTES, 3);
        let nodes = faults.iter().map(|fault| fault.node).collect::<BTreeSet<_>>();
        assert_eq!(nodes, BTreeSet::from([0, 1, 2]));
        assert!(faults.windows(2).any(|pair| pair[0].start + pair[0].duration > pair[1].start));
    }
}
