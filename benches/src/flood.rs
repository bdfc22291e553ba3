//! What a pod that floods does to another: 250 pods, one of them asks as fast as it can on 64 connections, and another
//! asks 200 times a second. The same is done to the floor, where nothing holds the flood.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Plan;
use crate::figures::Spread;
use crate::load::{Load, load};
use crate::pods::{Folder, Limits};
use crate::process::Server;
use crate::throughput::OURS;
use crate::work::{Work, record, token};

const PODS: usize = 250;
const CONNECTIONS: usize = 64;
const PACE: Duration = Duration::from_millis(5);
/// The flood is on for this long before the other pod is measured: until its limit holds it, it has a burst.
const BURST: Duration = Duration::from_secs(1);

/// The flood's requests and the other pod's, at one server.
struct Scene {
    name: &'static str,
    server: Server,
    flooding: (SocketAddr, String),
    asking: (SocketAddr, String),
}

/// Prints it.
pub(crate) fn all(plan: &Plan, folder: &Folder) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = |limits| {
        let server = Server::agent(&folder.pods(PODS, limits)?, &["--log", &plan.log])?;
        let pod = |index: usize| server.addresses.get(index).copied().context("there are too few pods");
        let flooding = (pod(0)?, runtime.block_on(token(pod(0)?))?);
        let asking = (pod(PODS - 1)?, runtime.block_on(token(pod(PODS - 1)?))?);
        anyhow::Ok((server, flooding, asking))
    };
    let (limited, flooding, asking) = agent(Limits::Default)?;
    let (_, answers) = runtime.block_on(record(asking.0))?;
    let floor = Server::floor(&answers, OURS)?;
    let place = (floor.address()?, asking.1.clone());
    let mut scenes = vec![
        Scene { name: "floor", flooding: place.clone(), asking: place, server: floor },
        Scene { name: "**agent**, default limits", server: limited, flooding, asking },
    ];
    let (server, flooding, asking) = agent(Limits::High)?;
    scenes.push(Scene { name: "agent, limits that nothing reaches", server, flooding, asking });

    println!("\n## A pod that floods, and another\n");
    println!("{PODS} pods; one floods on {CONNECTIONS} connections while another asks 200 times a second.\n");
    println!(
        "| server | p99 µs in quiet | p99 µs in the flood | ratio | flood's answers/s | of them refused | server's CPU, cores |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rounds = scenes.iter().map(|_| Vec::new()).collect::<Vec<_>>();
    for _ in 0..plan.rounds {
        for (scene, rounds) in scenes.iter().zip(&mut rounds) {
            rounds.push(scene.round(plan.time)?);
        }
    }
    for (scene, rounds) in scenes.iter().zip(&rounds) {
        let median = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of)).median;
        let (quiet, flooded) = (median(|round| round.quiet), median(|round| round.flooded));
        println!(
            "| {} | {quiet:.0} | {flooded:.0} | {:.2} | {:.0} | {:.0} % | {:.2} |",
            scene.name,
            flooded / quiet,
            median(|round| round.flood),
            median(|round| round.refused) * 100.0,
            median(|round| round.cores),
        );
    }
    Ok(())
}

/// What one round showed.
struct Round {
    quiet: f64,
    flooded: f64,
    flood: f64,
    refused: f64,
    cores: f64,
}

impl Scene {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn round(&self, time: Duration) -> Result<Round> {
        let ask = || load(self.asking.0, &Work::Leaf.shape(&self.asking.1), 1, time, PACE);
        let quiet = ask()?.quantile(0.99);
        let before = self.server.processor_time()?;
        let (address, shape) = (self.flooding.0, Work::Leaf.shape(&self.flooding.1));
        let flood = std::thread::spawn(move || load(address, &shape, CONNECTIONS, BURST + time, Duration::ZERO));
        std::thread::sleep(BURST);
        let flooded = ask()?.quantile(0.99);
        let flood: Load = flood.join().ok().context("the flood panicked")??;
        let cores = self.server.processor_time()?.saturating_sub(before).as_secs_f64() / flood.took.as_secs_f64();
        let refused = flood.refused as f64 / flood.latencies.len().max(1) as f64;
        Ok(Round { quiet, flooded, flood: flood.per_second(), refused, cores })
    }
}
