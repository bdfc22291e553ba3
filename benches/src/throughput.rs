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

/// Duration of a round in which the servers are compared. Short, so that the speed of the machine changes between few of the rounds.
const COMPARED: Duration = Duration::from_secs(1);

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
///
/// A second process of the baseline is the control: its ratios to the first show what the machine alone makes of them.
pub(crate) fn all(options: &RunOptions, work_dir: &WorkDir) -> Result<()> {
    let (agent, token, responses) = agent(options, work_dir)?;
    let baseline = || ServerProcess::baseline(&responses, AGENT_ARRANGEMENT);
    let servers = [("baseline", baseline()?), ("control", baseline()?), ("**agent**", agent)];
    println!("\n## Throughput, latency and processor time\n");
    let count = options.rounds * usize::try_from(options.time.as_secs() / COMPARED.as_secs())?;
    println!(
        "{count} rounds of {} s. In a round the servers are loaded in turn, in the reverse order of the round before.",
        COMPARED.as_secs()
    );
    println!("A figure is the median of the rounds. A ratio is the median of the rounds' ratios to the baseline,");
    println!("with their quartiles in parentheses. The control is a second process of the baseline.\n");
    println!(
        "| request | connections | server | per second | ratio | p50 µs | p99 µs | ratio | CPU ms/1,000 | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for work in RequestKind::ALL {
        for connections in CONNECTIONS {
            let mut rounds = [const { Vec::new() }; 3];
            for number in 0..count {
                let mut turns = servers.iter().zip(&mut rounds).collect::<Vec<_>>();
                if number % 2 == 1 {
                    turns.reverse();
                }
                for ((_, server), of_server) in turns {
                    of_server.push(round(server, work, &token, connections, COMPARED)?);
                }
            }
            let [of_baseline, ..] = &rounds;
            for ((name, _), of_server) in servers.iter().zip(&rounds) {
                row(work, connections, name, of_server, of_baseline);
            }
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
    let figure = |of: fn(&Measurement) -> f64| Spread::of(rounds.iter().map(of)).median;
    let ratio = |of: fn(&Measurement) -> f64| {
        let ratios = Spread::of(rounds.iter().zip(baseline).map(|(round, baseline)| of(round) / of(baseline)));
        format!("{:.2} ({:.2} to {:.2})", ratios.median, ratios.lower_quartile, ratios.upper_quartile)
    };
    println!(
        "| {} | {connections} | {server} | {:.0} | {} | {:.1} | {:.1} | {} | {:.1} | {} |",
        kind.name(),
        figure(|round| round.per_second),
        ratio(|round| round.per_second),
        figure(|round| round.p50_us),
        figure(|round| round.p99_us),
        ratio(|round| round.p99_us),
        figure(|round| round.processor_ms),
        ratio(|round| round.processor_ms),
    );
}
