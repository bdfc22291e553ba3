//! Requests a second, latency and processor time, of the agent and of the floor in turns.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;

use crate::Plan;
use crate::figures::{Round, Spread};
use crate::floor::{Arrangement, Recorded};
use crate::load::load;
use crate::pods::{Folder, Limits};
use crate::process::Server;
use crate::work::{Work, record};

/// The arrangement that the agent has, and so the floor beside it.
pub(crate) const OURS: Arrangement = Arrangement::OneWorker;

const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// An agent with one pod whose limits nothing reaches, a token of it, and its answers.
pub(crate) fn agent(plan: &Plan, folder: &Folder) -> Result<(Server, String, Vec<Recorded>)> {
    let agent = Server::agent(&folder.pods(1, Limits::High)?, &["--log", &plan.log])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (token, answers) = runtime.block_on(record(agent.address()?))?;
    Ok((agent, token, answers))
}

/// Prints how the floor does in each arrangement, and the agent beside it.
pub(crate) fn arrangements(plan: &Plan, folder: &Folder) -> Result<()> {
    let (agent, token, answers) = agent(plan, folder)?;
    let mut servers = vec![("**agent**".to_owned(), agent)];
    for arrangement in Arrangement::value_variants() {
        servers.push((format!("floor, {}", arrangement.name()), Server::floor(&answers, *arrangement)?));
    }
    println!("\n## Arrangements of threads: leaf GET\n");
    println!("| connections | server | requests/s | p50 µs | p99 µs | CPU ms/1,000 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for connections in CONNECTIONS {
        let mut rounds = vec![Vec::new(); servers.len()];
        for _ in 0..plan.rounds {
            for ((_, server), rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(round(server, Work::Leaf, &token, connections, plan.time)?);
            }
        }
        for ((name, _), rounds) in servers.iter().zip(&rounds) {
            let figure = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of)).median;
            println!(
                "| {connections} | {name} | {:.0} | {:.1} | {:.1} | {:.1} |",
                figure(|round| round.per_second),
                figure(|round| round.p50),
                figure(|round| round.p99),
                figure(|round| round.processor),
            );
        }
    }
    Ok(())
}

/// Prints every kind of work at every number of connections, agent beside floor.
pub(crate) fn all(plan: &Plan, folder: &Folder) -> Result<()> {
    let (agent, token, answers) = agent(plan, folder)?;
    let floor = Server::floor(&answers, OURS)?;
    println!("\n## Throughput, latency and processor time\n");
    println!(
        "{} rounds of {} s, agent and floor in turns; medians, and (least to greatest).",
        plan.rounds,
        plan.time.as_secs()
    );
    println!("A ratio is the agent's median over the floor's.\n");
    println!("| work | connections | server | per second | ratio | p50 µs | p99 µs | ratio | CPU ms/1,000 | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for work in Work::ALL {
        for connections in CONNECTIONS {
            let (mut of_floor, mut of_agent) = (Vec::new(), Vec::new());
            for _ in 0..plan.rounds {
                of_floor.push(round(&floor, work, &token, connections, plan.time)?);
                of_agent.push(round(&agent, work, &token, connections, plan.time)?);
            }
            row(work, connections, "floor", &of_floor, &of_floor);
            row(work, connections, "**agent**", &of_agent, &of_floor);
        }
    }
    Ok(())
}

fn round(server: &Server, work: Work, token: &str, connections: usize, time: Duration) -> Result<Round> {
    let before = server.processor_time()?;
    let load = load(server.address()?, &work.shape(token), connections, time, Duration::ZERO)?;
    let processor = server.processor_time()?.saturating_sub(before);
    ensure!(load.refused == 0, "{} answers were not 200", load.refused);
    Ok(Round::new(&load, processor))
}

fn row(work: Work, connections: usize, server: &str, rounds: &[Round], floor: &[Round]) {
    let spread = |rounds: &[Round], of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let ratio = |of: fn(&Round) -> f64| spread(rounds, of).median / spread(floor, of).median;
    let (per_second, p99) = (spread(rounds, |round| round.per_second), spread(rounds, |round| round.p99));
    println!(
        "| {} | {connections} | {server} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.1} | {:.1} ({:.1} to {:.1}) | {:.2} | {:.1} | {:.2} |",
        work.name(),
        per_second.median,
        per_second.least,
        per_second.greatest,
        ratio(|round| round.per_second),
        spread(rounds, |round| round.p50).median,
        p99.median,
        p99.least,
        p99.greatest,
        ratio(|round| round.p99),
        spread(rounds, |round| round.processor).median,
        ratio(|round| round.processor),
    );
}
