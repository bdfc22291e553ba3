//! Benchmarks of the dev agent against a baseline: a bare hyper server that returns the same bytes. Both are loaded in turn.

mod attack;
mod baseline;
mod flood;
mod load;
mod manifests;
mod memory;
mod own_code;
mod process;
mod requests;
mod statistics;
mod throughput;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::baseline::ThreadArrangement;
use crate::manifests::WorkDir;

/// Benchmark the dev agent against a bare hyper server and print tables
#[derive(Debug, Parser)]
struct BenchArgs {
    /// Number of rounds of each measurement. Fewer than five give unreliable medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Duration of one measurement in seconds. Below five, results of the same server differ by up to 20 %. `throughput` measures the same
    /// time in rounds of one second
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Run only these benchmarks
    #[arg(long, value_enum)]
    only: Vec<Benchmark>,

    /// Log filter of the agent. At `info` it logs each request
    #[arg(long, default_value = "info")]
    log: String,

    #[command(subcommand)]
    command: Option<BenchCommand>,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Run the baseline server (internal)
    #[command(hide = true)]
    Baseline {
        /// Distribution of connections over threads
        arrangement: ThreadArrangement,
    },
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// The agent and the baseline in each thread arrangement
    Arrangements,
    /// Requests per second, latency and processor time
    Throughput,
    /// Time in podmeta's own code
    OwnCode,
    /// Resident memory
    Memory,
    /// Effect of a flood by one pod on another
    Flood,
    /// Effect of attacks on another pod
    Attacks,
}

/// Rounds and duration of the measurements, and the agent's log filter.
#[derive(Clone, Debug)]
struct RunOptions {
    rounds: usize,
    time: Duration,
    log: String,
}

fn main() -> Result<()> {
    let args = BenchArgs::parse();
    if let Some(BenchCommand::Baseline { arrangement }) = args.command {
        return baseline::main(arrangement, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    let options = RunOptions { rounds: args.rounds, time: Duration::from_secs(args.seconds), log: args.log };
    let work_dir = WorkDir::create()?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Benchmark::Arrangements) {
        throughput::arrangements(&options, &work_dir)?;
    }
    if wanted(Benchmark::Throughput) {
        throughput::all(&options, &work_dir)?;
    }
    if wanted(Benchmark::OwnCode) {
        own_code::all(&options, &work_dir)?;
    }
    if wanted(Benchmark::Memory) {
        memory::all(&work_dir)?;
    }
    if wanted(Benchmark::Flood) {
        flood::all(&options, &work_dir)?;
    }
    if wanted(Benchmark::Attacks) {
        attack::all(&options, &work_dir)?;
    }
    Ok(())
}
