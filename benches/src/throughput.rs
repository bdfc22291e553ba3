//! Requests per second, latency and processor time of the agent and the baseline, loaded in turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;

use crate::RunOptions;
use crate::baseline::{RecordedResponse, ThreadArrangement};
use crate::load::load;
use crate::manifests::{PodLimits, WorkDir};
use crate::process::ServerProcess;
use crate::requests::{RequestKind, record};
use crate::statistics::{Measurement, Spread};

/// Thread arrangement of the agent. The baseline uses the same.
pub(crate) const AGENT_ARRANGEMENT: ThreadArrangement = ThreadArrangement::OneWorker;

const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// Starts an agent with one pod. Returns it with a token and its recorded responses.
pub(crate) fn agent(
    options: &RunOptions,
    work_dir: &WorkDir,
) -> Result<(ServerProcess, String, Vec<RecordedResponse>)> {
    let agent = ServerProcess::agent(&work_dir.pods(1, PodLimits::High)?, &["--log", &options.log])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (token, responses) = runtime.block_on(record(agent.address()?))?;
    Ok((agent, token, responses))
}

/// Measures the agent and each thread arrangement of the baseline, and prints the table.
pub(crate) fn arrangements(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    let (agent, token, responses) = agent(options, work_dir)?;
    let mut servers = vec![("**agent**".to_owned(), agent)];
    for arrangement in ThreadArrangement::value_variants() {
        servers.push((format!("baseline, {}", arrangement.name()), ServerProcess::baseline(&responses, *arrangement)?));
    }
    println!("\n## Thread arrangements, leaf GET\n");
    println!("| connections | server | requests/s | p50 µs | p99 µs | CPU ms/1,000 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for connections in CONNECTIONS {
        let mut rounds = vec![Vec::new(); servers.len()];
        for _ in 0..options.rounds {
            for ((_, server), rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(round(server, RequestKind::Leaf, &token, connections, options.time)?);
            }
        }
        for ((name, _), rounds) in servers.iter().zip(&rounds) {
            let figure = |of: fn(&Measurement) -> f64| Spread::of(rounds.iter().map(of)).median;
            println!(
                "| {connections} | {name} | {:.0} | {:.1} | {:.1} | {:.1} |",
                figure(|round| round.per_second),
                figure(|round| round.p50_us),
                figure(|round| round.p99_us),
                figure(|round| round.processor_ms),
            );
        }
    }
    Ok(())
}

/// Measures all kinds of requests for each number of connections, and prints the table.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    let (agent, token, responses) = agent(options, work_dir)?;
    let baseline = ServerProcess::baseline(&responses, AGENT_ARRANGEMENT)?;
    println!("\n## Throughput, latency and processor time\n");
    println!(
        "{} rounds of {} s, agent and baseline in turn. Median (minimum to maximum).",
        options.rounds,
        options.time.as_secs()
    );
    println!("A ratio is the agent's median divided by the baseline's.\n");
    println!(
        "| request | connections | server | per second | ratio | p50 µs | p99 µs | ratio | CPU ms/1,000 | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for work in RequestKind::ALL {
        for connections in CONNECTIONS {
            let (mut of_baseline, mut of_agent) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                of_baseline.push(round(&baseline, work, &token, connections, options.time)?);
                of_agent.push(round(&agent, work, &token, connections, options.time)?);
            }
            row(work, connections, "baseline", &of_baseline, &of_baseline);
            row(work, connections, "**agent**", &of_agent, &of_baseline);
        }
    }
    Ok(())
}

fn round(
    server: &ServerProcess,
    kind: RequestKind,
    token: &str,
    connections: usize,
    time: Duration,
) -> Result<Measurement> {
    let before = server.processor_time()?;
    let load = load(server.address()?, &kind.pattern(token), connections, time, Duration::ZERO)?;
    let processor = server.processor_time()?.saturating_sub(before);
    ensure!(load.rejected == 0, "{} responses have a status other than 200", load.rejected);
    Ok(Measurement::new(&load, processor))
}

fn row(kind: RequestKind, connections: usize, server: &str, rounds: &[Measurement], baseline: &[Measurement]) {
    let spread = |rounds: &[Measurement], of: fn(&Measurement) -> f64| Spread::of(rounds.iter().map(of));
    let ratio = |of: fn(&Measurement) -> f64| spread(rounds, of).median / spread(baseline, of).median;
    let (per_second, p99) = (spread(rounds, |round| round.per_second), spread(rounds, |round| round.p99_us));
    println!(
        "| {} | {connections} | {server} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.1} | {:.1} ({:.1} to {:.1}) | {:.2} | {:.1} | {:.2} |",
        kind.name(),
        per_second.median,
        per_second.min,
        per_second.max,
        ratio(|round| round.per_second),
        spread(rounds, |round| round.p50_us).median,
        p99.median,
        p99.min,
        p99.max,
        ratio(|round| round.p99_us),
        spread(rounds, |round| round.processor_ms).median,
        ratio(|round| round.processor_ms),
    );
}
