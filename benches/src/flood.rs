//! Effect of a flood by one pod on another pod. Of 250 pods, one sends requests as fast as possible on 64 connections, and
//! another sends 200 requests per second. The baseline, which has no limits, gets the same load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::RunOptions;
use crate::load::{LoadResult, load};
use crate::manifests::{PodLimits, WorkDir};
use crate::process::ServerProcess;
use crate::requests::{RequestKind, record, token};
use crate::statistics::Spread;
use crate::throughput::AGENT_ARRANGEMENT;

const PODS: usize = 250;
/// Number of connections of the flooding pod.
const CONNECTIONS: usize = 64;
/// Interval of the requests of the measured pod.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);
/// Duration of the flood before the measurement. The flooding pod uses up its burst in this time.
const WARM_UP: Duration = Duration::from_secs(1);

/// A server with the addresses and tokens of the flooding and the measured pod.
struct FloodScenario {
    name: &'static str,
    server: ServerProcess,
    flooding_pod: (SocketAddr, String),
    measured_pod: (SocketAddr, String),
}

/// Runs all scenarios and prints the table.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = |limits| {
        let server = ServerProcess::agent(&work_dir.pods(PODS, limits)?, &["--log", &options.log])?;
        let pod = |index: usize| server.addresses.get(index).copied().context("too few pods");
        let flooding_pod = (pod(0)?, runtime.block_on(token(pod(0)?))?);
        let measured_pod = (pod(PODS - 1)?, runtime.block_on(token(pod(PODS - 1)?))?);
        anyhow::Ok((server, flooding_pod, measured_pod))
    };
    let (limited, flooding_pod, measured_pod) = agent(PodLimits::Default)?;
    let (_, responses) = runtime.block_on(record(measured_pod.0))?;
    let baseline = ServerProcess::baseline(&responses, AGENT_ARRANGEMENT)?;
    let baseline_pod = (baseline.address()?, measured_pod.1.clone());
    let mut scenarios = vec![
        FloodScenario {
            name: "baseline",
            flooding_pod: baseline_pod.clone(),
            measured_pod: baseline_pod,
            server: baseline,
        },
        FloodScenario { name: "**agent**, default limits", server: limited, flooding_pod, measured_pod },
    ];
    let (server, flooding_pod, measured_pod) = agent(PodLimits::High)?;
    scenarios.push(FloodScenario { name: "agent, limits never reached", server, flooding_pod, measured_pod });

    println!("\n## Flood by one pod, latency of another\n");
    println!("{PODS} pods. One floods on {CONNECTIONS} connections while another sends 200 requests per second.\n");
    println!(
        "| server | p99 µs before | p99 µs during the flood | ratio | flood responses/s | of them rejected | server CPU, cores |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rounds = scenarios.iter().map(|_| Vec::new()).collect::<Vec<_>>();
    for _ in 0..options.rounds {
        for (scenario, rounds) in scenarios.iter().zip(&mut rounds) {
            rounds.push(scenario.round(options.time)?);
        }
    }
    for (scenario, rounds) in scenarios.iter().zip(&rounds) {
        let median = |of: fn(&FloodRound) -> f64| Spread::of(rounds.iter().map(of)).median;
        let (p99_before, p99_during) = (median(|round| round.p99_before), median(|round| round.p99_during));
        println!(
            "| {} | {p99_before:.0} | {p99_during:.0} | {:.2} | {:.0} | {:.0} % | {:.2} |",
            scenario.name,
            p99_during / p99_before,
            median(|round| round.flood),
            median(|round| round.rejected) * 100.0,
            median(|round| round.cores),
        );
    }
    Ok(())
}

/// Result of one round.
struct FloodRound {
    /// 99th percentile of the measured pod's latency before the flood, in µs.
    p99_before: f64,
    /// The same during the flood.
    p99_during: f64,
    /// Responses to the flooding pod per second.
    flood: f64,
    /// Share of these responses that are rejections, 0 to 1.
    rejected: f64,
    /// CPU time of the server during the flood, in cores: seconds per second.
    cores: f64,
}

impl FloodScenario {
    /// Measures the latency of the measured pod before and during a flood. Each of the two measurements takes `time`.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn round(&self, time: Duration) -> Result<FloodRound> {
        let load_measured_pod =
            || load(self.measured_pod.0, &RequestKind::Leaf.pattern(&self.measured_pod.1), 1, time, REQUEST_INTERVAL);
        let p99_before = load_measured_pod()?.quantile(0.99);
        let before = self.server.processor_time()?;
        let (address, pattern) = (self.flooding_pod.0, RequestKind::Leaf.pattern(&self.flooding_pod.1));
        let flood = std::thread::spawn(move || load(address, &pattern, CONNECTIONS, WARM_UP + time, Duration::ZERO));
        std::thread::sleep(WARM_UP);
        let p99_during = load_measured_pod()?.quantile(0.99);
        let flood: LoadResult = flood.join().ok().context("the flood thread panicked")??;
        let cores = self.server.processor_time()?.saturating_sub(before).as_secs_f64() / flood.elapsed.as_secs_f64();
        let rejected = flood.rejected as f64 / flood.latencies.len().max(1) as f64;
        Ok(FloodRound { p99_before, p99_during, flood: flood.per_second(), rejected, cores })
    }
}
