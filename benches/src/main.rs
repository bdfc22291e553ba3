//! What podmeta costs: the dev agent and a bare hyper server that returns the same bytes, loaded in turns.

mod figures;
mod flood;
mod floor;
mod hostile;
mod load;
mod memory;
mod own;
mod pods;
mod process;
mod throughput;
mod work;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::floor::Arrangement;
use crate::pods::Folder;

/// Measures the agent beside a bare hyper server, and prints tables.
#[derive(Debug, Parser)]
struct Args {
    /// How often each measurement is repeated, in turns with the others. Fewer than five say little.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How many seconds each of them takes. With less than five a server against itself seems up to a fifth slower.
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Measures one part only.
    #[arg(long, value_enum)]
    only: Vec<Part>,

    /// What the agent logs; each request has a line at `info`, as by default.
    #[arg(long, default_value = "info")]
    log: String,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves as the floor; not for people.
    #[command(hide = true)]
    Floor {
        /// How connections are spread over threads.
        arrangement: Arrangement,
    },
}

/// A part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The floor against itself, on one connection, in each arrangement of threads.
    Arrangements,
    /// Requests a second, latency and processor time.
    Throughput,
    /// What our own code takes of a request.
    Own,
    /// Resident memory.
    Memory,
    /// What one pod's flood does to another.
    Flood,
    /// What clients that mean harm do to another pod.
    Hostile,
}

/// How long to measure.
#[derive(Clone, Debug)]
struct Plan {
    rounds: usize,
    time: Duration,
    log: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Command::Floor { arrangement }) = args.command {
        return floor::main(arrangement);
    }
    let plan = Plan { rounds: args.rounds, time: Duration::from_secs(args.seconds), log: args.log };
    let folder = Folder::make()?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Part::Arrangements) {
        throughput::arrangements(&plan, &folder)?;
    }
    if wanted(Part::Throughput) {
        throughput::all(&plan, &folder)?;
    }
    if wanted(Part::Own) {
        own::all(&plan, &folder)?;
    }
    if wanted(Part::Memory) {
        memory::all(&folder)?;
    }
    if wanted(Part::Flood) {
        flood::all(&plan, &folder)?;
    }
    if wanted(Part::Hostile) {
        hostile::all(&plan, &folder)?;
    }
    Ok(())
}
