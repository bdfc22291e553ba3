//! The report of a chaos test.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::load::CheckCounts;
use super::clients::{ChurnResults, ClientResults, RECOVERY_LIMIT_SECONDS};
use super::faults::FaultCounts;

/// The results of a chaos test.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    /// Planned duration of the faults.
    pub(super) duration: Duration,
    pub(super) faults: FaultCounts,
    /// Time from the end of the faults until all clients got the signal to stop when they have recovered.
    pub(super) stop_delay: Duration,
    pub(super) clients: ClientResults,
    pub(super) churn: ChurnResults,
    /// Results of pods that started after the faults.
    pub(super) new_pods: CheckCounts,
    /// Number of requests to the IMDS stub, which stands for the nodes' own metadata service.
    pub(super) stub_requests: u64,
}

impl Report {
    fn all(&self) -> [&CheckCounts; 3] {
        [&self.clients.counts, &self.churn.counts, &self.new_pods]
    }

    fn sum(&self, field: impl Fn(&CheckCounts) -> u64) -> u64 {
        self.all().into_iter().map(field).sum()
    }

    /// Returns the number of requests that reached the nodes' own metadata service: the larger count of the clients and of
    /// the stub.
    fn real_imds(&self) -> u64 {
        self.sum(|counts| counts.stub).max(self.stub_requests)
    }

    /// Returns the time from the end of the faults to the last failure of a client.
    fn recovery(&self) -> Duration {
        self.stop_delay + Duration::from_secs_f64(self.clients.counts.recovery)
    }

    /// Checks the results.
    ///
    /// # Errors
    /// If a pod got a response that is not its own, a request reached the nodes' own metadata service, clients did not
    /// recover, or a kind of fault never happened.
    pub(super) fn verdict(&self) -> Result<()> {
        let messages = self.all().map(|counts| &counts.failures);
        let wrong = self.sum(|counts| counts.wrong);
        ensure!(wrong == 0, "{wrong} wrong identities: {messages:?}");
        ensure!(self.real_imds() == 0, "{} requests reached the nodes' own metadata service", self.real_imds());
        let (unrecovered, limit) =
            (self.clients.counts.unrecovered, Duration::from_secs(RECOVERY_LIMIT_SECONDS.into()));
        ensure!(
            unrecovered == 0 && self.recovery() <= limit,
            "{unrecovered} processes did not recover within {limit:?}, the last failure was after {:?}: {messages:?}",
            self.recovery()
        );
        ensure!(self.clients.counts.right > 0 && self.churn.counts.right > 0, "no requests: {self}");
        ensure!(self.new_pods.right > 0 && self.new_pods.failed == 0, "new pods after the faults: {:?}", self.new_pods);
        self.faults.check_all_kinds()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = BTreeMap::<&str, u64>::new();
        for (kind, number) in self.all().into_iter().flat_map(|counts| &counts.kinds) {
            *kinds.entry(kind).or_default() += number;
        }
        let without_result = self.clients.without_result.iter().chain(&self.churn.without_result);
        let reasons = without_result.map(|reason| reason.chars().take(200).collect::<String>());
        writeln!(formatter, "seed {}, faults for {} s", self.seed, self.duration.as_secs())?;
        writeln!(
            formatter,
            "requests: {} with the own ID, {} for tokens, {} failed; {} connections",
            self.sum(|counts| counts.right),
            self.sum(|counts| counts.tokens),
            self.sum(|counts| counts.failed),
            self.sum(|counts| counts.connections)
        )?;
        writeln!(
            formatter,
            "short-lived pods: {} with {} addresses; {} without a result, and {} clients",
            self.churn.pods,
            self.churn.addresses.len(),
            self.churn.without_result.len(),
            self.clients.without_result.len()
        )?;
        reasons.take(5).try_for_each(|reason| writeln!(formatter, "  {reason}"))?;
        writeln!(formatter, "faults: {}", self.faults.injected.values().sum::<u64>())?;
        self.faults.injected.iter().try_for_each(|(kind, number)| writeln!(formatter, "  {number:>7} {kind}"))?;
        self.faults.failed.iter().try_for_each(|reason| writeln!(formatter, "  did not happen: {reason}"))?;
        writeln!(formatter, "failures:")?;
        kinds.iter().try_for_each(|(kind, number)| writeln!(formatter, "  {number:>7} {kind}"))?;
        writeln!(formatter, "longest time of a client without a response: {:.1} s", self.clients.counts.outage)?;
        writeln!(formatter, "last failure of a client after the faults: {:.1} s", self.recovery().as_secs_f64())?;
        writeln!(formatter, "wrong identities: {}", self.sum(|counts| counts.wrong))?;
        write!(formatter, "REAL-IMDS: {}", self.real_imds())
    }
}

#[cfg(test)]
mod tests {
    use podmeta_cluster::fault_plan::FaultKind;

    use super::*;

    fn counts() -> CheckCounts {
        CheckCounts { right: 1, ..CheckCounts::default() }
    }

    fn clients(counts: CheckCounts) -> ClientResults {
        ClientResults { counts, without_result: Vec::new() }
    }

    /// Returns a report without errors.
    fn report() -> Report {
        let injected = FaultKind::ALL.into_iter().map(|kind| (kind, 1)).collect();
        Report {
            seed: 1,
            duration: Duration::from_secs(120),
            faults: FaultCounts { injected, failed: Vec::new() },
            stop_delay: Duration::from_secs(1),
            clients: clients(CheckCounts { recovery: 2.5, ..counts() }),
            churn: ChurnResults { counts: counts(), ..ChurnResults::default() },
            new_pods: counts(),
            stub_requests: 0,
        }
    }

    fn error_of(report: &Report) -> String {
        format!("{:#}", report.verdict().unwrap_err())
    }

    #[test]
    fn report_without_wrong_responses_succeeds_and_names_the_seed() {
        report().verdict().unwrap();
        let printed = report().to_string();
        assert!(printed.contains("seed 1,") && printed.contains("after the faults: 3.5 s"), "{printed}");
        assert!(printed.ends_with("wrong identities: 0\nREAL-IMDS: 0"), "{printed}");
    }

    #[test]
    fn wrong_identity_of_any_pod_is_an_error() {
        let wrong = || CheckCounts { wrong: 1, ..counts() };
        let of_client = Report { clients: clients(wrong()), ..report() };
        let churn = Report { churn: ChurnResults { counts: wrong(), ..ChurnResults::default() }, ..report() };
        let new_pods = Report { new_pods: wrong(), ..report() };
        for report in [of_client, churn, new_pods] {
            assert!(error_of(&report).contains("1 wrong identities"), "{report:?}");
        }
    }

    #[test]
    fn request_that_reached_the_nodes_service_is_an_error_without_a_response_too() {
        let report = Report { stub_requests: 2, ..report() };
        assert!(error_of(&report).contains("2 requests reached"));
        assert!(report.to_string().ends_with("REAL-IMDS: 2"));
    }

    #[test]
    fn client_that_recovers_too_late_or_never_is_an_error() {
        let late = Report { stop_delay: Duration::from_secs(RECOVERY_LIMIT_SECONDS.into()), ..report() };
        let never = Report { clients: clients(CheckCounts { unrecovered: 1, ..counts() }), ..report() };
        for report in [late, never] {
            assert!(error_of(&report).contains("did not recover"), "{report:?}");
        }
    }

    #[test]
    fn kind_of_fault_that_never_happened_is_an_error() {
        let mut report = report();
        report.faults.injected.remove(&FaultKind::FillRun);
        assert!(error_of(&report).contains("/run full: this fault never happened"));
    }
}
